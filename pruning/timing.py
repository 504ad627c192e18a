"""Honest timing on a machine that others use too: everything that is compared runs in one interleaved loop.

A round visits every call once, forwards in one round and backwards in the next (A-B-B-A), so that slow drift falls on all of them
alike. A visit first runs its call untimed (another model's weights were in the caches) and keeps the median of a short burst. What is
reported of two calls is the median over rounds of their ratio *within* a round, with a bootstrap interval (Efron, 1979).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Barrier

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Call = Callable[[], object]
Clock = Callable[[], int]

BURST_MS = 10.0
MAX_BURST = 8
MIN_ROUNDS = 5
_WARM_UP_CALLS = 2
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A ratio of latencies with the ends of its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """Latencies of calls that were timed together.

    Attributes:
        samples: per name, milliseconds `[rounds]`; the same position is the same round for every name.
    """

    samples: Mapping[str, NDArray[np.float64]]

    def median_ms(self, name: str) -> float:
        """Median latency of one call, in milliseconds."""
        return float(np.median(self.samples[name]))

    def quiet_ms(self, name: str) -> float:
        """Lower quartile, in milliseconds: nearer than the median to what a call takes while nothing else runs, as noise only adds."""
        return float(np.percentile(self.samples[name], 25))

    def spread(self, name: str) -> float:
        """Distance between the quartiles over the median: how unquiet the machine was."""
        low, middle, high = np.percentile(self.samples[name], (25, 50, 75))
        return float((high - low) / middle)

    def ratio(self, name: str, reference: str, *, seed: int = 0) -> Ratio:
        """How many times faster `name` is than `reference`: latency of the reference over latency of `name`, paired by round."""
        ratios = self.samples[reference] / self.samples[name]
        return bootstrap_median(ratios, seed=seed)


def bootstrap_median(values: NDArray[np.float64], *, seed: int = 0) -> Ratio:
    """Median of `values` `[rounds]` with its percentile-bootstrap 95 % interval."""
    picks = np.random.default_rng(seed).integers(len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), (2.5, 97.5))
    return Ratio(value=float(np.median(values)), low=float(low), high=float(high))


def interleaved(
    calls: Mapping[str, Call],
    *,
    seconds: float = 6.0,
    rounds: int | None = None,
    callers: int = 1,
    description: str | None = None,
    clock: Clock = time.perf_counter_ns,
    stopwatch: Clock | None = None,
) -> Timings:
    """Time all `calls` in one interleaved loop.

    Args:
        calls: what to time, by name; each must be safe to call from `callers` threads at once.
        seconds: how long to go on; at least `MIN_ROUNDS` rounds are made, whatever they take.
        rounds: make exactly this many rounds instead.
        callers: threads that make the same call at the same time; a sample is then the latency that each of them sees.
        description: label of the progress bar; no bar without one.
        clock: nanoseconds that only go forwards; says when `seconds` are over.
        stopwatch: what a call is timed by, `clock` by default. `time.thread_time_ns` counts only while the calling thread has the
            processor: the same as time for a call that keeps to its thread, but for what other processes take away.
    """
    if not calls:
        raise ValueError("nothing to time: `calls` is empty")
    stopwatch = stopwatch or clock
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with _crew(callers) as crew:
        bursts = {name: _burst(call, stopwatch) for name, call in calls.items()}
        for order in _rounds(list(calls), seconds=seconds, rounds=rounds, description=description, clock=clock):
            for name in order:
                durations = crew(_Visit(calls[name], bursts[name], stopwatch))
                samples[name].append(float(np.median(durations)) / 1e6)
    return Timings({name: np.asarray(values, dtype=np.float64) for name, values in samples.items()})


@dataclass(frozen=True)
class _Visit:
    """One caller's part of a visit: an untimed call, then `burst` timed ones."""

    call: Call
    burst: int
    stopwatch: Clock

    def __call__(self) -> list[int]:
        self.call()
        durations = []
        for _ in range(self.burst):
            start = self.stopwatch()
            self.call()
            durations.append(self.stopwatch() - start)
        return durations


def _burst(call: Call, stopwatch: Clock) -> int:
    """Warm `call` up; how many timed calls fit in one visit."""
    for _ in range(_WARM_UP_CALLS):
        call()
    start = stopwatch()
    call()
    duration_ms = max((stopwatch() - start) / 1e6, BURST_MS / MAX_BURST)
    return max(1, round(BURST_MS / duration_ms))


def _rounds(names: list[str], *, seconds: float, rounds: int | None, description: str | None, clock: Clock) -> Iterator[list[str]]:
    """The order of each round, until the time is used up or the rounds are made."""
    start = clock()
    total = 100 if rounds is None else rounds
    with tqdm(total=total, desc=description, unit="%" if rounds is None else "round", disable=None if description else True) as bar:
        done = 0
        while (done < rounds) if rounds is not None else (done < MIN_ROUNDS or clock() - start < seconds * 1e9):
            yield names if done % 2 == 0 else names[::-1]
            done += 1
            bar.update(1 if rounds is not None else _percent(clock() - start, seconds) - bar.n)


def _percent(elapsed_ns: int, seconds: float) -> int:
    return min(100, int(elapsed_ns / max(seconds * 1e7, 1.0)))


@contextmanager
def _crew(callers: int) -> Iterator[Callable[[_Visit], list[int]]]:
    """Who makes the calls: this thread, or `callers` threads that start each visit together."""
    if callers == 1:
        yield lambda visit: visit()
        return
    barrier = Barrier(callers)

    def together(visit: _Visit) -> list[int]:
        barrier.wait()
        return visit()

    with ThreadPoolExecutor(callers) as pool:

        def visit_by_all(visit: _Visit) -> list[int]:
            parts: list[Future[list[int]]] = [pool.submit(together, visit) for _ in range(callers)]
            return [duration for part in parts for duration in part.result()]

        yield visit_by_all
