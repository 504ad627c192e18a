"""The rate within the objective of a service that answers one request after another: read off its queue, which is simulated.

The 99th percentile of a few hundred requests rests on the few that came close behind others, and where one answer takes much of the
objective, an error of 1 % in it is one of 2 % or more in the rate. What a request waits, however, follows from the times of arrival and
of service, and these are known of every request. So the loads are replayed: a queue with their arrivals and service times has to have
the p99 that was measured, but for a factor near 1, as service times leave out what HTTP takes and count twice where two requests overlap.
Where it has, the rate is that at which a long run of the queue, scaled by the factor, keeps the objective. Where it has not, as requests
are joined in calls, there is no `Replay`, and the rate is read off straight lines (`loadtests.statistics.crossing`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from loadtests.arrivals import FloatArray, poisson
from loadtests.queueing import served
from loadtests.request_log import RequestLog
from loadtests.statistics import PERCENT, Objective

MOST_OFF = 1.35
UTILIZATIONS = np.geomspace(0.01, 0.92, 24)

_NEAR = 0.5
_LEAST_WEIGHT = 0.1
_LONG_RUN = 60_000


@dataclass(frozen=True)
class Replay:
    """Loads as they were, and as a queue would have had them.

    Attributes:
        rates: requests per second, ascending, [rates].
        measured_ms, simulated_ms: latencies of each load at the slowest of these, [rounds][at most rates][requests].
        service_ms: service times of each round, at these rates together, [rounds][requests].
        servers: of the queue.
    """

    rates: Sequence[float]
    measured_ms: Sequence[Sequence[FloatArray]]
    simulated_ms: Sequence[Sequence[FloatArray]]
    service_ms: Sequence[FloatArray]
    servers: int

    @cached_property
    def long_run(self) -> FloatArray:
        """Logarithm of p99 of a long run in mean service times, [utilizations]."""
        every = np.concatenate(self.service_ms)
        services = np.random.default_rng(0).choice(every, size=_LONG_RUN) / every.mean()
        due = poisson(2 * _LONG_RUN, seed=0)[:_LONG_RUN]
        runs = (served(due / (each * self.servers), services, servers=self.servers) for each in UTILIZATIONS)
        return np.log([np.percentile(run, PERCENT) for run in runs])

    def is_like(self, objective: Objective) -> bool:
        """Whether the queue has the p99 that was measured, in all rounds together, at the rates that count."""
        factors, weights = self._factors(objective, range(len(self.measured_ms)))
        counted = factors[weights >= _LEAST_WEIGHT]
        return len(counted) > 0 and bool(np.abs(counted).max() <= np.log(MOST_OFF))

    def factor(self, objective: Objective, rounds: Sequence[int] | NDArray[np.int64]) -> float:
        """Measured p99 over simulated: mean of logarithms, in which rates count that have it near the objective."""
        factors, weights = self._factors(objective, rounds)
        return float(np.exp(np.average(factors, weights=weights)))

    def rate(self, objective: Objective, rounds: Sequence[int] | NDArray[np.int64]) -> float:
        """Requests per second that keep the objective, by the rounds of those numbers; never beyond the rates that were visited."""
        mean_ms = float(np.concatenate([self.service_ms[number] for number in rounds]).mean())
        longest = np.log(objective.slo_ms / (self.factor(objective, rounds) * mean_ms))
        found = float(np.interp(longest, self.long_run, UTILIZATIONS)) * self.servers * 1e3 / mean_ms
        return float(np.clip(found, self.rates[0], self.rates[-1]))

    def _factors(self, objective: Objective, rounds: Sequence[int] | NDArray[np.int64]) -> tuple[FloatArray, FloatArray]:
        """Logarithms of measured p99 over simulated, and how much these count, both [rates]."""
        measured, simulated = (_p99(each, rounds) for each in (self.measured_ms, self.simulated_ms))
        weights = np.exp(-((np.log(measured / objective.slo_ms) / _NEAR) ** 2))
        return np.log(measured / simulated), weights


def replayed(rates: Sequence[float], rounds: Sequence[Sequence[RequestLog]], *, servers: int, objective: Objective) -> Replay | None:
    """Loads through a queue, at all rates up to the first at which an answer was not right; None where no such queue is like the service.

    Args:
        rates: requests per second, ascending, [rates].
        rounds: logs of the loads, [rounds][rates].
        servers: requests that are answered at the same time.
        objective: rates are compared where p99 is near it.
    """
    count = next((place for place, logs in enumerate(zip(*rounds, strict=True)) if not all(map(_is_known, logs))), len(rates))
    if count == 0:
        return None
    kept = [logs[:count] for logs in rounds]
    services = [[_service_ms(log) for log in logs] for logs in kept]
    simulated = [
        [served(1e3 * log.intended_s, each, servers=servers, busy=float(log.queue_ms[0])) for log, each in zip(logs, row, strict=True)]
        for logs, row in zip(kept, services, strict=True)
    ]
    measured = [[log.latency_ms for log in logs] for logs in kept]
    found = Replay(rates, measured, simulated, [np.concatenate(row) for row in services], servers)
    return found if found.is_like(objective) else None


def _is_known(log: RequestLog) -> bool:
    """Whether all answers were right, and the service says how long each took it."""
    return len(log) > 0 and bool(log.good.all()) and bool(np.isfinite(_service_ms(log)).all())


def _service_ms(log: RequestLog) -> FloatArray:
    """What the service says that each request took, but for waiting, [requests]."""
    return np.asarray(log.total_ms - log.queue_ms, dtype=np.float64)


def _p99(loads: Sequence[Sequence[FloatArray]], rounds: Sequence[int] | NDArray[np.int64]) -> FloatArray:
    """Of all of these rounds together, [rates]."""
    return np.array([np.percentile(np.concatenate(each), PERCENT) for each in zip(*(loads[number] for number in rounds), strict=True)])
