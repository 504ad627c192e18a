"""From the event loop to the runners and back: the requests of one HTTP call go in, and are awaited together.

The loop never waits for a lock that a runner holds while it computes, and a runner never waits for the loop: it leaves a note with
`call_soon_threadsafe` and takes the next piece of work.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from service.errors import DeadlineError, GoneError
from service.generation import Progress
from service.jobs import AnyEngine, Job
from service.scheduler import Scheduler
from service.tasks.base import Request

WATCH_AFTER_SECONDS = 0.02


async def answer(
    scheduler: Scheduler,
    engine: AnyEngine,
    requests: Sequence[Request],
    *,
    seconds: float,
    gone: Callable[[], Coroutine[Any, Any, None]],
    partial: bool = False,
    progress: Callable[[Progress], None] | None = None,
    settled: Callable[[Sequence[Job]], object] = lambda jobs: None,
) -> list[Job]:
    """The finished jobs of these requests, in order.

    The first error ends the others and is raised, as a `JobError` with its place, unless `partial`: then each job keeps its own.

    Args:
        scheduler: does the work.
        engine: answers.
        requests: of one client.
        seconds: `DeadlineError` after so long.
        gone: `GoneError` when this comes to an end. It is not begun before the wait is a long one: most answers are there sooner.
        partial: whether some may fail.
        progress: called by another thread with each token that is generated for one text.
        settled: called once with all jobs, when no more is done for them, whatever came of them.
    """
    group = _Group(len(requests), partial=partial)
    deadline = time.monotonic() + seconds
    jobs = [Job(engine, request, request.characters, deadline, group.done, progress) for request in requests]
    group.wait(seconds, gone)
    try:
        for job in jobs:
            if deadline <= time.monotonic():  # the scheduler would say that it is overloaded
                raise DeadlineError("the time allowed was over before the work was let in; allow more")
            scheduler.submit(job)
        failed = await group.finished
        if failed is not None and failed.error is not None:
            raise JobError(jobs.index(failed), failed.error)
        return jobs
    finally:
        group.settle()
        for job in jobs:
            if job.number >= 0 and not job.finished:  # what was refused is not the scheduler's to drop
                scheduler.cancel(job)
        settled(jobs)


class JobError(Exception):
    """One of several jobs failed.

    Attributes:
        index: which.
        error: why.
    """

    def __init__(self, index: int, error: BaseException) -> None:
        super().__init__(str(error))
        self.index, self.error = index, error


class _Group:
    """The jobs of one call; its future is done when all of them are, or when the first one fails."""

    def __init__(self, count: int, *, partial: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = itertools.count(count - 1, -1)  # runners count down at once: `next` is a single step of the interpreter
        self._partial = partial
        self.finished: asyncio.Future[Job | None] = self._loop.create_future()
        self.settled = False
        self._watch: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, seconds: float, gone: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Fail after so long, or when `gone` comes to an end; one timer, as most waits end before it."""
        first = min(seconds, WATCH_AFTER_SECONDS)
        self._timer = self._loop.call_later(first, self._wait_longer, seconds - first, gone)

    def settle(self) -> None:
        """The wait is over."""
        self.settled = True
        self.finished.cancel()
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()

    def done(self, job: Job) -> None:
        """Called by runners, and by the loop itself when it cancels; the loop is woken by what ends the wait alone."""
        left = next(self._left)
        failed = job.error is not None and not self._partial
        if (failed or left == 0) and not self.settled:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._end, job if failed else None)

    def fail(self, error: BaseException) -> None:
        """End the wait with this error."""
        if not self.settled and not self.finished.done():
            self.finished.set_exception(error)

    def _wait_longer(self, seconds: float, gone: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._timer = self._loop.call_later(seconds, self.fail, DeadlineError("there was no answer in the time allowed"))
        self._watch = self._loop.create_task(gone())
        self._watch.add_done_callback(lambda _: self.fail(GoneError("the client left")))

    def _end(self, failed: Job | None) -> None:
        if not self.finished.done():
            self.finished.set_result(failed)
