"""A comparison: variants of one service, asked the same texts at the same times, in turns.

For each task: texts and golden answers from the unloaded service; the knee of each variant, once; then rounds, in which every variant is
visited, in one order and then in the other (A-B-B-A). A visit is a short closed loop, for capacity, and open loops at rates around the
variant's knee. The rate that keeps the objective is read off all rounds together (see `loadtests.statistics`).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import Load, steady
from loadtests.breakdown import EDGES_MS, histogram, split_of
from loadtests.client import Client, Prepared
from loadtests.described import accuracy_of, artifact_of, scores_of, served_row
from loadtests.errors import MeasurementError
from loadtests.gates import CAPACITY, RATE, Ratio
from loadtests.load import LoadGenerator, Made
from loadtests.machine import Conditions, Reading, conditions, read, resident_bytes
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
    """One subject in one round: what a closed loop did per second, and the requests of each rate, [rates]."""

    capacity: float
    logs: tuple[RequestLog, ...]

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
    """

    plan: Plan
    generator: LoadGenerator
    servers: dict[str, Server]
    folder: Path
    pids: tuple[int, ...] | None
    progress: Progress
    made: list[Made] = field(default_factory=list)

    def client(self, subject: Subject) -> Client:
        """Of the service that serves a subject."""
        return Client(self.servers[subject.label].url)

    def read(self) -> Reading:
        """Processor time now."""
        return read((os.getpid(), *(self.pids or ())))

    def closed(self, met: Met, *, connections: int, seconds: float, name: str) -> float:
        """Right answers per second of a closed loop; answers that were under way at its end count, and so does their time."""
        url = self.servers[met.label].url
        made = self._kept(self.generator.closed(url, met.requests, connections=connections, seconds=seconds), name)
        return int(made.log.good.sum()) / made.seconds

    def open(self, met: Met, *, rate: float, seconds: float, seed: int, name: str) -> RequestLog:
        """Requests at a rate, without those of the time in which connections are made."""
        return self.shape(met, steady(rate, seconds), seed=seed, name=name).between(self.plan.times.warm, np.inf)

    def shape(self, met: Met, load: Load, *, seed: int, name: str) -> RequestLog:
        """Requests of any open load."""
        made = self.generator.open(self.servers[met.label].url, met.requests, load, spacing=self.plan.spacing, seed=seed)
        return self._kept(made, name).log

    def _kept(self, made: Made, name: str) -> Made:
        self.folder.mkdir(parents=True, exist_ok=True)
        made.log.save(self.folder / f"{name}.npz")
        self.made.append(made)
        return made


def compare_task(bench: Bench, task: Task) -> TaskResult:
    """Everything about one task."""
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
            *wrong_answers([made.log for made in (*search, *rounds)], plan),
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
    count = Client(bench.servers[label].url).counter(task, which)
    if plan.texts is not None:
        return file_texts(task, plan.texts, count=count, texts=plan.distinct, seed=plan.seed)
    return own_texts(task, plan.lengths or task.lengths, count=count, texts=plan.distinct, seed=plan.seed)


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

    return find_knee(measure, objective, first=OF_CAPACITY * capacity)


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
    """One visit. The round's seed is every subject's, so all meet the same bunches of arrivals."""
    plan, prefix = bench.plan, f"{task.name}-{met.label}-round-{number:02}"
    capacity = bench.closed(met, connections=plan.connections, seconds=plan.times.closed, name=f"{prefix}-closed")
    ask = partial(bench.open, met, seconds=plan.times.step, seed=plan.seed + 1 + number)
    return Visit(capacity, tuple(ask(rate=rate, name=f"{prefix}-{place}") for place, rate in enumerate(rates_of(plan, knee))))


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
        memory=memory_of(met.loaded_bytes, resident_bytes(bench.servers[met.label].pid)),
    )


def point_of(share: float, rate: float, logs: Sequence[RequestLog]) -> Point:
    """One rate, all rounds together."""
    log = joined(logs)
    return Point(share, step_of(rate, sample_of(log)), histogram(log), split_of(log))


def memory_of(loaded: int | None, peak: int | None) -> Memory | None:
    """None where either is not known."""
    return None if loaded is None or peak is None else Memory(loaded, peak)


def ratios_of(plan: Plan, task: Task, knees: dict[str, Knee], visits: dict[str, list[Visit]], objective: Objective) -> Iterator[Ratio]:
    """Of each subject over the first; of rates only where both have one."""

    def rate(label: str, pick: Rounds) -> float:
        return rate_at(rates_of(plan, knees[label]), visits[label], objective, pick)

    first = plan.subjects[0].label
    for label in (subject.label for subject in plan.subjects[1:]):
        if knees[label].rate and knees[first].rate:
            yield Ratio(task.name, label, first, RATE, _ratio(plan, rate, label, first))
        yield Ratio(task.name, label, first, CAPACITY, _ratio(plan, lambda each, pick: capacity_of(visits[each], pick), label, first))


def rate_at(rates: Sequence[float], visits: Sequence[Visit], objective: Objective, pick: Rounds) -> float:
    """The rate that keeps the objective, read off the rounds of those numbers."""
    return crossing(rates, [_pooled(visits, place, pick) for place in range(len(rates))], objective)


def capacity_of(visits: Sequence[Visit], pick: Rounds) -> float:
    """Median over the rounds of those numbers."""
    return float(np.median([visits[number].capacity for number in pick]))


def conditions_of(made: Sequence[Made], before: Reading, after: Reading, *, known: bool) -> Conditions:
    """Of all loads between two readings; what others took is 0 where our own processes are not known."""
    lag = percentile(joined([each.log for each in made]).lag_ms, 99.0)
    share = sum(each.cpu_seconds for each in made) / sum(each.seconds for each in made)
    found = conditions(before, after, lag_p99_ms=lag, generator_share=share)
    return found if known else Conditions(found.lag_p99_ms, 0.0, found.stolen_share, found.generator_share)


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
    if 1e3 * plan.times.step < many * objective.slo_ms:
        yield f"loads of {plan.times.step:.1f} s are short beside an objective of {objective.slo_ms:g} ms; give more --minutes"


def notes_of(results: Iterable[SubjectResult], *, known: bool) -> Iterator[str]:
    """What a reader should know."""
    for result in results:
        if not result.rate.value:
            yield f"{result.label}: no rate keeps the objective; give a greater --slo to compare rates"
        elif not result.inside:
            yield f"{result.label}: the rate within the objective is at the end of what was visited, and may lie beyond it"
    if not known:
        yield "the service's processes are not known here, so what others took of its machine is not, either"


def _ratio(plan: Plan, value: Callable[[str, Rounds], float], label: str, first: str) -> Interval:
    return bootstrap(plan.rounds, lambda pick: value(label, pick) / value(first, pick), seed=plan.seed)


def _pooled(visits: Sequence[Visit], place: int, pick: Rounds | range) -> Sample:
    return pooled([visits[number].samples[place] for number in pick])
