"""Pure arithmetic of a comparison: percentiles, the highest rate that a service keeps up with, and intervals of ratios.

The *knee* is the highest rate at which 99 of 100 answers come within the objective (SLO) and next to nothing fails. It is found once by
bracketing. Then rates around it are visited in interleaved rounds, and where p99 crosses the objective is read off all rounds together;
the interval of a ratio comes from a bootstrap over rounds (Efron, 1979), the same ones for both sides, so that what befalls a round
befalls both.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator

FloatArray = NDArray[np.float64]
Real = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]

RESAMPLES = 1000
PERCENT = 99.0
WORST = 10.0


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Objective:
    """What counts as keeping up: p99 within `slo_ms`, and at most `failures` of the requests failed (a share)."""

    slo_ms: float
    failures: float = 0.001

    def kept(self, step: "Step") -> bool:
        """Whether a step keeps it."""
        return step.failed_share <= self.failures and step.p99_ms <= self.slo_ms


@dataclass(frozen=True)
class Step:
    """One rate for a while.

    Attributes:
        rate: requests per second that were due.
        requests: how many.
        failed_share: of them, those without a right answer.
        p50_ms, p90_ms, p99_ms, p999_ms: of the right answers, from when they were due; NaN of none.
    """

    rate: float
    requests: int
    failed_share: float
    p50_ms: Real
    p90_ms: Real
    p99_ms: Real
    p999_ms: Real


@dataclass(frozen=True)
class Sample:
    """Requests of one rate: latencies of those that were answered rightly, [answered], and how many were not."""

    latencies_ms: FloatArray
    failed: int

    @property
    def requests(self) -> int:
        """All of them."""
        return len(self.latencies_ms) + self.failed


@dataclass(frozen=True)
class Knee:
    """The highest rate that kept the objective, 0 for none, and all that was tried.

    `below` is the lowest rate that was tried, where none kept it but more than half of the answers were in time at that one; otherwise 0.
    """

    rate: float
    steps: tuple[Step, ...]
    below: float = 0.0

    @property
    def known(self) -> float:
        """The rate, or else what it is below; 0 where no rate keeps the objective."""
        return self.rate or self.below


def percentile(values: FloatArray, percent: float) -> float:
    """That percentile, or NaN of nothing."""
    return float(np.percentile(values, percent)) if len(values) else math.nan


def step_of(rate: float, sample: Sample) -> Step:
    """The figures of one rate."""
    p50, p90, p99, p999 = (percentile(sample.latencies_ms, percent) for percent in (50.0, 90.0, PERCENT, 99.9))
    return Step(rate, sample.requests, sample.failed / max(1, sample.requests), p50, p90, p99, p999)


def pooled(samples: Sequence[Sample]) -> Sample:
    """All requests of several samples of one rate."""
    return Sample(np.concatenate([sample.latencies_ms for sample in samples]), sum(sample.failed for sample in samples))


def find_knee(
    measure: Callable[[float], Step],
    objective: Objective,
    *,
    first: float,
    light: float = 0.0,
    least: float = 0.0,
    telling: int = 0,
    precision: float = 1.3,
    most: int = 6,
    growth: float = 1.6,
) -> Knee:
    """Bracket the highest rate that keeps the objective.

    Args:
        measure: tries a rate.
        objective: what is to be kept.
        first: rate to begin with.
        light: up to this rate hardly any request waits for another: where half of the answers are late there, no rate keeps it.
        least: slower rates are not tried where it is not half of the answers that are late, but fewer.
        telling: a step of fewer requests may lower the rate, but does not raise it.
        precision: the search ends when the lowest rate that failed is at most so many times the highest that did not.
        most: steps, at the most.
        growth: how much faster or slower to go while only one end is known.
    """
    low, high, rate, steps = 0.0, math.inf, first, list[Step]()
    while len(steps) < most and high > precision * low:
        step = measure(rate)
        steps.append(step)
        is_kept, is_half_late = objective.kept(step), step.p50_ms > objective.slo_ms
        low, high = (rate, high) if is_kept else (low, rate)
        is_slowest = rate <= light if is_half_late else rate <= least
        if step.requests < telling if is_kept else is_slowest:
            break
        rate = low * growth if math.isinf(high) else high / growth if low == 0.0 else math.sqrt(low * high)
        rate = rate if is_half_late else max(rate, least)
    return Knee(low, tuple(steps), below=0.0 if low or is_half_late else min(step.rate for step in steps))


def crossing(rates: Sequence[float], samples: Sequence[Sample], objective: Objective) -> float:
    """Where p99 crosses the objective, between rates that were visited: log p99 is drawn as straight lines that never fall.

    A rate at which too much failed counts as far too slow. Beyond the slowest and the fastest rate nothing is known, so those are the
    ends; see `is_inside`.

    Args:
        rates: ascending, [rates].
        samples: of each, [rates].
        objective: what is crossed.
    """
    slow = _fitted(np.array([_log_excess(sample, objective) for sample in samples]))
    if slow[0] > 0:
        return float(rates[0])
    over = int(np.searchsorted(slow, 0.0, side="right"))
    if over == len(rates):
        return float(rates[-1])
    share = -slow[over - 1] / (slow[over] - slow[over - 1])
    return float(rates[over - 1] + share * (rates[over] - rates[over - 1]))


def is_inside(rates: Sequence[float], rate: float) -> bool:
    """Whether a crossing lies between the rates that were visited, and not at their ends, where it may be anywhere beyond."""
    return min(rates) < rate < max(rates)


def bootstrap(rounds: int, statistic: Callable[[NDArray[np.int64]], float], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """A statistic over rounds, with its percentile-bootstrap 95 % interval.

    Args:
        rounds: how many there are.
        statistic: of the rounds of those numbers, which may repeat.
        seed: of the resampling.
        resamples: how many.
    """
    picks = np.random.default_rng(seed).integers(rounds, size=(resamples, rounds))
    low, high = np.percentile([statistic(pick) for pick in picks], (2.5, 97.5))
    return Interval(statistic(np.arange(rounds)), float(low), float(high))


def _log_excess(sample: Sample, objective: Objective) -> float:
    """Logarithm of p99 over the objective, from -log 10 to log 10; the latter where too much failed."""
    p99 = percentile(sample.latencies_ms, PERCENT)
    if math.isnan(p99) or sample.failed > objective.failures * sample.requests:
        return math.log(WORST)
    return math.log(min(max(p99 / objective.slo_ms, 1 / WORST), WORST))


def _fitted(values: FloatArray) -> FloatArray:
    """Isotonic least squares: the nearest values that never fall (pool adjacent violators; Ayer et al., 1955)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (second, more), (first, many) = blocks.pop(), blocks.pop()
            blocks.append(((first * many + second * more) / (many + more), many + more))
    return np.concatenate([np.full(many, mean) for mean, many in blocks])
