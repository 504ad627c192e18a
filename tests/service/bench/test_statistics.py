"""Intervals, shares, efficiency: arithmetic that every figure of the benchmark goes through."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bench.statistics import bootstrap_median, efficiency, percentile, share_inside, slope


def test_interval_holds_the_median_and_is_the_same_every_time():
    """The bootstrap is seeded, and its ends enclose the median."""
    values = np.random.default_rng(1).normal(2.0, 0.1, size=15)
    found = bootstrap_median(values)
    assert found == bootstrap_median(values)
    assert found.low < found.value == np.median(values) < found.high


def test_interval_of_equal_values_has_no_width():
    """Where rounds agree, nothing is uncertain."""
    found = bootstrap_median(np.full(5, 1.25))
    assert (found.value, found.low, found.high) == (1.25, 1.25, 1.25)


def test_percentile_of_nothing_is_not_a_number():
    """A cell in whose windows no request ended has no latency, rather than one of 0."""
    assert math.isnan(percentile(np.array([]), 99))
    assert percentile(np.arange(101.0), 99) == 99.0


@pytest.mark.parametrize(
    ("started", "ended", "share"),
    [(1.0, 2.0, 1.0), (-1.0, 1.0, 0.5), (9.0, 13.0, 0.25), (-5.0, 15.0, 0.5), (10.0, 11.0, 0.0), (-2.0, 0.0, 0.0)],
    ids=["inside", "across the start", "across the end", "all around", "after", "before"],
)
def test_a_request_counts_by_its_share_of_the_window(started, ended, share):
    """A window from 0 to 10 holds a request by the part of it that lies inside."""
    found = share_inside(np.array([started]), np.array([ended]), np.array([3.0]), opened=0.0, shut=10.0)
    assert found == pytest.approx(3.0 * share)


@given(st.floats(0.01, 5.0), st.integers(1, 8), st.floats(0.5, 20.0), st.floats(0.0, 1.0))
def test_throughput_does_not_depend_on_where_the_window_lies(seconds, clients, length, offset):
    """Clients that are always waiting give clients / latency requests per second, however few fit into the window."""
    count = int(2 + (length + 2 * seconds) / seconds)
    starts = np.concatenate([seconds * (np.arange(count) - 1 - client / clients) for client in range(clients)])
    found = share_inside(starts, starts + seconds, np.ones_like(starts), opened=offset * seconds, shut=offset * seconds + length)
    assert found / length == pytest.approx(clients / seconds, rel=1e-6)


def test_efficiency_takes_the_generator_out_of_the_machine():
    """Half of what the raw session does, on the half of the machine that the generator left, is all of it."""
    assert efficiency(50.0, 100.0, cores=2, generator_cores=1.0) == pytest.approx(1.0)
    assert efficiency(90.0, 100.0, cores=4, generator_cores=0.0) == pytest.approx(0.9)


def test_slope_is_the_straight_lines():
    """Growth of a line is found, and a single point grows by nothing."""
    times = np.array([0.0, 1.0, 2.0, 5.0])
    assert slope(times, 3.0 * times + 7.0) == pytest.approx(3.0)
    assert slope(times[:1], times[:1]) == 0.0
