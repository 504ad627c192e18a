"""How long a new request is likely to wait, from what answers have taken of late."""

import weakref
from collections.abc import Iterable

from service.generation import Decoder
from service.jobs import AnyEngine, Job, generates

FIXED_CHARACTERS = 50
LEARNING_RATE = 0.05


class Forecast:
    """What the jobs that are open will take. Its methods are called by who holds the scheduler's lock."""

    def __init__(self, runners: int) -> None:
        """Know nothing of any engine yet.

        Args:
            runners: how many run the rows of models that do not generate.
        """
        self._runners = runners
        self._pace: weakref.WeakKeyDictionary[AnyEngine, float] = weakref.WeakKeyDictionary()
        self._calls, self._expected_seconds = 0, 0.0  # jobs whose rows the runners run, and what they will take

    def begin(self, job: Job) -> None:
        """A job was let in."""
        job.expected_seconds = self._pace.get(job.engine, 0.0) * _size(job)
        if not generates(job.engine):
            self._calls += 1
            self._expected_seconds += job.expected_seconds

    def end(self, job: Job) -> None:
        """A job is finished; one that was answered says how long its engine takes for one of its size, as a moving average."""
        if not generates(job.engine):
            self._calls -= 1
            self._expected_seconds -= job.expected_seconds
        if job.response is not None:
            pace = (job.tokenize_seconds + job.own_seconds) / _size(job)
            known = self._pace.get(job.engine, pace)
            self._pace[job.engine] = known + LEARNING_RATE * (pace - known)

    def wait_for_runners(self) -> float:
        """Seconds until a runner has done what is there."""
        return self._expected_seconds / self._runners if self._calls else 0.0


def wait_for_decoder(decoder: Decoder, jobs: Iterable[Job]) -> float:
    """Seconds until a decoder has room for one more, behind those of its jobs that wait for it."""
    waiting = [job for job in jobs if _waits(job)]
    if not waiting:
        return 0.0
    known = [generation for job in waiting for generation in job.generations]
    shortage = decoder.shortage(known, unknown=sum(not job.generations for job in waiting))
    return shortage * sum(job.expected_seconds for job in waiting)


def _size(job: Job) -> int:
    """Its characters, and some for what any job costs; that of generation hardly depends on them."""
    return 1 if generates(job.engine) else job.characters + FIXED_CHARACTERS


def _waits(job: Job) -> bool:
    return not job.rounds and all(generation.joined_at is None for generation in job.generations)
