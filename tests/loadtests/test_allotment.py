"""How long loads are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.allotment import (
    ENOUGH_REQUESTS,
    MANY_REQUESTS,
    TAIL_REQUESTS,
    equal_requests,
    even_seconds,
    least_rate,
    loads_of,
    requests_of_steps,
)
from loadtests.plan import BETWEEN_SECONDS, LONG_MS, SEARCH_STEPS, SHARES, Plan, parse_subjects
from loadtests.statistics import Knee, Objective, Step
from loadtests.texts import TASKS
from loadtests.validity import SHORT_LOADS

LABELS = ("dense", "compact-int8", "compact@openvino")
PLAN = Plan(("qa",), parse_subjects(",".join(LABELS)))
OBJECTIVE = Objective(200.0)
STEP = Step(0.4, 9, 0.0, 300.0, 300.0, 300.0, 300.0)

rates = st.lists(st.floats(0.1, 300.0), min_size=1, max_size=4)


def knees(*found: float) -> dict[str, Knee]:
    """Of the variants, at these rates; 0 for none."""
    return {label: Knee(rate, (STEP,)) for label, rate in zip(LABELS, found, strict=False)}


@settings(deadline=None)
@given(rates, st.floats(0.1, 100.0), st.floats(0.1, 5.0))
def test_requests_are_equal_but_for_loads_of_the_least_length(rates, seconds, least_s):
    """All loads together take the time, or the least of all; none is shorter than the least."""
    found = equal_requests(rates, seconds=seconds, least_s=least_s)
    lengths = [requests / rate for requests, rate in zip(found, rates, strict=True)]
    assert sum(lengths) == pytest.approx(max(seconds, least_s * len(rates)))
    assert min(lengths) >= least_s * (1 - 1e-9)
    assert len({round(requests, 6) for requests, length in zip(found, lengths, strict=True) if length > least_s * (1 + 1e-6)}) <= 1


@settings(deadline=None)
@given(rates, st.floats(5.0, 100.0), st.floats(1.0, 300.0))
def test_longer_loads_of_the_fast_leave_the_slowest_enough(rates, seconds, enough):
    """It has as many requests as it would without, or enough, and no load is longer than its; together they take the same time."""
    before = equal_requests(rates, seconds=seconds, least_s=1.0)
    found = equal_requests(rates, seconds=seconds, least_s=even_seconds(rates, seconds=seconds, least_s=1.0, enough=enough))
    lengths = [requests / rate for requests, rate in zip(found, rates, strict=True)]
    slowest = rates.index(min(rates))
    assert found[slowest] >= min(enough, before[slowest]) * (1 - 1e-9)
    assert lengths[slowest] >= max(lengths) * (1 - 1e-9)
    assert sum(lengths) == pytest.approx(seconds)


@settings(deadline=None)
@given(st.floats(0.2, 100.0), st.floats(0.2, 100.0), st.floats(0.2, 100.0), st.floats(60.0, 2000.0))
def test_visits_take_the_time_that_is_left(first, second, third, seconds):
    """Of all rounds and rates, with the waits between; or the least."""
    loads = loads_of(PLAN, knees(first, second, third), OBJECTIVE, seconds=seconds)
    lengths = [each.requests / rate for each in loads.values() for rate in each.rates]
    assert PLAN.rounds * (sum(lengths) + BETWEEN_SECONDS * len(lengths)) == pytest.approx(seconds, rel=0.01) or min(lengths) < 1.5


def test_a_slow_variant_is_loaded_for_longer():
    """As many requests of each; a variant without a knee takes next to no time."""
    dense, fast, _ = loads_of(PLAN, knees(5.0, 15.0, 40.0), OBJECTIVE, seconds=600.0).values()
    assert dense.requests == pytest.approx(fast.requests)
    without, _, _ = loads_of(PLAN, knees(0.0, 15.0, 40.0), OBJECTIVE, seconds=600.0).values()
    assert without.rates[0] < STEP.rate
    assert without.requests < 2.0


def test_loads_are_alike_where_all_have_enough_requests():
    """A fast variant is loaded no shorter than a slow one, so that what short loads overstate is the same of both."""
    loads = loads_of(PLAN, knees(80.0, 320.0, 390.0), OBJECTIVE, seconds=500.0).values()
    assert len({round(each.requests / each.rates[0], 6) for each in loads}) == 1
    assert min(each.requests for each in loads) * PLAN.rounds >= ENOUGH_REQUESTS


def test_a_variant_whose_rate_is_bounded_leaves_the_others_its_time():
    """It has the hundred requests that tell, and no more, where the others have few."""
    slow = Knee(0.0, (STEP,), below=0.8)
    dense, fast = loads_of(PLAN, {"dense": slow, "compact-int8": Knee(7.5, (STEP,))}, OBJECTIVE, seconds=500.0).values()
    assert PLAN.rounds * dense.requests == pytest.approx(TAIL_REQUESTS)
    assert fast.requests > 2 * dense.requests
    lengths = [each.requests / rate + BETWEEN_SECONDS for each in (dense, fast) for rate in each.rates]
    assert PLAN.rounds * sum(lengths) == pytest.approx(500.0, rel=0.02)


@settings(deadline=None)
@given(st.floats(3.0, 30.0), st.floats(0.0, 50.0), st.sampled_from((200.0, LONG_MS)))
def test_the_slowest_rate_that_is_searched_has_a_hundred_requests(minutes, faster, slo_ms):
    """In all rounds together, beside variants that are fast; what is bounded by it is visited from there on upwards."""
    plan = Plan(("qa",), PLAN.subjects, minutes=minutes)
    least = least_rate(plan, Objective(slo_ms))
    knees = {"dense": Knee(0.0, (STEP,), below=least), **{label: Knee(least + 20.0 + faster, (STEP,)) for label in LABELS[1:]}}
    dense = loads_of(plan, knees, Objective(slo_ms), seconds=plan.times.visits)["dense"]
    assert dense.rates[0] == pytest.approx(least)
    assert plan.rounds * dense.requests >= TAIL_REQUESTS * (1 - 1e-9)


@pytest.mark.parametrize(("rate", "rates", "slo_ms"), [(50.0, 5, 200.0), (0.5, 3, 200.0), (50.0, 3, LONG_MS), (0.5, 2, LONG_MS)])
def test_there_are_fewer_rates_where_requests_are_few(rate, rates, slo_ms):
    """So that each has as many as may be; with a long objective there are never many."""
    found = loads_of(PLAN, knees(rate, rate), Objective(slo_ms), seconds=500.0)["dense"]
    assert len(found.rates) == rates
    assert rate < 1 or PLAN.rounds * found.requests >= MANY_REQUESTS
    assert len(SHARES) == 5


def test_searches_take_their_share_of_the_time():
    """Of some steps each, which have no more requests than are enough."""
    requests = requests_of_steps(PLAN, dict(zip(LABELS, (1.4, 22.0, 30.0), strict=True)), OBJECTIVE)
    steps = sum(requests[label] / rate + BETWEEN_SECONDS for label, rate in zip(LABELS, (1.4, 22.0, 30.0), strict=True))
    assert SEARCH_STEPS * steps + 3 * (PLAN.times.closed + BETWEEN_SECONDS) == pytest.approx(PLAN.times.search)
    many = requests_of_steps(PLAN, dict.fromkeys(LABELS, 80.0), OBJECTIVE)
    assert set(many.values()) == {float(MANY_REQUESTS)}


def test_summaries_are_loaded_for_long_beside_their_objective():
    """As the tasks are measured by default, in the two variants that one runtime has: nothing to note of the load at the knee."""
    plan = Plan(tuple(TASKS), minutes=30.0).of_task(TASKS["summarize"], PLAN.subjects[:2], cores=1)
    loads = loads_of(plan, knees(2.0, 4.0), Objective(1500.0), seconds=plan.times.visits)
    assert all(each.requests / each.rates[1] >= SHORT_LOADS * 1.5 for each in loads.values())
