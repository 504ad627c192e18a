"""A comparison: variants of one service, asked the same texts at the same times, in turns.

For each task: texts and golden answers from the unloaded service; the knee of each variant, once; then rounds, in which every variant is
visited, in one order and then in the other (A-B-B-A). A visit is a short closed loop, for capacity, and open loops at rates around the
variant's knee. The rate that keeps the objective is read off all rounds together (see `loadtests.statistics`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from loadtests.bench import Bench, Met, Visit, knee_of, meet, rates_of, sample_of, texts_for, visit_all
from loadtests.breakdown import EDGES_MS, histogram, split_of
from loadtests.described import accuracy_of, served_row
from loadtests.gates import CAPACITY, RATE, Bound, Ratio
from loadtests.plan import Plan
from loadtests.request_log import RequestLog, joined
from loadtests.results import Memory, Point, SubjectResult, TaskResult
from loadtests.statistics import (
    Interval,
    Knee,
    Objective,
    Sample,
    bootstrap,
    crossing,
    is_inside,
    pooled,
    step_of,
)
from loadtests.texts import Task
from loadtests.validity import SHORT_LOADS, VOID_LOADS, conditions_of, notes_of, too_short, wrong_answers

NONE = Interval(0.0, 0.0, 0.0)
TURNED: dict[Bound, Bound] = {"": "", "at least": "at most", "at most": "at least", "about": "about"}

Rounds = NDArray[np.int64]


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
    turned = TURNED[below]
    return above if turned in ("", above) else turned if above == "" else "about"


def rate_at(rates: Sequence[float], visits: Sequence[Visit], objective: Objective, pick: Rounds) -> float:
    """The rate that keeps the objective, read off the rounds of those numbers."""
    return crossing(rates, [_pooled(visits, place, pick) for place in range(len(rates))], objective)


def capacity_of(visits: Sequence[Visit], pick: Rounds) -> float:
    """Median over the rounds of those numbers."""
    return float(np.median([visits[number].capacity for number in pick]))


def _ratio(plan: Plan, value: Callable[[str, Rounds], float], label: str, first: str) -> Interval:
    return bootstrap(plan.rounds, lambda pick: value(label, pick) / value(first, pick), seed=plan.seed)


def _pooled(visits: Sequence[Visit], place: int, pick: Rounds | range) -> Sample:
    return pooled([visits[number].samples[place] for number in pick])
