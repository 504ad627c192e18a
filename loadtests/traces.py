"""Arrivals that are typical: seeds whose short Poisson traces have, together, as many bunches as long ones.

Traces of a few dozen requests differ a lot in their bunches, and p99 of a queue rests on the worst of them. So of many sets of seeds, one
for each round, that set is taken whose traces give a simulated queue (see `loadtests.queueing`) the 99th percentile of a long run, over a
range of utilizations. A trace is in units of the mean gap, so it serves all rates of a load with the same number of requests.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from loadtests.arrivals import FloatArray, poisson
from loadtests.queueing import sojourns
from loadtests.statistics import PERCENT

UTILIZATIONS = np.array([0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9])
CANDIDATES = 200

_SIMULATED = 250_000
_TRIED = np.geomspace(0.03, 1.5, 16)
_LONG_RUN = 60_000
_LEAST_REQUESTS = 4.0


def typical_seeds(rounds: int, requests: Sequence[float], *, warm: float, seed: int) -> tuple[int, ...]:
    """A seed for each round, [rounds].

    Args:
        rounds: whose traces are taken together.
        requests: that are due in a load, for each kind of load; all begin with the same arrivals.
        warm: share of a load, at its beginning, whose requests do not count.
        seed: of the sets that are tried; there are fewer of these where loads are long, as long traces are typical by themselves.
    """
    dues = sorted({max(_LEAST_REQUESTS, each) for each in requests})
    candidates = int(np.clip(_SIMULATED / (rounds * sum(dues)), 1, CANDIDATES))
    tried = np.random.default_rng(seed).integers(2**31, size=(candidates, rounds))
    best = min(tried, key=lambda seeds: _distance([poisson(dues[-1], int(each)) for each in seeds], dues, warm))
    return tuple(map(int, best))


def p99_of(traces: Sequence[FloatArray], due: float, *, warm: float, utilizations: FloatArray) -> FloatArray:
    """Of one server that all traces meet up to so many mean gaps, in service times, [utilizations]."""
    cut = [trace[trace <= due] for trace in traces]
    found = [sojourns(trace / utilizations[:, None])[:, trace > warm * due] for trace in cut]
    return np.asarray(np.percentile(np.concatenate(found, axis=1), PERCENT, axis=1))


def errors_of(traces: Sequence[FloatArray], due: float, *, warm: float) -> FloatArray:
    """By which factors, in logarithms, utilizations are mistaken that are read off these traces by their p99, [utilizations]."""
    seen = p99_of(traces, due, warm=warm, utilizations=_TRIED)
    return np.asarray(np.interp(_long_run(), np.log(seen), np.log(_TRIED)) - np.log(UTILIZATIONS))


def _distance(traces: Sequence[FloatArray], dues: Sequence[float], warm: float) -> float:
    if not all(any(((trace > warm * due) & (trace <= due)).any() for trace in traces) for due in dues):
        return np.inf
    return float(sum((errors_of(traces, due, warm=warm) ** 2).sum() for due in dues))


@lru_cache(maxsize=1)
def _long_run() -> FloatArray:
    """Logarithm of p99 of a long run, [utilizations]."""
    return np.log(p99_of([poisson(_LONG_RUN, seed=0)], _LONG_RUN, warm=0.0, utilizations=UTILIZATIONS))
