"""What the scheduler promises, on a clock that the test moves and an engine that the test can fail: no thread, no sleep."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import DeadlineError, GoneError, OverloadedError, RequestError, StoppedError, StuckError, TooLargeError
from service.jobs import Job, Limits
from service.scheduler import Scheduler
from service.tasks.base import Request, Response
from service.tokenization import Row


class Numbers(Request):
    """One row of each of these lengths."""

    lengths: tuple[int, ...]


class Lengths(Response):
    """Lengths of the rows that were run."""

    lengths: list[int]


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@dataclass(eq=False)
class FakeEngine:
    """Answers with the lengths of rows; rows of length `poison` cannot be run, requests that start with 0 cannot be prepared."""

    batches: bool = False
    pads: bool = True
    poison: int = -1
    calls: list[list[int]] = field(default_factory=list)
    cost: Callable[[], None] = lambda: None

    def rows(self, request: Numbers) -> list[Row]:
        """Rows of the lengths asked for."""
        if request.lengths[:1] == (0,):
            raise RequestError("nothing to do")
        return [row_of(length) for length in request.lengths]

    def run_batch(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Each row's length."""
        self.calls.append([len(row) for row in rows])
        self.cost()
        if any(len(row) == self.poison for row in rows):
            raise ValueError("poisoned")
        return [{"length": np.array([len(row)])} for row in rows]

    def respond(self, request: Numbers, rows: Sequence[Row], outputs: Sequence[dict[str, Any]]) -> Lengths:
        """All lengths."""
        return Lengths(lengths=[int(output["length"][0]) for output in outputs])


def row_of(length: int) -> Row:
    """A row of that many tokens."""
    empty = np.zeros((length, 2), dtype=np.int64)
    return Row(input_ids=empty[:, 0], token_type_ids=empty[:, 0], offsets=empty, context_mask=empty[:, 0] > 0)


@dataclass
class Desk:
    """A scheduler with an engine, and what came of the jobs."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=Clock)
    done: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits, clock=self.clock)

    def submit(self, *lengths: int, deadline: float = 1e9, characters: int = 10, engine: FakeEngine | None = None) -> Job:
        """Let a job in."""
        job = Job(engine or self.engine, Numbers(lengths=lengths), characters, deadline, self.done.append)
        self.scheduler.submit(job)
        return job

    def step(self) -> bool:
        """Do one piece of work; whether there was any."""
        work = self.scheduler.take()
        if work is None:
            return False
        self.scheduler.do(work)
        return True

    def drain(self) -> None:
        """Do all there is."""
        while self.step():
            pass


def lengths_of(job: Job) -> list[int]:
    """What a job was answered."""
    assert isinstance(job.response, Lengths), job.error
    return job.response.lengths


def test_every_row_of_a_request_is_answered_in_its_order():
    """A request of several rows gets the outputs of all of them, in order, and is answered once."""
    desk = Desk()
    job = desk.submit(5, 3, 9)
    desk.drain()
    assert lengths_of(job) == [5, 3, 9]
    assert desk.done == [job]
    assert desk.scheduler.depth == (0, 0, 0)


def test_the_oldest_is_done_first():
    """Rows run in the order in which their requests came, one per call where rows may not share one."""
    desk = Desk()
    jobs = [desk.submit(length) for length in (7, 2, 4)]
    desk.drain()
    assert desk.engine.calls == [[7], [2], [4]]
    assert desk.done == jobs


def test_age_counts_across_models():
    """Two models take turns by age, not by model."""
    desk, other = Desk(), FakeEngine()
    desk.submit(1, 1)
    desk.submit(2, engine=other)
    desk.submit(3)
    desk.drain()
    assert [job.request.lengths[0] for job in desk.done] == [1, 2, 3]


def test_rows_of_like_length_share_a_call_within_the_budget():
    """Neighbours within a quarter of the oldest row's length join it, up to the padded tokens that a call may have."""
    desk = Desk(engine=FakeEngine(batches=True), limits=Limits(batch_tokens=32))
    jobs = [desk.submit(length) for length in (8, 10, 9, 100, 30, 8)]
    desk.drain()
    assert desk.engine.calls == [[8, 10, 9], [100], [30], [8]]
    assert [lengths_of(job) for job in jobs] == [[8], [10], [9], [100], [30], [8]]


def test_rows_of_one_length_share_a_call_where_none_may_be_padded():
    """Where padding would change an answer, only rows as long as the oldest join it."""
    desk = Desk(engine=FakeEngine(batches=True, pads=False), limits=Limits(batch_tokens=64))
    jobs = [desk.submit(length) for length in (8, 9, 8, 10, 9, 8)]
    desk.drain()
    assert desk.engine.calls == [[8, 8, 8], [9, 9], [10]]
    assert [lengths_of(job) for job in jobs] == [[8], [9], [8], [10], [9], [8]]


def test_rows_are_shared_out_among_idle_runners():
    """A call takes no more than its runner's share: half of eight rows where two are idle, all that is left where one is."""
    desk = Desk(engine=FakeEngine(batches=True), limits=Limits(batch_tokens=256, runners=2))
    for _ in range(8):
        desk.submit(10)
    while isinstance(work := desk.scheduler.take(), Job):
        desk.scheduler.do(work)
    first, second = work, desk.scheduler.take()
    assert first is not None
    assert isinstance(second, list)
    assert (len(first), len(second)) == (4, 4)
    desk.scheduler.do(first)
    desk.scheduler.fail(second, StuckError("gone"))
    for _ in range(4):
        desk.submit(10)
    desk.drain()
    assert [len(call) for call in desk.engine.calls] == [4, 2, 1, 1]


def test_a_bad_row_fails_only_its_owner():
    """When a shared call fails, its rows run again alone; only the one that fails then is an error."""
    desk = Desk(engine=FakeEngine(batches=True, poison=9), limits=Limits(batch_tokens=64))
    good, bad, also_good = (desk.submit(length) for length in (8, 9, 10))
    desk.drain()
    assert (lengths_of(good), lengths_of(also_good)) == ([8], [10])
    assert isinstance(bad.error, ValueError)


def test_a_request_that_cannot_be_prepared_fails_alone():
    """An error while tokenising is the request's own."""
    desk = Desk()
    bad, empty, good = desk.submit(0), desk.submit(), desk.submit(4)
    desk.drain()
    assert isinstance(bad.error, RequestError)
    assert isinstance(empty.error, RequestError)
    assert lengths_of(good) == [4]


def test_expired_work_never_reaches_the_session():
    """What is too late when its turn comes is dropped: before it is prepared, and before it is run."""
    desk = Desk()
    unprepared, prepared = desk.submit(3, deadline=1.0), desk.submit(4, deadline=3.0)
    desk.clock.now = 2.0
    desk.step()
    desk.clock.now = 4.0
    desk.drain()
    assert isinstance(unprepared.error, DeadlineError)
    assert isinstance(prepared.error, DeadlineError)
    assert desk.engine.calls == []
    assert desk.scheduler.depth == (0, 0, 0)


def test_work_of_a_client_that_left_is_dropped():
    """A cancelled job's rows are not run, its place is free at once, and others are answered as ever."""
    desk = Desk()
    gone, stays = desk.submit(3, 3, 3), desk.submit(4)
    desk.step()
    desk.step()
    desk.scheduler.cancel(gone)
    desk.drain()
    assert isinstance(gone.error, GoneError)
    assert desk.engine.calls == [[3], [4]]
    assert lengths_of(stays) == [4]
    assert desk.scheduler.depth == (0, 0, 0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [(Limits(requests=2), "2 requests are waiting"), (Limits(characters=25), "20 characters are waiting")],
)
def test_too_much_is_refused_on_arrival(limits, message):
    """Requests and characters are bounded before anything is tokenised; what was let in is answered."""
    desk = Desk(limits=limits)
    jobs = [desk.submit(1), desk.submit(2)]
    with pytest.raises(OverloadedError, match=message):
        desk.submit(3)
    if limits.requests == len(jobs):
        with pytest.raises(OverloadedError, match=message):  # whatever it is, before it is known
            desk.scheduler.check(60.0)
    desk.drain()
    desk.scheduler.check(60.0)
    assert [lengths_of(job) for job in jobs] == [[1], [2]]
    desk.submit(4)


@pytest.mark.parametrize("limits", [Limits(rows=3), Limits(tokens=30)])
def test_too_many_rows_are_refused_once_they_are_known(limits):
    """Rows and tokens are bounded after tokenising; the request that goes beyond is refused, not an older one."""
    desk = Desk(limits=limits)
    first, second = desk.submit(10, 10), desk.submit(10, 10)
    works = [desk.scheduler.take(), desk.scheduler.take()]
    for work in works:
        assert work is not None
        desk.scheduler.do(work)
    desk.drain()
    assert lengths_of(first) == [10, 10]
    assert isinstance(second.error, OverloadedError)


def test_what_was_let_in_is_finished_after_closing():
    """Closing refuses what is new and loses nothing that was let in."""
    desk = Desk()
    job = desk.submit(3)
    desk.scheduler.close()
    with pytest.raises(StoppedError):
        desk.submit(4)
    while work := desk.scheduler.take(wait=True):
        desk.scheduler.do(work)
    assert lengths_of(job) == [3]


def test_times_are_those_of_the_clock():
    """Time in the queue is what passed before preparing and before the first row ran."""
    desk = Desk()
    job = desk.submit(3)
    desk.clock.now = 2.0
    desk.step()
    desk.clock.now = 5.0
    desk.step()
    assert (job.queue_seconds, job.tokenize_seconds, job.inference_seconds) == (5.0, 0.0, 0.0)


@given(st.data())
def test_whatever_happens_every_job_ends_once_and_rightly(data):
    """Under any order of arriving, leaving, expiring and running: one outcome each, the right answer, and nothing left behind."""
    desk = Desk(
        engine=FakeEngine(batches=data.draw(st.booleans()), poison=7), limits=Limits(requests=6, rows=8, tokens=60, batch_tokens=24)
    )
    jobs: list[Job] = []
    held: list[Any] = []
    for _ in range(data.draw(st.integers(1, 30))):
        match data.draw(st.sampled_from(["submit", "take", "do", "cancel", "time"])):
            case "submit":
                lengths = data.draw(st.lists(st.integers(0, 12), max_size=4))
                try:
                    jobs.append(desk.submit(*lengths, deadline=desk.clock.now + data.draw(st.integers(1, 5))))
                except OverloadedError:
                    assert desk.scheduler.depth[0] == 6
            case "take" if (work := desk.scheduler.take()) is not None:
                held.append(work)
            case "do" if held:
                desk.scheduler.do(held.pop(data.draw(st.integers(0, len(held) - 1))))
            case "cancel" if jobs:
                desk.scheduler.cancel(data.draw(st.sampled_from(jobs)))
            case "time":
                desk.clock.now += 1
    for work in held:
        desk.scheduler.do(work)
    desk.drain()
    assert sorted(map(id, desk.done)) == sorted(map(id, jobs))
    assert desk.scheduler.depth == (0, 0, 0)
    for job in jobs:
        assert (job.response is None) != (job.error is None)
        assert job.response is None or lengths_of(job) == list(job.request.lengths)


def test_a_wait_that_would_be_too_long_is_foreseen():
    """From what answers took, a request that would wait longer than allowed is refused at once, and told when to come back."""
    desk = Desk(limits=Limits(wait_seconds=2.5))
    desk.engine.cost = lambda: setattr(desk.clock, "now", desk.clock.now + 1.0)
    desk.submit(5)
    desk.drain()
    for _ in range(3):
        desk.submit(5)
    with pytest.raises(OverloadedError, match=r"about 3\.0 s") as caught:
        desk.submit(5)
    assert caught.value.retry_after == pytest.approx(3.0)
    desk.step()
    desk.step()
    assert desk.submit(5).number > 0


def test_rows_that_share_a_call_share_its_time_in_the_forecast():
    """Four texts in one call of a second are a quarter of a second each, so five more are no long wait."""
    desk = Desk(engine=FakeEngine(batches=True), limits=Limits(wait_seconds=1.5))
    desk.engine.cost = lambda: setattr(desk.clock, "now", desk.clock.now + 1.0)
    for _ in range(4):
        desk.submit(8)
    desk.drain()
    assert len(desk.engine.calls) == 1
    for _ in range(5):
        desk.submit(8)


def test_a_deadline_that_cannot_be_met_is_foreseen():
    """A request that would still wait at its deadline is refused when it comes, not when it is too late."""
    desk = Desk()
    desk.engine.cost = lambda: setattr(desk.clock, "now", desk.clock.now + 1.0)
    desk.submit(5)
    desk.drain()
    desk.submit(5)
    with pytest.raises(OverloadedError):
        desk.submit(5, deadline=desk.clock.now + 0.5)
    desk.submit(5, deadline=desk.clock.now + 1.5)


def test_a_request_of_too_many_rows_or_tokens_is_refused():
    """What one request may take is limited after it is tokenised, and others are not touched."""
    desk = Desk(limits=Limits(request_rows=2, request_tokens=10))
    too_many, too_long, fine = desk.submit(1, 1, 1), desk.submit(6, 6), desk.submit(5, 5)
    desk.drain()
    assert isinstance(too_many.error, TooLargeError)
    assert isinstance(too_long.error, TooLargeError)
    assert lengths_of(fine) == [5, 5]


def test_work_that_is_given_up_fails_its_owners_only():
    """Rows that a runner took with it end their requests; the next one is answered."""
    desk = Desk(engine=FakeEngine(batches=True))
    lost, behind = desk.submit(5), desk.submit(100)
    desk.step()
    desk.step()
    work = desk.scheduler.take()
    desk.scheduler.fail(work, StuckError("gone"))
    desk.drain()
    assert isinstance(lost.error, StuckError)
    assert lengths_of(behind) == [100]
    assert desk.scheduler.depth == (0, 0, 0)


def test_calls_are_told():
    """Each call of a model is counted with its rows and padded tokens."""
    calls: list[tuple[int, int]] = []
    desk = Desk(engine=FakeEngine(batches=True))
    desk.scheduler = Scheduler(Limits(), called=lambda engine, rows, tokens: calls.append((rows, tokens)))
    desk.submit(8, 10, 9)
    desk.drain()
    assert calls == [(3, 30)]
