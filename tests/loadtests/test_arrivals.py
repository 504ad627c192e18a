"""Schedules: what holds for any load."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.arrivals import Phase, arrivals, phase_of, soak, spike, steady, step_ramp

phases = st.builds(Phase, name=st.just("a"), seconds=st.floats(0.5, 20), rate=st.floats(0.5, 50))
loads = st.lists(phases, min_size=1, max_size=4).map(tuple)
spacings = st.sampled_from(["poisson", "fixed"])


@settings(deadline=None)
@given(loads, spacings, st.integers(0, 99))
def test_requests_are_due_in_order_and_within_the_load(load, spacing, seed):
    """Nothing is due before the start, after the end, or before the one before it."""
    times = arrivals(load, spacing=spacing, seed=seed)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times <= sum(phase.seconds for phase in load) + 1e-9)).all()


@settings(deadline=None)
@given(loads)
def test_fixed_arrivals_are_as_many_as_the_rate_says(load):
    """Each phase holds its rate times its length, to within one."""
    counts = np.bincount(phase_of(arrivals(load, spacing="fixed", seed=0), load), minlength=len(load))
    assert counts == pytest.approx([phase.seconds * phase.rate for phase in load], abs=1.01)


def test_poisson_gaps_have_the_mean_and_spread_of_an_exponential():
    """Mean gap and standard deviation are both one over the rate."""
    gaps = np.diff(arrivals(steady(50.0, 400.0), spacing="poisson", seed=1))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)


@settings(deadline=None)
@given(st.floats(1, 100), st.floats(1.1, 5), st.integers(0, 99))
def test_the_same_seed_is_the_same_pattern_at_any_rate(rate, factor, seed):
    """Twice the rate is the same arrivals in half the time."""
    slow, fast = (arrivals(steady(each, 200 / each), spacing="poisson", seed=seed) for each in (rate, factor * rate))
    assert slow == pytest.approx(factor * fast)


@settings(deadline=None)
@given(loads, st.integers(0, 99))
def test_a_seed_gives_the_same_times_and_another_one_others(load, seed):
    """Nothing but the seed is random."""
    first, second, other = (arrivals(load, spacing="poisson", seed=each) for each in (seed, seed, seed + 1))
    assert np.array_equal(first, second)
    assert not (len(first) and np.array_equal(first, other))


def test_shapes():
    """A spike goes up and back, a ramp has the rates given, a soak is cut into minutes."""
    assert [phase.rate for phase in spike(5.0, factor=3.0, before=1, during=2, after=3)] == [5.0, 15.0, 5.0]
    assert [phase.rate for phase in step_ramp([1.0, 2.0, 4.0], 5.0)] == [1.0, 2.0, 4.0]
    assert [phase.seconds for phase in soak(5.0, 2.5)] == [60.0, 60.0, 30.0]
