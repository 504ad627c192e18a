"""Arrivals that are chosen to be typical."""

import numpy as np
import pytest

from loadtests.arrivals import poisson
from loadtests.traces import UTILIZATIONS, p99_of, typical_seeds

DUE = 40.0


def p99(seeds) -> np.ndarray:
    """Of a simulated queue that meets their traces, [utilizations]."""
    return p99_of([poisson(DUE, int(seed)) for seed in seeds], DUE, 0.05)


def test_chosen_traces_are_nearer_to_a_long_run_than_any_others():
    """At each utilization, the mean error of the logarithm of p99 is less than half of that of seeds as they come."""
    long_run = np.log(p99_of([poisson(50_000.0, 1)], 50_000.0, 0.0))
    chosen = [np.log(p99(typical_seeds(6, (DUE,), warm=0.05, seed=seed))) for seed in range(6)]
    plain = [np.log(p99(range(100 * seed, 100 * seed + 6))) for seed in range(1, 25)]
    errors = [np.abs(np.array(each) - long_run).mean() for each in (chosen, plain)]
    assert errors[0] < 0.5 * errors[1]
    assert len(UTILIZATIONS) == len(long_run)


def test_the_seed_says_which_are_chosen():
    """The same one the same, and another one others."""
    first, again, other = (typical_seeds(3, (20.0, 50.0), warm=0.05, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 3


@pytest.mark.parametrize("requests", [(0.1,), (5_000.0,), (0.5, 60.0)])
def test_loads_of_any_length_have_seeds(requests):
    """One for each round."""
    assert len(typical_seeds(4, requests, warm=0.05, seed=0)) == 4
