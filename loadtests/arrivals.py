"""When requests are due, in an open loop: they come whatever the service does, as those of many users do who know nothing of each other.

A load is a list of phases, each with a rate. Arrivals of rate 1, evenly spaced or those of a Poisson process, are mapped through the
inverse of the accumulated rate: the time-change that makes an inhomogeneous Poisson process of a homogeneous one (Cinlar, 1975). The
same seed gives the same pattern at every rate, so variants that are compared meet the same bunches. All pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Spacing = Literal["poisson", "fixed"]


@dataclass(frozen=True)
class Phase:
    """A part of a load: `seconds` at `rate` requests per second."""

    name: str
    seconds: float
    rate: float


Load = tuple[Phase, ...]


def steady(rate: float, seconds: float) -> Load:
    """One rate."""
    return (Phase("steady", seconds, rate),)


def soak(rate: float, minutes: float) -> Load:
    """One rate for long, looked at minute by minute."""
    whole, rest = divmod(60.0 * minutes, 60.0)
    lengths = [60.0] * int(whole) + [rest] * (rest > 0)
    return tuple(Phase(f"minute {number}", seconds, rate) for number, seconds in enumerate(lengths, start=1))


def step_ramp(rates: Sequence[float], seconds: float) -> Load:
    """One rate after another, `seconds` each."""
    return tuple(Phase(f"{rate:.3g}/s", seconds, rate) for rate in rates)


def spike(rate: float, *, factor: float, before: float, during: float, after: float) -> Load:
    """A rate, `factor` times as much, and the rate again; times in seconds."""
    return (Phase("before", before, rate), Phase("spike", during, factor * rate), Phase("recovery", after, rate))


def arrivals(load: Load, *, spacing: Spacing, seed: int) -> FloatArray:
    """Seconds from the start at which requests are due, ascending, [requests].

    Args:
        load: its phases.
        spacing: `poisson`, or `fixed`: evenly within a phase.
        seed: of the Poisson process; the same one gives the same pattern, stretched, at any rate.
    """
    ends = np.cumsum([phase.seconds for phase in load])
    due = np.cumsum([phase.seconds * phase.rate for phase in load])
    unit = poisson(float(due[-1]), seed) if spacing == "poisson" else np.arange(0.5, due[-1])
    return np.asarray(np.interp(unit, np.concatenate([[0.0], due]), np.concatenate([[0.0], ends])), dtype=np.float64)


def phase_of(times: FloatArray, load: Load) -> NDArray[np.int64]:
    """Index of the phase that each time falls into, [requests]."""
    ends = np.cumsum([phase.seconds for phase in load])
    return np.asarray(np.minimum(np.searchsorted(ends, times, side="right"), len(load) - 1), dtype=np.int64)


def poisson(expected: float, seed: int) -> FloatArray:
    """Times of a Poisson process of rate 1 up to `expected`; gaps are drawn in blocks, so that a longer one begins as a shorter one."""
    source, times = np.random.default_rng(seed), np.zeros(1)
    while times[-1] <= expected:
        times = np.concatenate([times, times[-1] + np.cumsum(source.exponential(size=256))])
    found: FloatArray = times[(times > 0) & (times <= expected)]
    return found
