"""Applications over tiny models, called without a network."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.registry import Registry
from service.settings import Settings
from tests.service.http.support import Live, live, write_models

RUNNERS = 2


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of tiny models; nobody writes into it."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def client(models: Path) -> Iterator[TestClient]:
    """A client of an application with the default settings, which answers from `dense` when a request does not say."""
    with TestClient(create_app(Settings(models=models, runners=RUNNERS, prefer=("dense",)))) as client:
        yield client


@pytest.fixture
def start(models: Path) -> Iterator[Callable[..., TestClient]]:
    """Starts an application with other settings, or with a registry of fakes."""
    with ExitStack() as stack:

        def start(registry: Registry | None = None, **settings: Any) -> TestClient:
            app = create_app(Settings(**{"models": models, "runners": RUNNERS, **settings}), registry)
            return stack.enter_context(TestClient(app))

        yield start


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Live]:
    """A real server over the tiny models."""
    with live(create_app(Settings(models=models, runners=RUNNERS, prefer=("dense",)))) as server:
        yield server
