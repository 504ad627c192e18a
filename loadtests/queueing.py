"""A queue that is simulated: requests in the order of their arrival, on some servers.

If each takes a server for as long as any other (M/D/c), it says at which rate of a Poisson process 99 of 100 requests would be done in
time, which is where the search for the knee begins. These are begun and done in the order of their arrival, so that each of `c` servers
takes every c-th of them, and each of the servers follows the recursion of one (Lindley, 1952).
"""

from functools import lru_cache
from heapq import heapreplace

import numpy as np

from loadtests.arrivals import FloatArray, poisson

_REQUESTS = 60_000
_HALVINGS = 16


def sojourns(due: FloatArray, *, servers: int = 1) -> FloatArray:
    """How long requests are there, waiting included: [..., requests], of arrivals that ascend, in service times, [..., requests]."""
    requests = due.shape[-1]
    padded = np.concatenate([due, np.full((*due.shape[:-1], -requests % servers), np.inf)], axis=-1)
    turns = padded.reshape(*due.shape[:-1], -1, servers)  # [..., turns, servers]
    before = np.arange(turns.shape[-2], dtype=np.float64)[:, None]
    done = np.maximum.accumulate(turns - before, axis=-2) + before + 1.0
    return np.asarray(done.reshape(*due.shape[:-1], -1)[..., :requests] - due)


def served(due: FloatArray, services: FloatArray, *, servers: int, busy: float = 0.0) -> FloatArray:
    """How long requests are there whose service times differ, waiting included, [requests]: each takes the server that is free first.

    Args:
        due: when they come, ascending, [requests].
        services: for how long they take a server, in the same unit, [requests].
        servers: how many there are.
        busy: for how long they are all still taken when the first request comes.
    """
    free, done = [float(due[0]) + busy] * servers, []
    for begin, service in zip(due.tolist(), services.tolist(), strict=True):
        done.append(max(free[0], begin) + service)
        heapreplace(free, done[-1])
    return np.array(done) - due


def rate_within(objective_s: float, *, service_s: float, servers: int, percent: float) -> float:
    """The highest rate, in requests per second, at which that percentile of a long run is within the objective; 0 where none is.

    Args:
        objective_s: seconds.
        service_s: that each request takes a server.
        servers: how many there are.
        percent: which percentile.
    """
    if service_s >= objective_s:
        return 0.0
    low, high, due = 0.0, 1.0, _long_run()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2 if low else high / 2
        is_kept = np.percentile(sojourns(due / (middle * servers), servers=servers), percent) <= objective_s / service_s
        low, high = (middle, high) if is_kept else (low, middle)
    return low * servers / service_s


@lru_cache(maxsize=1)
def _long_run() -> FloatArray:
    return poisson(_REQUESTS, seed=0)
