"""Pure arithmetic of the benchmark: intervals, percentiles, and how much of the machine was used to good purpose.

What is compared was visited in the same rounds, so ratios and differences are taken within a round; what is reported is their median
over rounds with a bootstrap interval (Efron, 1979).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median over rounds with the ends of its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap_median(values: FloatArray, *, seed: int = 0) -> Interval:
    """Median of `values` [rounds] with its percentile-bootstrap 95 % interval."""
    picks = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), (2.5, 97.5))
    return Interval(value=float(np.median(values)), low=float(low), high=float(high))


def percentile(values: FloatArray, percent: float) -> float:
    """That percentile, or NaN of nothing."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")


def share_inside(started: FloatArray, ended: FloatArray, weights: FloatArray, *, opened: float, shut: float) -> float:
    """How many requests a window from `opened` to `shut` holds; one that runs across an edge counts by the share of it that is inside.

    Without this, a window of few long requests would be off by the one that happens to end just before or after it.

    Args:
        started, ended: of each call, [calls].
        weights: requests that each call answered, [calls].
        opened, shut: the window, on the same clock.
    """
    inside = np.minimum(ended, shut) - np.maximum(started, opened)
    return float(np.sum(weights * np.clip(inside, 0.0, None) / np.maximum(ended - started, 1e-9)))


def efficiency(served: float, raw: float, *, cores: float, generator_cores: float) -> float:
    """What is served per core, over what the raw session does per core.

    Args:
        served, raw: rates in the same unit, each with all the machine to itself.
        cores: of the machine.
        generator_cores: of those, what making the load took while `served` was measured. The raw session needs no generator.
    """
    return (served / (cores - generator_cores)) / (raw / cores)


def slope(times: FloatArray, values: FloatArray) -> float:
    """Least-squares slope of `values` over `times`; 0 of fewer than two."""
    if len(times) < 2:
        return 0.0
    centred = times - times.mean()
    return float((centred * (values - values.mean())).sum() / (centred**2).sum())
