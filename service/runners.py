"""The threads that do the scheduler's work, at a lower priority than the event loop, and the watch over them.

ONNX Runtime lets go of the interpreter's lock while it computes, so as many runners as cores keep the machine busy. A runner that
hangs or dies takes one request with it, not the service: `Runners.check` gives its work back with an error and starts another one.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from service.errors import StuckError
from service.generation import Decoder
from service.jobs import Work
from service.runtime.machine import lower_priority
from service.scheduler import Scheduler

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What was wrong with a thread.

    Attributes:
        text: a few words.
        decoder: whose thread it was; none of a runner.
    """

    text: str
    decoder: Decoder | None = None


class _Runner(threading.Thread):
    """Takes work and does it until there will be no more, or until it is told that another one took its place."""

    def __init__(self, scheduler: Scheduler, clock: Callable[[], float]) -> None:
        super().__init__(name="runner", daemon=True)
        self.retired = False
        self.current: tuple[float, Work] | None = None
        self.busy_seconds = 0.0
        self._scheduler, self._clock = scheduler, clock

    def run(self) -> None:
        """The thread's life."""
        lower_priority()
        while not self.retired:
            work = self._scheduler.take(wait=True)
            if work is None:
                return
            started = self._clock()
            self.current = started, work
            self._scheduler.do(work)
            self.current = work = None  # who waits for the next piece keeps nothing of the last one: its model may be gone by then
            self.busy_seconds += self._clock() - started


class Runners:
    """A fixed number of runners."""

    def __init__(self, scheduler: Scheduler, count: int, *, stuck_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Make them; `start` starts them.

        Args:
            scheduler: whose work they do.
            count: how many; as many as cores.
            stuck_seconds: a piece of work that takes longer will not come back.
            clock: seconds.
        """
        self.replaced = 0
        self._scheduler, self._stuck_seconds, self._clock = scheduler, stuck_seconds, clock
        self._runners = [_Runner(scheduler, clock) for _ in range(count)]

    def __len__(self) -> int:
        return len(self._runners)

    @property
    def busy_seconds(self) -> float:
        """Time spent on finished work, of all runners together."""
        return sum(runner.busy_seconds for runner in self._runners)

    def start(self) -> None:
        """Start all."""
        for runner in self._runners:
            runner.start()

    def check(self) -> list[Problem]:
        """Replace runners and decoders that are stuck or dead, and say what was wrong with them."""
        problems = list[Problem]()
        for index, runner in enumerate(self._runners):
            problem = self._problem(runner)
            if problem:
                _log.error("a runner %s and is replaced", problem)
                problems.append(Problem(f"a runner {problem}"))
                self._replace(index)
        decoders = [decoder for _, decoder in self._scheduler.decoders()]
        stuck = [(decoder, decoder.check(self._stuck_seconds)) for decoder in decoders]
        return problems + [Problem(f"a decoder {problem}", decoder) for decoder, problem in stuck if problem]

    def stop(self, timeout: float) -> bool:
        """Let nothing more in and wait until what was let in is done, at most `timeout` seconds; whether it was."""
        self._scheduler.close()
        until = time.monotonic() + timeout
        for runner in self._runners:
            runner.join(max(0.0, until - time.monotonic()))
        return not any(runner.is_alive() for runner in self._runners)

    def _problem(self, runner: _Runner) -> str | None:
        current = runner.current
        if current is not None and self._clock() - current[0] > self._stuck_seconds:
            return f"has been at one piece of work for {self._stuck_seconds:g} s"
        if not runner.is_alive() and self._scheduler.is_open:
            return "died"
        return None

    def _replace(self, index: int) -> None:
        old = self._runners[index]
        old.retired = True
        if old.current is not None:
            self._scheduler.fail(old.current[1], StuckError("the work did not come back; try again"))
        self._runners[index] = _Runner(self._scheduler, self._clock)
        self._runners[index].busy_seconds = old.busy_seconds
        self._runners[index].start()
        self.replaced += 1
