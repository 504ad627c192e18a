"""How the latencies of a load are spread, and where their time went. Pure functions of the log of every request."""

import math

import numpy as np
from numpy.typing import NDArray

from loadtests.request_log import RequestLog
from loadtests.results import Split

FIRST_MS, LAST_MS, BINS_PER_DECADE = 0.1, 100_000.0, 20
EDGES_MS: tuple[float, ...] = tuple(np.geomspace(FIRST_MS, LAST_MS, 6 * BINS_PER_DECADE + 1).round(6).tolist())


def histogram(log: RequestLog) -> tuple[int, ...]:
    """Right answers by latency in bins of `EDGES_MS`, [edges - 1]; the first and the last take what lies beyond."""
    inside = np.clip(log.latency_ms[log.good], FIRST_MS, LAST_MS)
    return tuple(np.histogram(inside, EDGES_MS)[0].tolist())


def split_of(log: RequestLog) -> Split | None:
    """Mean time of right answers by part; None where the service does not say, and of no answers."""
    good = log.good
    queue, tokenize, infer, total = (mean(getattr(log, f"{name}_ms")[good]) for name in ("queue", "tokenize", "infer", "total"))
    latency, lag = mean(log.latency_ms[good]), mean(log.lag_ms[good])
    found = Split(lag, queue, tokenize, infer, total - queue - tokenize - infer, latency - lag - total)
    return None if math.isnan(found.post) else found


def mean(values: NDArray[np.float64]) -> float:
    """NaN of nothing."""
    return float(values.mean()) if len(values) else math.nan
