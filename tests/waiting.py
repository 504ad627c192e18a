"""Waiting in tests for what threads and other processes bring about."""

import time
from collections.abc import Callable

PATIENCE = 60.0
"""Seconds after which it will not come any more, on the slowest machine there is."""


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Return when a condition holds; fail if it does not in time."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, f"it did not come about in {seconds:g} s"
        time.sleep(0.005)
