"""A service with known service times, and a generator of load."""

from collections.abc import Iterator

import pytest

from loadtests.load import LoadGenerator
from tests.loadtests.fake import Fake


@pytest.fixture
def fake() -> Iterator[Fake]:
    """Answers in this process."""
    with Fake() as server:
        yield server


@pytest.fixture(scope="session")
def generator() -> Iterator[LoadGenerator]:
    """One for all tests: it takes a while to start."""
    with LoadGenerator() as child:
        yield child
