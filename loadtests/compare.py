"""A comparison: variants of one service, asked the same texts at the same times, in turns.

For each task: texts and golden answers from the unloaded service; the knee of each variant, once; then rounds, in which every variant is
visited, in one order and then in the other (A-B-B-A). A visit is a short closed loop, for capacity, and open loops at rates around the
variant's knee. The rate that keeps the objective is read off all rounds together (see `loadtests.statistics`).
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import Load, steady
from loadtests.breakdown import EDGES_MS, histogram, split_of
from loadtests.client import Client, Prepared
from loadtests.deadline import NEVER, Deadline
from loadtests.described import accuracy_of, artifact_of, scores_of, served_row
from loadtests.errors import MeasurementError
from loadtests.gates import CAPACITY, RATE, Bound, Ratio
from loadtests.load import LoadGenerator, Made
from loadtests.machine import Conditions, Reading, conditions, cores_with, read, resident_bytes
from loadtests.plan import Plan, Subject
from loadtests.request_log import RequestLog, joined
from loadtests.results import Accuracy, Artifact, Memory, Point, SubjectResult, TaskResult
from loadtests.servers import Server
from loadtests.statistics import (
    Interval,
    Knee,
    Objective,
    Sample,
    Step,
    bootstrap,
    crossing,
    find_knee,
    is_inside,
    percentile,
    pooled,
    step_of,
)
from loadtests.texts import Task, Texts, file_texts, own_texts

OF_CAPACITY = 0.6
SHORT_LOADS, VOID_LOADS = 5.0, 1.0
NONE = Interval(0.0, 0.0, 0.0)

Progress = Callable[[str], None]
Rounds = NDArray[np.int64]


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
    """A load that was made: of which subject, by its label, and whether it was an open loop."""

    label: str
    is_open: bool
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
        self._keep(Kept(met.label, is_open=False, made=made), name)
        return int(made.log.good.sum()) / made.seconds

    def open(self, met: Met, *, rate: float, seconds: float, seed: int, name: str) -> RequestLog:
        """Requests at a rate, without those of the time in which connections are made."""
        return self.shape(met, steady(rate, seconds), seed=seed, name=name).between(self.plan.times.warm, np.inf)

    def shape(self, met: Met, load: Load, *, seed: int, name: str) -> RequestLog:
        """Requests of any open load."""
        self.deadline.check()
        made = self.generator.open(self.servers[met.label].url, met.requests, load, spacing=self.plan.spacing, seed=seed)
        self._keep(Kept(met.label, is_open=True, made=made), name)
        return made.log

    def require_running(self, met: Met) -> None:
        """`MeasurementError` when the service of a subject was started here and has ended."""
        if (words := self.servers[met.label].ended) is not None:
            raise MeasurementError(f"the service of {met.label} ended under load: {words}")

    def _keep(self, kept: Kept, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        kept.made.log.save(self.folder / f"{name}.npz")
        self.made.append(kept)


def compare_task(bench: Bench, task: Task) -> TaskResult:
    """Everything about one task; the bench's plan is of this task, see `Plan.of_task`."""
    plan = bench.plan
    objective = Objective(plan.slo_ms or task.slo_ms, plan.failures)
    bench.progress(f"/{task.name}: texts")
    rows = {each.label: served_row(bench.client(each), task, each) for each in plan.subjects}
    texts = texts_for(bench, task, rows)
    met = {each.label: meet(bench, task, each, rows[each.label], texts) for each in plan.subjects}
    bench.made.clear()
    knees = {label: knee_of(bench, task, each, objective) for label, each in met.items()}
    search, before = list(bench.made), bench.read()
    bench.made.clear()
    visits = visit_all(bench, task, met, knees)
    rounds = list(bench.made)
    conditions = conditions_of(rounds, before, bench.read(), known=bench.pids is not None)
    results = [subject_result(bench, task, each, knees[label], visits[label], objective) for label, each in met.items()]
    return TaskResult(
        task=task.name,
        slo_ms=objective.slo_ms,
        lengths="" if plan.texts else str(plan.lengths or task.lengths),
        texts=texts.origin,
        tokens=texts.tokens,
        edges_ms=EDGES_MS,
        subjects=tuple(results),
        ratios=tuple(ratios_of(plan, task, knees, visits, objective)),
        layers=(),
        sessions=(),
        factors=(),
        rooflines=(),
        conditions=conditions,
        void=(
            *conditions.reasons,
            *wrong_answers([kept.made.log for kept in (*search, *rounds)], plan),
            *too_short(plan, objective, VOID_LOADS),
        ),
        notes=(*notes_of(results, known=bench.pids is not None), *too_short(plan, objective, SHORT_LOADS)),
    )


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


def knee_of(bench: Bench, task: Task, met: Met, objective: Objective) -> Knee:
    """The knee of one subject; `MeasurementError` where nothing is answered."""
    bench.progress(f"/{task.name}: knee of {met.label}")
    plan, prefix, numbers = bench.plan, f"{task.name}-{met.label}-search", iter(range(100))
    capacity = bench.closed(met, connections=plan.connections, seconds=plan.times.knee, name=f"{prefix}-closed")
    if capacity == 0:
        raise MeasurementError(f"{met.label} gives no right answer to {task.path} under load")

    def measure(rate: float) -> Step:
        name = f"{prefix}-{next(numbers):02}"
        return step_of(rate, sample_of(bench.open(met, rate=rate, seconds=plan.times.knee, seed=plan.seed, name=name)))

    knee = find_knee(measure, objective, first=OF_CAPACITY * capacity)
    bench.require_running(met)
    return knee


def visit_all(bench: Bench, task: Task, met: dict[str, Met], knees: dict[str, Knee]) -> dict[str, list[Visit]]:
    """Visits of each subject, [rounds], by label."""
    visits: dict[str, list[Visit]] = {label: [] for label in met}
    for number, subject in in_turns(bench.plan):
        bench.progress(f"/{task.name}: round {number + 1} of {bench.plan.rounds}, {subject.label}")
        label = subject.label
        visits[label].append(visit(bench, task, met[label], knees[label], number))
    return visits


def in_turns(plan: Plan) -> Iterator[tuple[int, Subject]]:
    """Numbers of rounds and subjects: in one order, then in the other."""
    for number in range(plan.rounds):
        yield from ((number, subject) for subject in (plan.subjects if number % 2 == 0 else reversed(plan.subjects)))


def visit(bench: Bench, task: Task, met: Met, knee: Knee, number: int) -> Visit:
    """One visit. The round's seed is every subject's, so all meet the same bunches of arrivals.

    Raises:
        MeasurementError: the service ended, or answered nothing rightly.
    """
    plan, prefix = bench.plan, f"{task.name}-{met.label}-round-{number:02}"
    capacity = bench.closed(met, connections=plan.connections, seconds=plan.times.closed, name=f"{prefix}-closed")
    ask = partial(bench.open, met, seconds=plan.times.step, seed=plan.seed + 1 + number)
    logs = tuple(ask(rate=rate, name=f"{prefix}-{place}") for place, rate in enumerate(rates_of(plan, knee)))
    bench.require_running(met)
    if capacity == 0:
        raise MeasurementError(f"{met.label} gives no right answer to {task.path} in round {number + 1}")
    return Visit(capacity, logs, resident_bytes(bench.servers[met.label].pid))


def rates_of(plan: Plan, knee: Knee) -> list[float]:
    """Rates of a visit, ascending: around the knee, or, where there is none, around the lowest rate that was tried."""
    middle = knee.rate or min(step.rate for step in knee.steps)
    return [share * middle for share in plan.shares]


def sample_of(log: RequestLog) -> Sample:
    """Latencies of the right answers, and how many requests had none."""
    return Sample(log.latency_ms[log.good], int((~log.good).sum()))


def subject_result(bench: Bench, task: Task, met: Met, knee: Knee, visits: Sequence[Visit], objective: Objective) -> SubjectResult:
    """The figures of one subject."""
    plan, rates = bench.plan, rates_of(bench.plan, knee)
    rate = bootstrap(len(visits), lambda pick: rate_at(rates, visits, objective, pick), seed=plan.seed) if knee.rate else NONE
    return SubjectResult(
        label=met.label,
        artifact=met.artifact,
        accuracy=accuracy_of(task, met.scores),
        scores=met.scores,
        capacity=bootstrap(len(visits), lambda pick: capacity_of(visits, pick), seed=plan.seed),
        rate=rate,
        inside=is_inside(rates, rate.value),
        search=knee.steps,
        curve=tuple(point_of(plan.shares[place], each, [visit.logs[place] for visit in visits]) for place, each in enumerate(rates)),
        memory=memory_of(met.loaded_bytes, [visit.resident_bytes for visit in visits]),
    )


def point_of(share: float, rate: float, logs: Sequence[RequestLog]) -> Point:
    """One rate, all rounds together."""
    log = joined(logs)
    return Point(share, step_of(rate, sample_of(log)), histogram(log), split_of(log))


def memory_of(loaded: int | None, visited: Sequence[int | None]) -> Memory | None:
    """Before any load, and the most after a visit; None where either is not known."""
    known = [each for each in visited if each is not None]
    return Memory(loaded, max(known)) if loaded is not None and known else None


def ratios_of(plan: Plan, task: Task, knees: dict[str, Knee], visits: dict[str, list[Visit]], objective: Objective) -> Iterator[Ratio]:
    """Of each subject over the first; of rates only where both have one."""

    def rate(label: str, pick: Rounds) -> float:
        return rate_at(rates_of(plan, knees[label]), visits[label], objective, pick)

    first = plan.subjects[0].label
    for label in (subject.label for subject in plan.subjects[1:]):
        if knees[label].rate and knees[first].rate:
            every = np.arange(plan.rounds)
            above, below = (bound_of(rates_of(plan, knees[each]), rate(each, every)) for each in (label, first))
            yield Ratio(task.name, label, first, RATE, _ratio(plan, rate, label, first), bound_of_ratio(above, below))
        yield Ratio(task.name, label, first, CAPACITY, _ratio(plan, lambda each, pick: capacity_of(visits[each], pick), label, first))


def bound_of(rates: Sequence[float], rate: float) -> Bound:
    """What a crossing at the end of what was visited says: at the fastest rate, that it is at least so much."""
    return "" if is_inside(rates, rate) else "at least" if rate >= max(rates) else "at most"


def bound_of_ratio(above: Bound, below: Bound) -> Bound:
    """Of a quotient: what is below the line bounds it the other way round."""
    turned: Bound = {"at least": "at most", "at most": "at least"}.get(below, below)  # type: ignore[assignment]
    return above if turned in ("", above) else turned if above == "" else "about"


def rate_at(rates: Sequence[float], visits: Sequence[Visit], objective: Objective, pick: Rounds) -> float:
    """The rate that keeps the objective, read off the rounds of those numbers."""
    return crossing(rates, [_pooled(visits, place, pick) for place in range(len(rates))], objective)


def capacity_of(visits: Sequence[Visit], pick: Rounds) -> float:
    """Median over the rounds of those numbers."""
    return float(np.median([visits[number].capacity for number in pick]))


def conditions_of(kept: Sequence[Kept], before: Reading, after: Reading, *, known: bool) -> Conditions:
    """Of all loads between two readings; what others took is NaN where our own processes are not known.

    Each subject counts by itself, so that a slow one, whose load is light, does not hide what befell a fast one.
    """
    loads = defaultdict[tuple[str, bool], list[Made]](list)
    for each in kept:
        loads[each.label, each.is_open].append(each.made)
    lags = [percentile(joined([made.log for made in each]).lag_ms, 99.0) for (_, is_open), each in loads.items() if is_open]
    shares = [sum(made.cpu_seconds for made in each) / sum(made.seconds for made in each) for each in loads.values()]
    found = conditions(before, after, lag_p99_ms=max(lags, default=np.nan), generator_share=max(shares))
    return found if known else replace(found, others_share=np.nan)


def wrong_answers(logs: Sequence[RequestLog], plan: Plan) -> Iterator[str]:
    """Speed without right answers is void."""
    log = joined(logs)
    if wrong := int(log.wrong.sum()):
        yield f"{wrong} of {len(log)} answers were not those of the unloaded service"
    asked, said = {subject.variant for subject in plan.subjects}, set(log.variant[log.status == 200]) - {""}
    if said - asked:
        yield f"variants answered that were not asked: {', '.join(sorted(said - asked))}"


def too_short(plan: Plan, objective: Objective, many: float) -> Iterator[str]:
    """A load that lasts less than so many times the objective ends before what piles up is late."""
    shortest = min(plan.times.knee, plan.times.step)
    if 1e3 * shortest < many * objective.slo_ms:
        yield f"loads of {shortest:.1f} s are short beside an objective of {objective.slo_ms:g} ms; give more --minutes"


def notes_of(results: Iterable[SubjectResult], *, known: bool) -> Iterator[str]:
    """What a reader should know."""
    for result in results:
        if not result.rate.value:
            yield f"{result.label}: no rate keeps the objective; give a greater --slo to compare rates"
        elif not result.inside:
            yield f"{result.label}: the rate within the objective is at the end of what was visited, and may lie beyond it"
    if not known:
        yield "the service's own processor time cannot be told apart here, so what other processes took is not known"


def _ratio(plan: Plan, value: Callable[[str, Rounds], float], label: str, first: str) -> Interval:
    return bootstrap(plan.rounds, lambda pick: value(label, pick) / value(first, pick), seed=plan.seed)


def _pooled(visits: Sequence[Visit], place: int, pick: Rounds | range) -> Sample:
    return pooled([visits[number].samples[place] for number in pick])
