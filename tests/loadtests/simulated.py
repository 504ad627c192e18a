"""A load generator without a clock: it tells what a service with known service times, one request at a time, would have answered."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from loadtests.arrivals import Load, Spacing, arrivals
from loadtests.client import Prepared
from loadtests.load import Made
from loadtests.request_log import Row, log_of

NAN = float("nan")


class SimulatedGenerator:
    """In the place of `loadtests.load.LoadGenerator`: nothing is sent, so no machine is too busy for it."""

    def __init__(self, seconds: Mapping[str, float]) -> None:
        """Take the seconds of one request, by variant."""
        self.seconds = seconds

    def __enter__(self) -> "SimulatedGenerator":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be ended."""

    @property
    def pid(self) -> int:
        """This process."""
        return os.getpid()

    def open(self, url: str, requests: Sequence[Prepared], load: Load, *, spacing: Spacing, seed: int) -> Made:
        """A queue: each request is begun when it is due, or when the one before it is answered."""
        due = arrivals(load, spacing=spacing, seed=seed)
        service_s = self.seconds[requests[0].variant]
        done, free_s = [], 0.0
        for each in due:
            free_s = max(free_s, each) + service_s
            done.append(free_s)
        return self._made(requests, due, np.array(done), max(free_s, sum(phase.seconds for phase in load)))

    def closed(self, url: str, requests: Sequence[Prepared], *, connections: int, seconds: float) -> Made:
        """One request after another, the time of a request each."""
        service_s = self.seconds[requests[0].variant]
        done = np.arange(1, int(seconds / service_s) + 2) * service_s
        return self._made(requests, done - service_s, done, float(done[-1]))

    def _made(self, requests: Sequence[Prepared], due: np.ndarray, done: np.ndarray, seconds: float) -> Made:
        variant = requests[0].variant
        service_ms = 1e3 * self.seconds[variant]
        rows = (
            Row(begun, begun, end, 200, 10, True, number % len(requests), variant, NAN, queue_ms, 0.0, service_ms, queue_ms + service_ms)
            for number, (begun, end) in enumerate(zip(due, done, strict=True))
            for queue_ms in [1e3 * (end - begun) - service_ms]
        )
        return Made(log_of(rows), seconds, 0.0)
