"""The bridge between the event loop and the runners, with a scheduler that the test works by hand."""

import asyncio
import threading

import pytest

from service.answering import JobError, answer
from service.errors import DeadlineError, GoneError, OverloadedError
from service.jobs import Job, Limits
from service.scheduler import Scheduler
from tests.service.test_scheduler import FakeEngine, Numbers, lengths_of


def work_off(scheduler: Scheduler) -> None:
    """Do all there is, as a runner would."""
    while work := scheduler.take():
        scheduler.do(work)


def asked(*requests: Numbers, seconds: float = 10.0, partial: bool = False, leave: bool = False, limits: Limits | None = None) -> list[Job]:
    """What `answer` gives, with a runner in a thread of its own; with `leave`, the client hangs up before it starts."""
    scheduler, engine = Scheduler(limits or Limits()), FakeEngine(poison=13)

    async def main() -> list[Job]:
        async def gone() -> None:
            await asyncio.sleep(0 if leave else 60)

        if not leave:
            threading.Timer(0.01 if seconds > 1 else 0.3, work_off, [scheduler]).start()
        try:
            return await answer(scheduler, engine, requests, seconds=seconds, gone=gone, partial=partial)
        finally:
            assert scheduler.depth[0] == 0
            work_off(scheduler)
            assert not engine.calls or not leave

    return asyncio.run(main())


def test_answers_come_in_the_order_of_the_requests():
    """Each request's job is at its place, whoever finished first."""
    assert [lengths_of(job) for job in asked(Numbers(lengths=(5, 3)), Numbers(lengths=(2,)))] == [[5, 3], [2]]


def test_the_first_error_ends_them_all():
    """A bad request among good ones is named by its place, and nothing of the others stays behind."""
    with pytest.raises(JobError) as caught:
        asked(Numbers(lengths=(5,)), Numbers(lengths=(13,)), Numbers(lengths=(6,)))
    assert (caught.value.index, str(caught.value.error)) == (1, "poisoned")


def test_with_partial_the_good_ones_are_answered():
    """A bad request keeps its error, and the others their answers."""
    good, bad, other = asked(Numbers(lengths=(5,)), Numbers(lengths=(13,)), Numbers(lengths=(6,)), partial=True)
    assert lengths_of(good) == [5]
    assert str(bad.error) == "poisoned"
    assert lengths_of(other) == [6]


def test_time_that_is_over_ends_the_wait():
    """The client hears of it at once, not when a runner is free."""
    with pytest.raises(DeadlineError):
        asked(Numbers(lengths=(5,)), seconds=0.05)


def test_a_client_that_leaves_ends_its_work():
    """What it asked for never runs."""
    with pytest.raises(GoneError):
        asked(Numbers(lengths=(5,)), leave=True)


def test_a_refusal_takes_back_what_was_let_in():
    """A batch that does not fit is refused whole."""
    with pytest.raises(OverloadedError):
        asked(*(Numbers(lengths=(5,)) for _ in range(4)), limits=Limits(requests=2))
