"""How load is made, with Locust's client and gevent: an open loop, which waits for nobody, and a closed one, which always waits.

*Open*: each request has a greenlet of its own that is begun when it is due, whatever became of the others; latency counts from then
(what Gil Tene calls coordinated omission cannot happen). *Closed*: so many connections, each of which asks again as soon as it is
answered; this finds what the service can do, and says nothing about latency.
"""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count

import gevent
from gevent.pool import Group

from loadtests.answers import Judge
from loadtests.arrivals import FloatArray
from loadtests.client import Prepared
from loadtests.request_log import LOST, RequestLog, Row, log_of
from loadtests.users import TIMEOUT_SECONDS, ServiceUser

GRACE_SECONDS = 5.0

Asked = tuple[Prepared, Judge]


def with_judges(prepared: Sequence[Prepared]) -> list[Asked]:
    """Each request with the judge of its answers."""
    return [(each, Judge(each.golden)) for each in prepared]


def open_loop(user: ServiceUser, asked: Sequence[Asked], times: FloatArray) -> RequestLog:
    """Send a request at each of the times, [requests] in seconds from now; the requests take turns.

    Returns:
        the log, with times from the same start. A request that is not back within the client's time limit is lost.
    """
    rows: list[Row] = []

    def ask(text: int, due: float) -> None:
        rows.append(user.ask(*asked[text], text=text, intended_s=due))

    with _uninterrupted():
        start, group = time.perf_counter(), Group()
        for turn, due in enumerate(times):
            gevent.sleep(max(0.0, start + due - time.perf_counter()))
            group.spawn(ask, turn % len(asked), start + due)
        group.join(timeout=TIMEOUT_SECONDS + GRACE_SECONDS)
        group.kill()
    return _from_start(start, [*rows, *_lost(rows, start + times, len(asked))])


def closed_loop(user: ServiceUser, asked: Sequence[Asked], *, connections: int, seconds: float) -> RequestLog:
    """Keep so many connections busy for so long; one that is refused waits as it is told to."""
    rows: list[Row] = []
    turns = count()

    def ask(until: float) -> None:
        while time.perf_counter() < until:
            text = next(turns) % len(asked)
            rows.append(row := user.ask(*asked[text], text=text))
            if row.retry_after_s > 0:
                gevent.sleep(min(row.retry_after_s, max(0.0, until - time.perf_counter())))

    with _uninterrupted():
        start, group = time.perf_counter(), Group()
        for _ in range(connections):
            group.spawn(ask, start + seconds)
        group.join()
    return _from_start(start, rows)


def _lost(rows: Sequence[Row], due: FloatArray, texts: int) -> Iterator[Row]:
    """A row for each request that never came back."""
    back, now, unknown = {row.intended_s for row in rows}, time.perf_counter(), (float("nan"),) * 5
    yield from (Row(at, at, now, LOST, 0, False, turn % texts, "", *unknown) for turn, at in enumerate(due) if at not in back)


def _from_start(start: float, rows: Sequence[Row]) -> RequestLog:
    """Times from the start of the load."""
    names = ("intended_s", "sent_s", "done_s")
    return log_of(row._replace(**{name: getattr(row, name) - start for name in names}) for row in rows)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """No collection of garbage meanwhile: it would make requests late."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
