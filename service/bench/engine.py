"""The middle layer: scheduler, tokenizer, model and answers in this process, with the service's own runners but no HTTP."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.bench.raw import metered
from service.bench.texts import Load
from service.bench.visit import Span, Visit, visit_of
from service.errors import BenchError
from service.jobs import Job, Limits
from service.model import Model
from service.runners import Runners
from service.scheduler import Scheduler

FAR_SECONDS = 3600.0
MANY = 100_000


@contextmanager
def running_scheduler(runners: int) -> Iterator[Scheduler]:
    """A scheduler that refuses nothing, with its runners."""
    scheduler = Scheduler(Limits(requests=MANY, rows=MANY, runners=runners))
    crew = Runners(scheduler, runners, stuck_seconds=FAR_SECONDS)
    crew.start()
    try:
        yield scheduler
    finally:
        crew.stop(timeout=10.0)


def engine_visit(scheduler: Scheduler, model: Model, load: Load, *, in_flight: int, seconds: float) -> Visit:
    """Keep so many requests in the scheduler, for so long."""
    loop = _ClosedLoop(scheduler, model, load)
    loop.start(in_flight)
    opened, shut, cpu_seconds = metered(seconds)
    loop.stop()
    return visit_of(loop.spans, opened=opened, shut=shut, cpu_seconds=cpu_seconds)


class _ClosedLoop:
    """A request that is answered sends the next one, from the runner's own thread."""

    def __init__(self, scheduler: Scheduler, model: Model, load: Load) -> None:
        self.spans: list[Span] = []
        self._scheduler, self._model = scheduler, model
        self._requests = itertools.cycle(load.requests)
        self._changed = threading.Condition()
        self._running = 0
        self._open = True
        self._error: BaseException | None = None

    def start(self, in_flight: int) -> None:
        """Send the first ones; they have been answered when this returns, and others are on their way."""
        self._running = in_flight
        for _ in range(in_flight):
            self._send()
        self._wait(lambda: len(self.spans) >= in_flight)

    def stop(self) -> None:
        """Send no more, and wait for what is on its way."""
        self._open = False
        self._wait(lambda: self._running == 0)

    def _send(self) -> None:
        with self._changed:
            group = next(self._requests)
        sent, left = time.perf_counter(), itertools.count(len(group) - 1, -1)

        def done(job: Job) -> None:
            if job.error is not None:
                self._fail(job.error)
            elif next(left) == 0:
                self._answered(sent)

        for request in group:
            self._scheduler.submit(Job(self._model, request, request.characters, time.monotonic() + FAR_SECONDS, done))

    def _answered(self, sent: float) -> None:
        with self._changed:
            self.spans.append((sent, time.perf_counter(), 1.0))
            goes_on = self._open
            self._running -= not goes_on
            self._changed.notify()
        if goes_on:
            self._send()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify()

    def _wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: until() or self._error is not None)
            if self._error is not None:
                raise BenchError(f"the engine did not answer: {self._error}")
