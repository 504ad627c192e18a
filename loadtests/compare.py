"""A comparison: variants of one service, asked the same texts at the same times, in turns.

For each task: texts and golden answers from the unloaded service; the knee of each variant, once; then rounds, in which every variant is
visited, in one order and then in the other (A-B-B-A). A visit is a short closed loop, for capacity, and open loops at rates around the
variant's knee. The rate that keeps the objective is read off all rounds together (see `loadtests.replay` and `loadtests.statistics`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from loadtests.allotment import Loads, loads_of
from loadtests.bench import Bench, Met, Visit, knees_of, meet, sample_of, texts_for, visit_all
from loadtests.breakdown import EDGES_MS, histogram, split_of
from loadtests.described import accuracy_of, served_row
from loadtests.gates import CAPACITY, RATE, Bound, Ratio
from loadtests.plan import AIMED_SHARES, LEAST_ROUNDS, Plan
from loadtests.replay import Replay, replayed
from loadtests.request_log import RequestLog, joined
from loadtests.results import Memory, Point, SubjectResult, TaskResult
from loadtests.statistics import (
    Interval,
    Knee,
    Objective,
    bootstrap,
    crossing,
    is_inside,
    pooled,
    step_of,
)
from loadtests.texts import Task
from loadtests.validity import (
    FEW_REQUESTS,
    SHORT_LOADS,
    VOID_LOADS,
    VOID_REQUESTS,
    conditions_of,
    disturbed_search,
    notes_of,
    too_few,
    too_short,
    unsteady,
    wrong_answers,
)

NONE = Interval(0.0, 0.0, 0.0)
TURNED: dict[Bound, Bound] = {"": "", "at least": "at most", "at most": "at least", "about": "about"}

Rounds = NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """What was measured of one subject.

    Attributes:
        knee: of its search.
        loads: of its visits.
        visits: of each round, [rounds].
        objective: what is to be kept.
        servers: requests that the service may answer at the same time, if it answers each alone; 0 where it does not.
    """

    knee: Knee
    loads: Loads
    visits: Sequence[Visit]
    objective: Objective
    servers: int = 0

    @cached_property
    def replay(self) -> Replay | None:
        """Its queue; None where it is not like one."""
        if not self.servers:
            return None
        return replayed(self.loads.rates, [visit.logs for visit in self.visits], servers=self.servers, objective=self.objective)


def compare_task(bench: Bench, task: Task) -> TaskResult:
    """Everything about one task; the bench's plan is of this task, see `Plan.of_task`."""
    plan = bench.plan
    objective = Objective(plan.slo_ms or task.slo_ms, plan.failures)
    bench.progress(f"/{task.name}: texts")
    rows = {each.label: served_row(bench.client(each), task, each) for each in plan.subjects}
    texts = texts_for(bench, task, rows)
    met = {each.label: meet(bench, task, each, rows[each.label], texts) for each in plan.subjects}
    bench.made.clear()
    began, at_first, known = time.monotonic(), bench.read(), bench.pids is not None
    knees = knees_of(bench, task, met, objective)
    if task.generates and plan.rounds > LEAST_ROUNDS:
        knees = aimed(bench, task, met, knees, objective, until=began + plan.times.search + plan.times.visits)
        plan = bench.plan = replace(plan, rounds=plan.rounds - 1, shares=AIMED_SHARES)
    search, before = list(bench.made), bench.read()
    bench.made.clear()
    loads = loads_of(plan, knees, objective, seconds=began + plan.times.search + plan.times.visits - time.monotonic())
    visits = visit_all(bench, task, met, loads)
    rounds = list(bench.made)
    conditions_search = conditions_of(search, at_first, before, known=known)
    conditions = conditions_of(rounds, before, bench.read(), known=known)
    servers = 0 if task.generates else plan.cores
    found = {label: Found(knees[label], loads[label], visits[label], objective, servers) for label in met}
    results = [subject_result(plan, task, each, found[label]) for label, each in met.items()]
    changed = list(unsteady({label: [visit.capacity for visit in each] for label, each in visits.items()}))
    return TaskResult(
        task=task.name,
        slo_ms=objective.slo_ms,
        lengths="" if plan.texts else str(plan.lengths or task.lengths),
        texts=texts.origin,
        tokens=texts.tokens,
        edges_ms=EDGES_MS,
        subjects=tuple(results),
        ratios=tuple(ratios_of(plan, task, found)),
        layers=(),
        sessions=(),
        factors=(),
        rooflines=(),
        conditions=conditions,
        conditions_search=conditions_search,
        void=(
            *conditions.reasons,
            *disturbed_search(conditions_search, results, is_void=True),
            *wrong_answers([kept.made.log for kept in (*search, *rounds)], plan),
            *too_short([*search, *rounds], objective, VOID_LOADS),
            *([] if plan.quick else [*changed, *too_few(results, VOID_REQUESTS)]),
        ),
        notes=(
            *notes_of(results, known=known),
            *disturbed_search(conditions_search, results, is_void=False),
            *too_short([*search, *rounds], objective, SHORT_LOADS),
            *too_few(results, FEW_REQUESTS),
            *(changed if plan.quick else []),
        ),
    )


def aimed(
    bench: Bench, task: Task, met: Mapping[str, Met], knees: Mapping[str, Knee], objective: Objective, *, until: float
) -> dict[str, Knee]:
    """Knees that one visit of each subject has moved to where p99 crosses the objective, or to the end of the rates.

    Where answers take long, steps of a search have few requests, and its knee may be far off; and the straight lines between rates that
    are visited are near what they stand for only near these rates.

    Args:
        bench, task, met, objective: what is measured.
        knees: of the search.
        until: when all visits should be over, by the monotonic clock.
    """
    loads, one = loads_of(bench.plan, knees, objective, seconds=until - time.monotonic()), replace(bench.plan, rounds=1)
    visits = visit_all(replace(bench, plan=one), task, met, loads, name="aim")
    found = {label: Found(knees[label], loads[label], visits[label], objective) for label in met}
    return {
        label: replace(knee, rate=rate_at(found[label], np.zeros(1, dtype=np.int64))) if knee.rate else knee
        for label, knee in knees.items()
    }


def subject_result(plan: Plan, task: Task, met: Met, found: Found) -> SubjectResult:
    """The figures of one subject."""
    knee, loads, visits = found.knee, found.loads, found.visits
    rate = bootstrap(plan.rounds, lambda pick: rate_at(found, pick), seed=plan.seed) if knee.known else NONE
    curve = [point_of(share, each, [visit.logs[place] for visit in visits]) for place, (share, each) in enumerate(loads.pairs)]
    return SubjectResult(
        label=met.label,
        artifact=met.artifact,
        accuracy=accuracy_of(task, met.scores),
        scores=met.scores,
        capacity=bootstrap(plan.rounds, lambda pick: capacity_of(visits, pick), seed=plan.seed),
        rate=rate,
        inside=is_inside(loads.rates, rate.value),
        search=knee.steps,
        curve=tuple(curve),
        memory=memory_of(met.loaded_bytes, [visit.resident_bytes for visit in visits]),
        queue_factor=found.replay.factor(found.objective, range(plan.rounds)) if found.replay and knee.known else None,
    )


def point_of(share: float, rate: float, logs: Sequence[RequestLog]) -> Point:
    """One rate, all rounds together."""
    log = joined(logs)
    return Point(share, step_of(rate, sample_of(log)), histogram(log), split_of(log))


def memory_of(loaded: int | None, visited: Sequence[int | None]) -> Memory | None:
    """Before any load, and the most after a visit; None where either is not known."""
    known = [each for each in visited if each is not None]
    return Memory(loaded, max(known)) if loaded is not None and known else None


def ratios_of(plan: Plan, task: Task, found: Mapping[str, Found]) -> Iterator[Ratio]:
    """Of each subject over the first; of rates only where both have one."""

    def ratio(value: Callable[[Found, Rounds], float], label: str) -> Interval:
        return bootstrap(plan.rounds, lambda pick: value(found[label], pick) / value(found[first], pick), seed=plan.seed)

    first, every = plan.subjects[0].label, np.arange(plan.rounds)
    for label in (subject.label for subject in plan.subjects[1:]):
        pair = [found[label], found[first]]
        if all(each.knee.known for each in pair):
            above, below = (bound_of(each.loads.rates, rate_at(each, every)) for each in pair)
            rates = ratio(rate_at, label)
            yield Ratio(task.name, label, first, RATE, rates, bound_of_ratio(above, below))
        yield Ratio(task.name, label, first, CAPACITY, ratio(lambda each, pick: capacity_of(each.visits, pick), label))


def bound_of(rates: Sequence[float], rate: float) -> Bound:
    """What a crossing at the end of what was visited says: at the fastest rate, that it is at least so much."""
    return "" if is_inside(rates, rate) else "at least" if rate >= max(rates) else "at most"


def bound_of_ratio(above: Bound, below: Bound) -> Bound:
    """Of a quotient: what is below the line bounds it the other way round."""
    turned = TURNED[below]
    return above if turned in ("", above) else turned if above == "" else "about"


def rate_at(found: Found, pick: Rounds) -> float:
    """The rate that keeps the objective, read off the rounds of those numbers."""
    if found.replay is not None:
        return found.replay.rate(found.objective, pick)
    chosen = [found.visits[number].samples for number in pick]
    return crossing(found.loads.rates, [pooled(samples) for samples in zip(*chosen, strict=True)], found.objective)


def capacity_of(visits: Sequence[Visit], pick: Rounds) -> float:
    """Median over the rounds of those numbers."""
    return float(np.median([visits[number].capacity for number in pick]))
