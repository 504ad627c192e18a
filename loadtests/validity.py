"""What speaks against a measurement: the machine's state, wrong answers, loads that were too short."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from loadtests.bench import Kept
from loadtests.load import Made
from loadtests.machine import Conditions, Reading, conditions
from loadtests.plan import Plan
from loadtests.request_log import RequestLog, joined
from loadtests.results import SubjectResult
from loadtests.statistics import (
    Objective,
    percentile,
)

SHORT_LOADS, VOID_LOADS = 5.0, 1.0
FEW_REQUESTS, VOID_REQUESTS = 300, 50
MOST_SPREAD = 0.15


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


def too_short(kept: Iterable[Kept], objective: Objective, many: float) -> Iterator[str]:
    """An open loop that lasts less than so many times the objective ends before what piles up is late."""
    shortest = min(each.seconds for each in kept if each.is_open)
    if 1e3 * shortest < many * objective.slo_ms:
        yield f"loads of {shortest:.1f} s are short beside an objective of {objective.slo_ms:g} ms; give more --minutes"


def too_few(results: Iterable[SubjectResult], many: int) -> Iterator[str]:
    """A 99th percentile of fewer requests than that rests on the slowest one or two of them."""
    for result in results:
        if result.rate.value and result.requests < many:
            advice = "give more --minutes, shorter texts or fewer variants"
            yield f"{result.label}: p99 at each rate rests on {result.requests} requests, fewer than {many}; {advice}"


def unsteady(capacities: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The same closed loop, [rounds] by subject, is as fast in every round, unless the processor is not.

    Neighbours on a shared processor slow it down by up to half, for seconds or minutes, and nothing of it is seen in the times that
    the system counts. The middle half of the rounds is looked at, so that one bad round is no reason.
    """
    for label, each in capacities.items():
        low, middle, high = np.percentile(each, (25.0, 50.0, 75.0))
        if high - low > MOST_SPREAD * middle:
            spread = f"{(high - low) / middle:.0%} (middle half; at most {MOST_SPREAD:.0%})"
            yield f"{label}: capacity differed from round to round by {spread}, as on a processor that other machines share"


def disturbed_search(found: Conditions, results: Iterable[SubjectResult], *, is_void: bool) -> Iterator[str]:
    """What disturbed the search: rates are read off the rounds alone, so this is void only where the search found none."""
    if is_void != all(result.rate.value for result in results):
        yield from (f"in the search for the knee, {reason}" for reason in found.reasons)


def notes_of(results: Iterable[SubjectResult], *, known: bool) -> Iterator[str]:
    """What a reader should know."""
    for result in results:
        if not result.rate.value:
            yield f"{result.label}: no rate keeps the objective; give a greater --slo to compare rates"
        elif not result.inside:
            yield f"{result.label}: the rate within the objective is at the end of what was visited, and may lie beyond it"
        elif result.queue_factor is not None:
            scaled = f"with {result.queue_factor:.2f} times its p99, as was measured"
            yield f"{result.label}: the rate is read off a simulated queue with the same arrivals and service times, {scaled}"
    if not known:
        yield "the service's own processor time cannot be told apart here, so what other processes took is not known"
