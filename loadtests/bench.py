"""Loads on the subjects of a comparison: texts and golden answers from the unloaded service, the knee of each, then visits in turns.

A visit is a short closed loop, for capacity, and open loops at rates around the subject's knee.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.allotment import MOST_SECONDS, Loads, least_rate, requests_of_steps
from loadtests.arrivals import Load, steady
from loadtests.client import Client, Prepared
from loadtests.deadline import NEVER, Deadline
from loadtests.described import artifact_of, scores_of
from loadtests.errors import MeasurementError
from loadtests.load import LoadGenerator, Made
from loadtests.machine import Reading, cores_with, read, resident_bytes
from loadtests.plan import WARM_SHARE, Plan, Subject
from loadtests.queueing import rate_within
from loadtests.request_log import RequestLog
from loadtests.results import Accuracy, Artifact
from loadtests.servers import Server
from loadtests.statistics import (
    PERCENT,
    Knee,
    Objective,
    Sample,
    Step,
    find_knee,
    step_of,
)
from loadtests.texts import Task, Texts, file_texts, own_texts
from loadtests.traces import typical_seeds

OF_CAPACITY, LIGHT = 0.6, 0.1
TELLING_REQUESTS = 30

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Visit:
    """One subject in one round.

    Attributes:
        capacity: right answers per second of a closed loop.
        logs: requests of each rate, [rates].
        resident_bytes: memory of its service afterwards; None where that is not known.
    """

    capacity: float
    logs: tuple[RequestLog, ...]
    resident_bytes: int | None

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Of each rate, [rates]."""
        return tuple(map(sample_of, self.logs))


@dataclass(frozen=True)
class Met:
    """A subject before the load.

    Attributes:
        subject: what was asked for.
        artifact, scores: what the service says of it.
        requests: with golden answers.
        loaded_bytes: memory of its service; None where that is not known.
    """

    subject: Subject
    artifact: Artifact
    scores: tuple[Accuracy, ...]
    requests: Sequence[Prepared]
    loaded_bytes: int | None

    @property
    def label(self) -> str:
        """Of the subject."""
        return self.subject.label


@dataclass(frozen=True)
class Kept:
    """A load that was made.

    Attributes:
        label: of its subject.
        is_open: whether it was an open loop.
        seconds: in which its requests were due.
        made: what came of it.
    """

    label: str
    is_open: bool
    seconds: float
    made: Made


@dataclass
class Bench:
    """What measures.

    Attributes:
        plan: what is compared.
        generator: makes the load.
        servers: the service that serves each subject, by label.
        folder: for the log of every load.
        pids: processes that are ours, beside this one and those that it has started; None where that cannot be told.
        progress: is told what begins.
        deadline: after which no load is made.
        made: loads, in order.
    """

    plan: Plan
    generator: LoadGenerator
    servers: dict[str, Server]
    folder: Path
    pids: tuple[int, ...] | None
    progress: Progress
    deadline: Deadline = NEVER
    made: list[Kept] = field(default_factory=list)

    def client(self, subject: Subject) -> Client:
        """Of the service that serves a subject."""
        return Client(self.servers[subject.label].url)

    def read(self) -> Reading:
        """Processor time now."""
        pids = self.pids or ()
        return read((os.getpid(), *pids), self.cores)

    @cached_property
    def cores(self) -> tuple[int, ...]:
        """Numbers of those on which the service or the generator runs."""
        return cores_with((*(self.pids or ()), self.generator.pid, *(server.pid for server in self.servers.values() if server.pid)))

    def closed(self, met: Met, *, connections: int, seconds: float, name: str) -> float:
        """Right answers per second of a closed loop; answers that were under way at its end count, and so does their time."""
        self.deadline.check()
        url = self.servers[met.label].url
        made = self.generator.closed(url, met.requests, connections=connections, seconds=seconds)
        self._keep(Kept(met.label, is_open=False, seconds=seconds, made=made), name)
        return int(made.log.good.sum()) / made.seconds

    def open(self, met: Met, *, rate: float, seconds: float, seed: int, name: str) -> RequestLog:
        """Requests at a rate, without those at the beginning, which find a service that does nothing."""
        return self.shape(met, steady(rate, seconds), seed=seed, name=name).between(WARM_SHARE * seconds, np.inf)

    def shape(self, met: Met, load: Load, *, seed: int, name: str) -> RequestLog:
        """Requests of any open load."""
        self.deadline.check()
        made = self.generator.open(self.servers[met.label].url, met.requests, load, spacing=self.plan.spacing, seed=seed)
        seconds = sum(phase.seconds for phase in load)
        self._keep(Kept(met.label, is_open=True, seconds=seconds, made=made), name)
        return made.log

    def require_running(self, met: Met) -> None:
        """`MeasurementError` when the service of a subject was started here and has ended."""
        if (words := self.servers[met.label].ended) is not None:
            raise MeasurementError(f"the service of {met.label} ended under load: {words}")

    def _keep(self, kept: Kept, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept.made.log.save(self.folder / f"{name}.npz")
        self.made.append(kept)


def meet(bench: Bench, task: Task, subject: Subject, row: dict[str, Any], texts: Texts) -> Met:
    """A subject before the load, with its golden answers."""
    client = bench.client(subject)
    artifact = artifact_of(client, row, subject, tokens=max(texts.tokens))
    requests = client.prepare(task, texts.inputs, model=artifact.model, variant=subject.variant)
    return Met(subject, artifact, scores_of(row), requests, resident_bytes(bench.servers[subject.label].pid))


def texts_for(bench: Bench, task: Task, rows: dict[str, dict[str, Any]]) -> Texts:
    """The same ones for all subjects, which count tokens alike; the smallest of them is asked how many there are."""
    plan = bench.plan
    label = min(rows, key=lambda each: float(str(rows[each].get("size_bytes", "inf"))))
    which = {name: str(rows[label][name]) for name in ("model", "variant")}
    client, chosen = Client(bench.servers[label].url), {"texts": plan.distinct, "seed": plan.seed}
    if plan.texts is not None:
        return file_texts(task, plan.texts, count=client.counter(task, which), **chosen)
    return own_texts(task, plan.lengths or task.lengths, count=client.counter(task, which, whole=True), **chosen)


def knees_of(bench: Bench, task: Task, met: Mapping[str, Met], objective: Objective) -> dict[str, Knee]:
    """The knee of each subject, by label; `MeasurementError` where nothing is answered."""
    bench.progress(f"/{task.name}: capacity of each variant")
    capacities = {label: capacity_before(bench, task, each) for label, each in met.items()}
    plan = bench.plan
    firsts = {
        label: max(first_rate(plan, task, objective, capacity), slowest_rate(plan, objective, capacity))
        for label, capacity in capacities.items()
    }
    requests = requests_of_steps(plan, firsts, objective)
    return {
        label: knee_of(bench, task, each, objective, capacity=capacities[label], first=firsts[label], requests=requests[label])
        for label, each in met.items()
    }


def capacity_before(bench: Bench, task: Task, met: Met) -> float:
    """Right answers per second of a closed loop before the search; `MeasurementError` for none."""
    plan, name = bench.plan, f"{task.name}-{met.label}-search-closed"
    capacity = bench.closed(met, connections=plan.connections, seconds=plan.times.closed, name=name)
    if capacity == 0:
        raise MeasurementError(f"{met.label} gives no right answer to {task.path} under load")
    return capacity


def first_rate(plan: Plan, task: Task, objective: Objective, capacity: float) -> float:
    """Requests per second at which the search begins, after what a closed loop could do.

    That of a simulated queue of requests that all take as long; a share of the capacity where a model answers many together, and where
    requests come evenly.
    """
    if task.generates or plan.spacing == "fixed":
        return OF_CAPACITY * capacity
    service_s = min(plan.cores, plan.connections) / capacity
    found = rate_within(objective.slo_ms / 1e3, service_s=service_s, servers=plan.cores, percent=PERCENT)
    return found or LIGHT * capacity


def slowest_rate(plan: Plan, objective: Objective, capacity: float) -> float:
    """Requests per second below which nothing is searched, as there are too few to tell; 0 where so many would overload the service."""
    found = least_rate(plan, objective)
    return found if found < OF_CAPACITY * capacity else 0.0


def knee_of(bench: Bench, task: Task, met: Met, objective: Objective, *, capacity: float, first: float, requests: float) -> Knee:
    """The knee of one subject.

    Args:
        bench, task, met, objective: what is measured.
        capacity: right answers per second of a closed loop.
        first: rate to begin with.
        requests: of a step; one at a slow rate lasts no longer than a little more than the first, and has fewer.
    """
    bench.progress(f"/{task.name}: knee of {met.label}")
    turns = count()

    def measure(rate: float) -> Step:
        turn, seconds = next(turns), min(requests / rate, MOST_SECONDS * requests / first)
        (seed,) = typical_seeds(1, (rate * seconds,), warm=WARM_SHARE, seed=bench.plan.seed + turn)
        log = bench.open(met, rate=rate, seconds=seconds, seed=seed, name=f"{task.name}-{met.label}-search-{turn:02}")
        return step_of(rate, sample_of(log))

    least = slowest_rate(bench.plan, objective, capacity)
    knee = find_knee(measure, objective, first=first, light=LIGHT * capacity, least=least, telling=TELLING_REQUESTS)
    bench.require_running(met)
    return knee


def visit_all(
    bench: Bench, task: Task, met: Mapping[str, Met], loads: Mapping[str, Loads], *, name: str = "round"
) -> dict[str, list[Visit]]:
    """Visits of each subject, [rounds], by label. The round's seed is every subject's, so all meet the same bunches of arrivals."""
    plan, visits = bench.plan, {label: list[Visit]() for label in met}
    seeds = typical_seeds(plan.rounds, [each.requests for each in loads.values()], warm=WARM_SHARE, seed=plan.seed)
    for number, subject in in_turns(plan):
        bench.progress(f"/{task.name}: {name} {number + 1} of {plan.rounds}, {subject.label}")
        label = subject.label
        visits[label].append(visit(bench, task, met[label], loads[label], name=f"{name}-{number:02}", seed=seeds[number]))
    return visits


def in_turns(plan: Plan) -> Iterator[tuple[int, Subject]]:
    """Numbers of rounds and subjects: in one order, then in the other."""
    for number in range(plan.rounds):
        yield from ((number, subject) for subject in (plan.subjects if number % 2 == 0 else reversed(plan.subjects)))


def visit(bench: Bench, task: Task, met: Met, loads: Loads, *, name: str, seed: int) -> Visit:
    """One visit, whose logs have that name; `MeasurementError` where the service ended, or answered nothing rightly."""
    plan, prefix = bench.plan, f"{task.name}-{met.label}-{name}"
    capacity = bench.closed(met, connections=plan.connections, seconds=plan.times.closed, name=f"{prefix}-closed")
    logs = tuple(
        bench.open(met, rate=rate, seconds=loads.requests / rate, seed=seed, name=f"{prefix}-{place}")
        for place, rate in enumerate(loads.rates)
    )
    bench.require_running(met)
    if capacity == 0:
        raise MeasurementError(f"{met.label} gives no right answer to {task.path} in {name.replace('-', ' ')}")
    return Visit(capacity, logs, resident_bytes(bench.servers[met.label].pid))


def sample_of(log: RequestLog) -> Sample:
    """Latencies of the right answers, and how many requests had none."""
    return Sample(log.latency_ms[log.good], int((~log.good).sum()))
