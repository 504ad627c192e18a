"""The bottom layer: the raw session, with as many callers as cores and one thread each, on rows that were prepared before the clock runs.

Everything above is measured against it, so where rows may share a call it gets as many of them per call as are fastest.
"""

import itertools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.bench.texts import Load
from service.bench.visit import Span, Visit, visit_of
from service.jobs import Limits
from service.model import Model
from service.runtime.base import Array, Session
from service.runtime.machine import NICE
from service.tokenization import padded

PROBE_SECONDS = 0.3


@dataclass(frozen=True)
class Call:
    """What a caller does at a time.

    Attributes:
        feeds: inputs of the graph, run one after another.
        requests: how many requests are answered by then.
    """

    feeds: tuple[Mapping[str, Array], ...]
    requests: float


def raw_calls(load: Load, model: Model, rows_per_call: int) -> list[Call]:
    """The rows of a load, prepared. `rows_per_call` share a run of the session; a call answers at least one whole request."""
    rows = [row for group in load.requests for request in group for row in model.rows(request)]
    size = max(rows_per_call, load.texts_per_request)
    calls = []
    for first in range(0, len(rows), size):
        group = rows[first : first + size]
        parts = [group[start : start + rows_per_call] for start in range(0, len(group), rows_per_call)]
        feeds = tuple(part[0].feed() if len(part) == 1 else padded(part) for part in parts)
        calls.append(Call(feeds, requests=len(group) / load.texts_per_request))
    return calls


def fastest_calls(load: Load, model: Model, *, callers: int) -> list[Call]:
    """The calls by which the raw session does most: one row each or, where rows may share a call, as many as the service joins."""
    joined = Limits().batch_tokens // load.tokens if model.batches else 1
    choices = [raw_calls(load, model, rows) for rows in sorted({1, max(1, joined)})]
    if len(choices) == 1:
        return choices[0]
    speeds = [raw_visit(model.session, calls, callers=callers, seconds=PROBE_SECONDS).requests_per_second for calls in choices]
    return choices[speeds.index(max(speeds))]


def raw_visit(session: Session, calls: Sequence[Call], *, callers: int, seconds: float) -> Visit:
    """Keep `callers` threads in the session, for so long."""
    crew = _Crew(session, calls, callers)
    opened, shut, cpu_seconds = metered(seconds)
    return visit_of(crew.stop(), opened=opened, shut=shut, cpu_seconds=cpu_seconds)


def metered(seconds: float) -> tuple[float, float, float]:
    """Let other threads work for so long; start and end on the clock, and the processor seconds of this process in between."""
    opened, before = time.perf_counter(), time.process_time()
    time.sleep(seconds)
    after, shut = time.process_time(), time.perf_counter()
    return opened, shut, after - before


class _Crew:
    """Threads that call the session; each has called it once when this is made."""

    def __init__(self, session: Session, calls: Sequence[Call], callers: int) -> None:
        self._session, self._calls = session, calls
        self._warm = threading.Barrier(callers + 1)
        self._closing = threading.Event()
        self._spans: list[list[Span]] = [[] for _ in range(callers)]
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(callers)]
        for thread in self._threads:
            thread.start()
        self._warm.wait()

    def stop(self) -> list[Span]:
        """Let everyone end the call that is running; all calls."""
        self._closing.set()
        for thread in self._threads:
            thread.join()
        return list(itertools.chain(*self._spans))

    def _work(self, number: int) -> None:
        _be_as_nice_as_runners()
        calls = itertools.islice(itertools.cycle(self._calls), number, None)
        try:
            self._do(next(calls))
        except BaseException:
            self._warm.abort()  # or the others would wait for this one for ever
            raise
        self._warm.wait()
        while not self._closing.is_set():
            call, began = next(calls), time.perf_counter()
            self._do(call)
            self._spans[number].append((began, time.perf_counter(), call.requests))

    def _do(self, call: Call) -> None:
        for feed in call.feeds:
            self._session.run(feed)


def _be_as_nice_as_runners() -> None:
    """So that whatever else runs on the machine takes as much from the raw session as from the service (Linux)."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + NICE))
