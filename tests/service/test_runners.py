"""Runners do what there is, end when told, and are replaced when they hang or die."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.errors import StuckError
from service.jobs import Job, Limits
from service.runners import Problem, Runners
from service.scheduler import Scheduler
from service.tasks.base import Request, Response
from service.tokenization import Row
from tests.waiting import until

PATIENCE = 10.0


@dataclass(eq=False)
class Slow:
    """An engine whose calls wait until the test lets them go, or kill the thread that makes them."""

    batches: bool = False
    pads: bool = True
    go: threading.Event = field(default_factory=threading.Event)
    deadly: bool = False

    def rows(self, request: Request) -> list[Row]:
        """One row of one token."""
        empty = np.zeros((1, 2), dtype=np.int64)
        return [Row(input_ids=empty[:, 0], token_type_ids=empty[:, 0], offsets=empty, context_mask=empty[:, 0] > 0)]

    def run_batch(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Wait for the test."""
        if self.deadly:
            raise SystemExit
        assert self.go.wait(PATIENCE)
        return [{} for _ in rows]

    def respond(self, request: Request, rows: Sequence[Row], outputs: Sequence[Any]) -> Response:
        """Nothing to say."""
        return Response()


def submitted(scheduler: Scheduler, engine: Slow) -> tuple[Job, threading.Event]:
    """A job that was let in, and what is set when it is finished."""
    done = threading.Event()
    job = Job(engine, Request(), 1, time.monotonic() + PATIENCE, lambda _: done.set())
    scheduler.submit(job)
    return job, done


def test_what_was_let_in_is_done_before_they_end():
    """Stopping waits for the answers that were promised."""
    scheduler, engine = Scheduler(Limits()), Slow()
    runners = Runners(scheduler, 2, stuck_seconds=PATIENCE)
    runners.start()
    jobs = [submitted(scheduler, engine) for _ in range(5)]
    engine.go.set()
    assert runners.stop(PATIENCE)
    assert all(done.is_set() and job.response == Response() for job, done in jobs)


def test_the_runner_that_came_last_is_woken_first():
    """Work that comes one at a time is done by one runner, whose core is warm; when one is busy, another wakes."""
    scheduler, engine = Scheduler(Limits()), Slow()
    runners = Runners(scheduler, 3, stuck_seconds=PATIENCE)
    runners.start()
    engine.go.set()
    for _ in range(6):
        until(lambda: len(scheduler._idle._waiting) == 3)
        assert submitted(scheduler, engine)[1].wait(PATIENCE)
    assert sorted(runner.busy_seconds > 0 for runner in runners._runners) == [False, False, True]
    engine.go.clear()
    waiting = [submitted(scheduler, engine)[1] for _ in range(3)]
    until(lambda: not scheduler._idle._waiting)
    engine.go.set()
    assert all(done.wait(PATIENCE) for done in waiting)
    assert runners.stop(PATIENCE)


def test_stopping_gives_up_after_its_time():
    """A call that does not come back does not keep the process."""
    scheduler, engine = Scheduler(Limits()), Slow()
    runners = Runners(scheduler, 1, stuck_seconds=PATIENCE)
    runners.start()
    submitted(scheduler, engine)
    assert not runners.stop(0.05)
    engine.go.set()


def test_a_stuck_runner_is_replaced():
    """Its owner gets an error, the next one an answer, and the old runner ends when it comes back."""
    scheduler, stuck, fine = Scheduler(Limits()), Slow(), Slow()
    fine.go.set()
    runners = Runners(scheduler, 1, stuck_seconds=0.05)
    runners.start()
    job, done = submitted(scheduler, stuck)
    _, behind = submitted(scheduler, fine)
    problems: list[Problem] = []
    until(lambda: problems.extend(runners.check()) or problems)
    assert done.wait(PATIENCE)
    assert isinstance(job.error, StuckError)
    assert behind.wait(PATIENCE)
    stuck.go.set()
    assert runners.replaced == 1
    assert runners.stop(PATIENCE)


def test_a_healthy_runner_is_left_alone():
    """Idle runners, and busy ones within their time, are not problems."""
    scheduler, engine = Scheduler(Limits()), Slow()
    runners = Runners(scheduler, 2, stuck_seconds=PATIENCE)
    runners.start()
    submitted(scheduler, engine)
    assert runners.check() == []
    engine.go.set()
    assert runners.stop(PATIENCE)
    assert runners.busy_seconds > 0


def test_a_dead_runner_is_replaced(monkeypatch):
    """A thread that ended takes its request with it, and nothing else."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    scheduler, deadly, fine = Scheduler(Limits()), Slow(deadly=True), Slow()
    fine.go.set()
    runners = Runners(scheduler, 1, stuck_seconds=PATIENCE)
    runners.start()
    job, done = submitted(scheduler, deadly)
    until(lambda: Problem("a runner died") in runners.check())
    assert done.wait(PATIENCE)
    assert isinstance(job.error, StuckError)
    _, behind = submitted(scheduler, fine)
    assert behind.wait(PATIENCE)
    assert runners.stop(PATIENCE)
