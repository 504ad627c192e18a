"""A comparison: variants of one service, asked the same texts at the same times, in turns.

For each task: texts and golden answers from the unloaded service; the knee of each variant, once; then rounds, in which every variant is
visited, in one order and then in the other (A-B-B-A). A visit is a short closed loop, for capacity, and open loops at rates around the
variant's knee. The rate that keeps the objective is read off all rounds together (see `loadtests.statistics`).
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import steady
from loadtests.client import Client, Prepared
from loadtests.errors import MeasurementError, ServiceError
from loadtests.gates import CAPACITY, RATE, Ratio
from loadtests.load import LoadGenerator, Made
from loadtests.machine import Conditions, Reading, conditions, read
from loadtests.plan import Plan, Subject
from loadtests.request_log import RequestLog, joined
from loadtests.results import SubjectResult, TaskResult
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
NONE = Interval(0.0, 0.0, 0.0)

Progress = Callable[[str], None]
Rounds = NDArray[np.int64]


@dataclass(frozen=True)
class Visit:
    """One subject in one round: what a closed loop did per second, and requests at each rate, [rates]."""

    capacity: float
    samples: tuple[Sample, ...]


@dataclass
class Bench:
    """What measures.

    Attributes:
        plan: what is compared.
        generator: makes the load.
        urls: of the service that serves each subject, by label.
        folder: for the log of every load.
        pids: processes that are ours, beside this one and those that it has started; None where that cannot be told.
        progress: is told what begins.
    """

    plan: Plan
    generator: LoadGenerator
    urls: dict[str, str]
    folder: Path
    pids: tuple[int, ...] | None
    progress: Progress
    made: list[Made] = field(default_factory=list)

    def read(self) -> Reading:
        """Processor time now."""
        return read((os.getpid(), *(self.pids or ())))

    def closed(self, subject: Subject, requests: Sequence[Prepared], *, connections: int, seconds: float, name: str) -> float:
        """Right answers per second of a closed loop; answers that were under way at its end count, and so does their time."""
        made = self._kept(self.generator.closed(self.urls[subject.label], requests, connections=connections, seconds=seconds), name)
        return int(made.log.good.sum()) / made.seconds

    def open(self, subject: Subject, requests: Sequence[Prepared], *, rate: float, seconds: float, seed: int, name: str) -> Sample:
        """Requests at a rate, without those of the time in which connections are made."""
        load = steady(rate, seconds)
        made = self.generator.open(self.urls[subject.label], requests, load, spacing=self.plan.spacing, seed=seed)
        return sample_of(self._kept(made, name).log.between(self.plan.times.warm, np.inf))

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
    served = {subject.label: served_row(Client(bench.urls[subject.label]), task, subject) for subject in plan.subjects}
    texts = texts_for(bench, task, served)
    requests = {
        each.label: Client(bench.urls[each.label]).prepare(task, texts.inputs, model=served[each.label]["model"], variant=each.variant)
        for each in plan.subjects
    }
    bench.made.clear()
    knees = {each.label: knee_of(bench, task, each, requests[each.label], objective) for each in plan.subjects}
    search, before = list(bench.made), bench.read()
    bench.made.clear()
    visits = visit_all(bench, task, requests, knees)
    rounds = list(bench.made)
    conditions = conditions_of(rounds, before, bench.read(), known=bench.pids is not None)
    logs = [made.log for made in (*search, *rounds)]
    results = {
        each.label: subject_result(plan, each, served[each.label], knees[each.label], visits[each.label], objective)
        for each in plan.subjects
    }
    return TaskResult(
        task=task.name,
        slo_ms=objective.slo_ms,
        lengths="" if plan.texts else str(plan.lengths or task.lengths),
        texts=texts.origin,
        tokens=texts.tokens,
        subjects=tuple(results.values()),
        ratios=tuple(ratios_of(plan, task, knees, visits, objective)),
        conditions=conditions,
        void=(*conditions.reasons, *wrong_answers(logs, plan)),
        notes=tuple(notes_of(results.values(), known=bench.pids is not None)),
    )


def served_row(client: Client, task: Task, subject: Subject) -> dict[str, Any]:
    """What the service says of a subject; `ServiceError` where it does not serve it."""
    rows = client.served(task)
    found = next((row for row in rows if row["variant"] == subject.variant), None)
    if found is None:
        there = ", ".join(row["variant"] for row in rows) or "none"
        raise ServiceError(f"{client.url} does not serve {subject.variant} for {task.path}; its variants are {there}")
    return found


def texts_for(bench: Bench, task: Task, served: dict[str, dict[str, Any]]) -> Texts:
    """The same ones for all subjects, which count tokens alike; the smallest of them is asked how many there are."""
    plan = bench.plan
    label = min(served, key=lambda each: float(str(served[each].get("size_bytes", "inf"))))
    which = {name: str(served[label][name]) for name in ("model", "variant")}
    count = Client(bench.urls[label]).counter(task, which)
    if plan.texts is not None:
        return file_texts(task, plan.texts, count=count, texts=plan.distinct, seed=plan.seed)
    return own_texts(task, plan.lengths or task.lengths, count=count, texts=plan.distinct, seed=plan.seed)


def knee_of(bench: Bench, task: Task, subject: Subject, requests: Sequence[Prepared], objective: Objective) -> Knee:
    """The knee of one subject; `MeasurementError` where nothing is answered."""
    bench.progress(f"/{task.name}: knee of {subject.label}")
    plan, prefix, numbers = bench.plan, f"{task.name}-{subject.label}-search", iter(range(100))
    capacity = bench.closed(subject, requests, connections=plan.connections, seconds=plan.times.knee, name=f"{prefix}-closed")
    if capacity == 0:
        raise MeasurementError(f"{subject.label} gives no right answer to {task.path} under load")

    def measure(rate: float) -> Step:
        name = f"{prefix}-{next(numbers):02}"
        return step_of(rate, bench.open(subject, requests, rate=rate, seconds=plan.times.knee, seed=plan.seed, name=name))

    return find_knee(measure, objective, first=OF_CAPACITY * capacity)


def visit_all(bench: Bench, task: Task, requests: dict[str, list[Prepared]], knees: dict[str, Knee]) -> dict[str, list[Visit]]:
    """Visits of each subject, [rounds], by label."""
    visits: dict[str, list[Visit]] = {label: [] for label in requests}
    for number, subject in in_turns(bench.plan):
        bench.progress(f"/{task.name}: round {number + 1} of {bench.plan.rounds}, {subject.label}")
        label = subject.label
        visits[label].append(visit(bench, task, subject, requests[label], knees[label], number))
    return visits


def in_turns(plan: Plan) -> Iterator[tuple[int, Subject]]:
    """Numbers of rounds and subjects: in one order, then in the other."""
    for number in range(plan.rounds):
        yield from ((number, subject) for subject in (plan.subjects if number % 2 == 0 else reversed(plan.subjects)))


def visit(bench: Bench, task: Task, subject: Subject, requests: Sequence[Prepared], knee: Knee, number: int) -> Visit:
    """One visit. The round's seed is every subject's, so all meet the same bunches of arrivals."""
    plan, prefix = bench.plan, f"{task.name}-{subject.label}-round-{number:02}"
    capacity = bench.closed(subject, requests, connections=plan.connections, seconds=plan.times.closed, name=f"{prefix}-closed")
    ask = partial(bench.open, subject, requests, seconds=plan.times.step, seed=plan.seed + 1 + number)
    return Visit(capacity, tuple(ask(rate=rate, name=f"{prefix}-{place}") for place, rate in enumerate(rates_of(plan, knee))))


def rates_of(plan: Plan, knee: Knee) -> list[float]:
    """Rates of a visit, ascending: around the knee, or, where there is none, around the lowest rate that was tried."""
    middle = knee.rate or min(step.rate for step in knee.steps)
    return [share * middle for share in plan.shares]


def sample_of(log: RequestLog) -> Sample:
    """Latencies of the right answers, and how many requests had none."""
    return Sample(log.latency_ms[log.good], int((~log.good).sum()))


def subject_result(
    plan: Plan, subject: Subject, served: dict[str, Any], knee: Knee, visits: Sequence[Visit], objective: Objective
) -> SubjectResult:
    """The figures of one subject."""
    rates, everything = rates_of(plan, knee), range(len(visits))
    rate = bootstrap(len(visits), lambda pick: rate_at(rates, visits, objective, pick), seed=plan.seed) if knee.rate else NONE
    steps = [step_of(each, _pooled(visits, place, everything)) for place, each in enumerate(rates)]
    return SubjectResult(
        label=subject.label,
        served=served,
        capacity=bootstrap(len(visits), lambda pick: capacity_of(visits, pick), seed=plan.seed),
        rate=rate,
        inside=is_inside(rates, rate.value),
        search=knee.steps,
        steps=tuple(steps),
    )


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
