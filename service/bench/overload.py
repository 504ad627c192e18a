"""Too much at once: three times what the service can answer, at the times of a Poisson process that waits for nobody.

Latency is counted from the moment at which a request was due, so a stall cannot hide behind a client that waits. Before it, a quiet
time says what is normal; after it, how long it takes to be normal again.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.artifact import TaskName
from service.bench.client import OK, Generator, Traffic
from service.bench.processes import resident_bytes
from service.bench.servers import Server, our_server, started
from service.bench.statistics import percentile
from service.bench.subjects import Subject, find_subjects
from service.bench.texts import Load, make_load
from service.errors import BenchError
from service.runtime.machine import core_count

CAPACITY_SECONDS = 5.0
QUIET_SECONDS = 5.0
AFTER_SECONDS = 20.0
QUIET_SHARE = 0.5
NORMAL = 1.5
BIN_SECONDS = 0.5
CONNECTIONS = 900
SHED = 503
ALLOWED = frozenset({OK, SHED, 504})
LEAST_GOODPUT = 0.9
SLOWEST_REFUSAL_MS = 10.0
SLOWEST_RECOVERY_SECONDS = 5.0
MOST_GROWTH = 1.1
PROMISED = "question-answering"

_WATCH_SECONDS = 0.2


@dataclass(frozen=True)
class OverloadedLoad:
    """What happened to one load. Latencies are counted from when a request was due.

    Attributes:
        load, task, variant: what was asked.
        capacity: requests per second that it can do.
        rate: requests per second that were asked for.
        seconds: how long.
        statuses: answers by status, those of the time after it included; 0 is a lost connection.
        goodput_share: answers with 200 per second and core that the generator left, over what it can do.
        answered_p99_ms, shed_p99_ms: of answers with 200 and with 503.
        lag_p99_ms: how late the generator itself was.
        quiet_p50_ms: before, at half of what it can do.
        recovery_seconds: after it, at the same rate, until the median over half a second is at most 1.5 times that; None is never.
        rss_start_mb, rss_peak_mb, rss_end_mb: memory of the service.
    """

    load: str
    task: TaskName
    variant: str
    capacity: float
    rate: float
    seconds: float
    statuses: dict[int, int]
    goodput_share: float
    answered_p99_ms: float
    shed_p99_ms: float
    lag_p99_ms: float
    quiet_p50_ms: float
    recovery_seconds: float | None
    rss_start_mb: float
    rss_peak_mb: float
    rss_end_mb: float

    @property
    def promises(self) -> dict[str, bool]:
        """What should hold, in words, and whether it did."""
        recovered = self.recovery_seconds is not None and self.recovery_seconds <= SLOWEST_RECOVERY_SECONDS
        return {
            "only 200, 503 and 504": set(self.statuses) <= ALLOWED,
            f"goodput at least {LEAST_GOODPUT:.0%} of what can be done": self.goodput_share >= LEAST_GOODPUT,
            f"refusals in less than {SLOWEST_REFUSAL_MS:g} ms (p99)": not self.shed_p99_ms >= SLOWEST_REFUSAL_MS,
            f"back to normal within {SLOWEST_RECOVERY_SECONDS:g} s": recovered,
            f"memory at most {MOST_GROWTH - 1:.0%} above what it was": self.rss_peak_mb <= MOST_GROWTH * self.rss_start_mb,
        }

    @property
    def passed(self) -> bool:
        """Whether the promises were kept: all of them for question answering; elsewhere the kinds of answers alone."""
        kept = list(self.promises.values())
        return all(kept) if self.task == PROMISED else kept[0]


@dataclass(frozen=True)
class Overload:
    """All loads."""

    loads: tuple[OverloadedLoad, ...]


@dataclass
class Memory:
    """Memory of a server while it is watched, in bytes."""

    samples: list[int] = field(default_factory=list)


def overload(models: Path, *, variant: str, seconds: float, factor: float, say: Callable[[str], None]) -> Overload:
    """Overload the service with each model of a folder; `say` is told what is going on."""
    results = []
    with ExitStack() as stack:
        groups = find_subjects(models, [variant], note=say)
        runtimes = {group[0].key: group[0].runtime for group in groups}
        server = stack.enter_context(started(our_server(models, variants=list(runtimes), runtimes=runtimes)))
        generator = stack.enter_context(Generator())
        server.wait()
        for (subject,) in groups:
            load = make_load(subject.model)
            say(f"{load.name}: {CAPACITY_SECONDS + QUIET_SECONDS + seconds + AFTER_SECONDS:.0f} s")
            results.append(_overloaded(generator, server, load, subject, seconds=seconds, factor=factor))
    return Overload(tuple(results))


def _overloaded(generator: Generator, server: Server, load: Load, subject: Subject, *, seconds: float, factor: float) -> OverloadedLoad:
    messages = load.messages(subject.variant)
    cores = core_count()
    busy = generator.closed(server.port, messages, connections=4 * cores, seconds=CAPACITY_SECONDS, pids=[])
    full = busy.visit(lambda index, body: True)
    if not full.requests:
        raise BenchError(f"the service answers nothing to {load.path}: {full.problem}")
    capacity, quiet_rate = full.requests_per_second, QUIET_SHARE * full.requests_per_second
    quiet = generator.open(server.port, messages, phases=[(QUIET_SECONDS, quiet_rate)], connections=CONNECTIONS)
    quiet_p50 = percentile(1e3 * (quiet.ended - quiet.intended), 50)
    phases = [(seconds, factor * capacity), (AFTER_SECONDS, quiet_rate)]
    with watched(server) as memory:
        traffic = generator.open(server.port, messages, phases=phases, connections=CONNECTIONS)
    spent = traffic.generator_seconds / (traffic.shut - traffic.opened)
    good = goodput(traffic, seconds) / (cores - spent) / (capacity / (cores - full.generator_cores))
    latencies = 1e3 * (traffic.ended - traffic.intended)
    return OverloadedLoad(
        load=load.name,
        task=load.task,
        variant=subject.label,
        capacity=capacity,
        rate=factor * capacity,
        seconds=seconds,
        statuses=dict(sorted(Counter(traffic.status.tolist()).items())),
        goodput_share=good,
        answered_p99_ms=percentile(latencies[traffic.status == OK], 99),
        shed_p99_ms=percentile(latencies[traffic.status == SHED], 99),
        lag_p99_ms=percentile(1e3 * (traffic.sent - traffic.intended), 99),
        quiet_p50_ms=quiet_p50,
        recovery_seconds=recovery(traffic, after=seconds, normal_ms=NORMAL * quiet_p50),
        rss_start_mb=memory.samples[0] / 1e6,
        rss_peak_mb=max(memory.samples) / 1e6,
        rss_end_mb=memory.samples[-1] / 1e6,
    )


def goodput(traffic: Traffic, seconds: float) -> float:
    """Answers with 200 per second, in the first `seconds`."""
    ended = traffic.ended - traffic.opened
    return float(((traffic.status == OK) & (ended <= seconds)).sum() / seconds)


def recovery(traffic: Traffic, *, after: float, normal_ms: float) -> float | None:
    """Seconds from `after` on until the median latency of a bin is normal and nothing is refused; None if it never is."""
    due = traffic.intended - traffic.opened - after
    latencies = 1e3 * (traffic.ended - traffic.intended)
    for number in range(int(AFTER_SECONDS / BIN_SECONDS)):
        inside = (due >= number * BIN_SECONDS) & (due < (number + 1) * BIN_SECONDS)
        if inside.any() and (traffic.status[inside] == OK).all() and float(np.median(latencies[inside])) <= normal_ms:
            return number * BIN_SECONDS
    return None


@contextmanager
def watched(server: Server) -> Iterator[Memory]:
    """The server's memory, looked at several times a second while the block runs, and once before and after."""
    memory, over = Memory([resident_bytes(server.pids)]), threading.Event()

    def watch() -> None:
        while not over.wait(_WATCH_SECONDS):
            memory.samples.append(resident_bytes(server.pids))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        over.set()
        thread.join()
        memory.samples.append(resident_bytes(server.pids))


def overload_lines(result: Overload) -> list[str]:
    """For people."""
    return [line for load in result.loads for line in _lines(load)]


def _lines(load: OverloadedLoad) -> list[str]:
    statuses = ", ".join(f"{status or 'lost'}: {count}" for status, count in load.statuses.items())
    recovered = "not in time" if load.recovery_seconds is None else f"after {load.recovery_seconds:g} s"
    return [
        f"{load.load}, {load.variant}: {load.rate:.0f} requests/s for {load.seconds:g} s, {load.capacity:.0f} can be done",
        f"  answers by status {statuses}",
        f"  goodput {100 * load.goodput_share:.1f} % of what can be done; p99 {load.answered_p99_ms:.1f} ms answered,"
        f" {load.shed_p99_ms:.1f} ms refused; the generator was late by {load.lag_p99_ms:.1f} ms (p99)",
        f"  back to normal {recovered} (p50 {load.quiet_p50_ms:.1f} ms before)",
        f"  memory {load.rss_start_mb:.0f} MB before, {load.rss_peak_mb:.0f} MB at most, {load.rss_end_mb:.0f} MB after",
        *(f"  {'pass' if kept else 'FAIL'}  {promise}" for promise, kept in load.promises.items()),
    ]
