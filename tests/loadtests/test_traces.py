"""Arrivals that are chosen to be typical."""

import numpy as np
import pytest

from loadtests.arrivals import poisson
from loadtests.traces import errors_of, typical_seeds

DUE = 40.0


def errors(seeds) -> np.ndarray:
    """Of utilizations that are read off the traces of those seeds, [utilizations]."""
    return errors_of([poisson(DUE, int(seed)) for seed in seeds], DUE, warm=0.05)


def test_chosen_traces_are_nearer_to_a_long_run_than_any_others():
    """The mean error is less than half of that of seeds as they come, and has no direction."""
    chosen = np.array([errors(typical_seeds(6, (DUE,), warm=0.05, seed=seed)) for seed in range(6)])
    plain = np.array([errors(range(100 * seed, 100 * seed + 6)) for seed in range(1, 25)])
    assert np.abs(chosen).mean() < 0.5 * np.abs(plain).mean()
    assert abs(chosen.mean()) < 0.1


def test_the_seed_says_which_are_chosen():
    """The same one the same, and another one others."""
    first, again, other = (typical_seeds(3, (20.0, 50.0), warm=0.05, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 3


@pytest.mark.parametrize("requests", [(0.1,), (5_000.0,), (0.5, 60.0)])
def test_loads_of_any_length_have_seeds(requests):
    """One for each round."""
    assert len(typical_seeds(4, requests, warm=0.05, seed=0)) == 4
