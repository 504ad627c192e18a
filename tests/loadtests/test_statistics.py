"""The arithmetic of a comparison, on services that are simulated: a queue with one server and known service times."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import arrivals, steady
from loadtests.statistics import (
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

OBJECTIVE = Objective(slo_ms=200.0)


def answered(rate: float, *, service_ms: float, seed: int, seconds: float = 60.0, spacing: str = "poisson") -> Sample:
    """Latencies of a queue with one server that takes `service_ms` for each request."""
    free, latencies = 0.0, []
    for due in arrivals(steady(rate, seconds), spacing=spacing, seed=seed):
        free = max(free, due) + service_ms / 1e3
        latencies.append(1e3 * (free - due))
    return Sample(np.array(latencies), failed=0)


def sample_of(p99_ms: float, *, failed: int = 0) -> Sample:
    """A sample that takes so long, always."""
    return Sample(np.full(100, p99_ms), failed)


@settings(deadline=None, max_examples=8)
@given(st.floats(20.0, 150.0))
def test_the_knee_of_evenly_spaced_requests_is_the_capacity(service_ms):
    """A server that takes so long is overloaded just beyond one over it, and the search finds that, wherever it begins."""
    for first in (0.1, 1.0, 4.0):
        capacity = 1e3 / service_ms
        knee = find_knee(
            lambda rate: step_of(rate, answered(rate, service_ms=service_ms, seed=0, seconds=20.0, spacing="fixed")),
            OBJECTIVE,
            first=first * capacity,
            precision=1.15,
            most=20,
        )
        assert 0.85 * capacity <= knee.rate <= capacity * (1 + 0.2 / 20.0) * 1.01


@settings(deadline=None, max_examples=20)
@given(st.floats(1.0, 1e4), st.floats(0.2, 5.0))
def test_the_bracket_is_as_narrow_as_asked_for(true, first):
    """Whatever rate is the last that keeps up, what is found is at most that, and within the precision."""
    knee = find_knee(
        lambda rate: Step(rate, 1, 0.0, 1.0, 1.0, 100.0 if rate <= true else 300.0, 1.0),
        OBJECTIVE,
        first=first * true,
        precision=1.15,
        most=30,
    )
    assert true / 1.15 <= knee.rate <= true


def test_a_service_that_never_keeps_up_has_no_knee():
    """The search goes lower each time, for as many steps as there may be, and the rate is 0."""
    knee = find_knee(lambda rate: Step(rate, 1, 0.5, 1.0, 1.0, 1.0, 1.0), OBJECTIVE, first=10.0, most=6)
    assert knee.rate == 0
    assert [step.rate for step in knee.steps] == sorted((step.rate for step in knee.steps), reverse=True)
    assert len(knee.steps) == 6


@pytest.mark.parametrize(("light", "steps"), [(1.0, 6), (20.0, 1)])
def test_answers_that_are_late_without_a_queue_end_the_search(light, steps):
    """At a light load, half of them late: nothing is gained by fewer requests."""
    assert len(find_knee(lambda rate: Step(rate, 9, 0.0, 300.0, 300.0, 300.0, 300.0), OBJECTIVE, first=15.0, light=light).steps) == steps


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 20.0), st.floats(0.2, 5.0))
def test_a_knee_below_the_least_rate_is_bounded(true, least):
    """Slower rates are not tried: the knee is found, or known to be below the lowest that was tried, which is then the least."""
    knee = find_knee(
        lambda rate: Step(rate, 99, 0.0, 150.0, 150.0, 150.0 if rate <= true else 300.0, 300.0), OBJECTIVE, first=5.0, least=least, most=30
    )
    assert min(step.rate for step in knee.steps) >= least
    assert (knee.rate, knee.below) == ((0.0, least) if true < least else (pytest.approx(true, rel=0.3), 0.0))
    assert knee.known >= min(true, least) / 1.3


def test_the_least_rate_does_not_end_a_search_where_all_is_late():
    """It goes on to rates so slow that no request waits for another; with half of the answers late there, the knee is below nothing."""
    knee = find_knee(lambda rate: Step(rate, 9, 0.0, 300.0, 300.0, 300.0, 300.0), OBJECTIVE, first=5.0, least=4.0, light=1.0)
    assert knee.steps[-1].rate <= 1.0
    assert knee.known == 0.0


@pytest.mark.parametrize(("requests", "steps"), [(29, 1), (30, 6)])
def test_few_requests_do_not_raise_the_rate(requests, steps):
    """In time they may be by luck."""
    found = find_knee(lambda rate: Step(rate, requests, 0.0, 1.0, 1.0, 1.0, 1.0), OBJECTIVE, first=10.0, telling=30)
    assert len(found.steps) == steps


@pytest.mark.parametrize(("failed", "p99", "kept"), [(0.0, 200.0, True), (0.0, 200.1, False), (0.01, 100.0, False), (0.0, math.nan, False)])
def test_what_keeps_the_objective(failed, p99, kept):
    """Latency and failures both have to be within it; no answer at all is not."""
    assert OBJECTIVE.kept(Step(1.0, 100, failed, 1.0, 1.0, p99, p99)) is kept


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1.0, 3000.0), min_size=2, max_size=6))
def test_a_crossing_is_among_the_rates(p99s):
    """Wherever latencies lie, also where they fall with the rate."""
    rates = [float(number) for number in range(1, len(p99s) + 1)]
    assert rates[0] <= crossing(rates, [sample_of(p99) for p99 in p99s], OBJECTIVE) <= rates[-1]


def test_a_crossing_is_interpolated():
    """Half way between logarithms is half way between rates; at the objective itself it is that rate."""
    assert crossing([10.0, 20.0], [sample_of(100.0), sample_of(400.0)], OBJECTIVE) == pytest.approx(15.0)
    assert crossing([10.0, 20.0, 30.0], [sample_of(100.0), sample_of(200.0), sample_of(900.0)], OBJECTIVE) == pytest.approx(20.0)


def test_a_crossing_beyond_what_was_visited_is_told_apart():
    """At either end it may be anywhere beyond; failures are far too slow."""
    rates = [10.0, 20.0]
    ends = [crossing(rates, [sample_of(50.0)] * 2, OBJECTIVE), crossing(rates, [sample_of(50.0, failed=5)] * 2, OBJECTIVE)]
    assert ends == [20.0, 10.0]
    assert [is_inside(rates, end) for end in ends] == [False, False]
    assert is_inside(rates, 15.0)


def test_the_interval_of_a_ratio_holds_the_ratio():
    """Of two queues of which one is three times as fast, read off rounds that are drawn anew."""
    rounds, names = 6, {"slow": 30.0, "fast": 10.0}
    rates = {name: [share * 1e3 / ms for share in (0.6, 0.75, 0.85, 0.95)] for name, ms in names.items()}
    samples = {
        name: [[answered(rate, service_ms=ms, seed=number) for rate in rates[name]] for number in range(rounds)]
        for name, ms in names.items()
    }

    def rate_of(name: str, pick: np.ndarray) -> float:
        chosen = [pooled([samples[name][number][place] for number in pick]) for place in range(4)]
        return crossing(rates[name], chosen, Objective(slo_ms=5 * names[name]))

    found = bootstrap(rounds, lambda pick: rate_of("fast", pick) / rate_of("slow", pick), resamples=200)
    assert found.low <= found.value <= found.high
    assert found.low <= 3.0 <= found.high * 1.001
    assert found.high / found.low < 1.2


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e4), max_size=50))
def test_percentiles_are_of_what_was_seen(values):
    """Between the least and the greatest; of nothing, nothing."""
    found = percentile(np.array(values), 99.0)
    assert math.isnan(found) if not values else min(values) <= found <= max(values) + 1e-9
