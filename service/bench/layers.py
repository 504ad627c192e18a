"""The cells of one load: who answers it, from the raw session up to HTTP, and beside it the peers. Each knows how to be visited."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.bench.client import Generator, Judge
from service.bench.engine import engine_visit
from service.bench.peers import PATH, Running
from service.bench.raw import fastest_calls, raw_calls, raw_visit
from service.bench.servers import Server, awake
from service.bench.subjects import Subject
from service.bench.texts import Load, answers_in, same, same_words
from service.bench.visit import Cell, Visit
from service.scheduler import Scheduler

RAW, ENGINE, HTTP = "raw", "engine", "http"
RAW_ONE, HTTP_ONE = "raw, 1 caller", "http, 1 client"
MOST_TEXTS_IN_FLIGHT = 448

Wanted = Sequence[Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class Bench:
    """What all visits share.

    Attributes:
        cores: of the machine; raw callers and runners.
        generator: sends over HTTP.
        ours: the service.
        scheduler: with its runners, in this process.
    """

    cores: int
    generator: Generator
    ours: Server
    scheduler: Scheduler

    def in_flight(self, load: Load) -> int:
        """Requests that are kept waiting, in every layer: enough for no runner to wait, few enough for no queue to refuse one."""
        return max(1, min(4 * self.cores, MOST_TEXTS_IN_FLIGHT // load.texts_per_request))


def our_cells(bench: Bench, load: Load, subject: Subject, wanted: Wanted) -> list[Cell]:
    """The layers of the service; for loads of one text also each end of them with one client.

    Args:
        bench: what all visits share.
        load: what is asked.
        subject: of whom.
        wanted: the expected answers, as `service.bench.texts.expected` gives them.
    """
    model, cores, in_flight = subject.model, bench.cores, bench.in_flight(load)
    calls, single = fastest_calls(load, model, callers=cores), raw_calls(load, model, 1)
    messages, judge = load.messages(subject.variant), judge_of(wanted, same)
    visits: dict[str, Callable[[float], Visit]] = {
        RAW: lambda seconds: raw_visit(model.session, calls, callers=cores, seconds=seconds),
        ENGINE: lambda seconds: engine_visit(bench.scheduler, model, load, in_flight=in_flight, seconds=seconds),
        HTTP: http_visit(bench.generator, bench.ours, messages, judge, connections=in_flight),
    }
    if load.texts_per_request == 1:
        visits[RAW_ONE] = lambda seconds: raw_visit(model.session, single, callers=1, seconds=seconds)
        visits[HTTP_ONE] = http_visit(bench.generator, bench.ours, messages, judge, connections=1)
    return [Cell(load.name, subject.label, layer, visit) for layer, visit in visits.items()]


def peer_cell(bench: Bench, load: Load, running: Running, wanted: Wanted) -> Cell:
    """A peer with the same requests; of its answers only the words or the label are compared."""
    judge = judge_of(wanted, same_words)
    visit = http_visit(bench.generator, running.server, load.messages(None, PATH), judge, connections=bench.in_flight(load))
    return Cell(load.name, running.subject.label, running.layer, visit)


def http_visit(
    generator: Generator, server: Server, messages: Sequence[tuple[str, str]], judge: Judge, *, connections: int
) -> Callable[[float], Visit]:
    """How to visit a server: wake it, keep so many connections busy, and let it sleep again."""

    def visit(seconds: float) -> Visit:
        with awake(server):
            traffic = generator.closed(server.port, messages, connections=connections, seconds=seconds, pids=server.pids)
        return traffic.visit(judge)

    return visit


def judge_of(wanted: Wanted, alike: Callable[[object, dict[str, Any]], bool]) -> Judge:
    """Whether a body answers the request of that index as expected: one answer for each text, each alike."""

    def judge(index: int, body: str) -> bool:
        try:
            found = answers_in(json.loads(body))
        except ValueError:
            return False
        return len(found) == len(wanted[index]) and all(map(alike, found, wanted[index]))

    return judge
