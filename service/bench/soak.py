"""A long time under full load with texts of mixed lengths: does memory grow? Runtimes keep memory for each new shape that they see."""

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.bench.client import Generator, Message
from service.bench.processes import resident_bytes
from service.bench.servers import our_server, started
from service.bench.statistics import slope
from service.bench.subjects import Subject, find_subjects
from service.bench.texts import make_load
from service.errors import BenchError
from service.runtime.machine import core_count

LENGTHS = {"question-answering": (32, 48, 64, 96, 128, 160, 192, 256, 320, 384), "text-classification": (8, 12, 16, 24, 32, 48, 64, 128)}
MOST_TEXTS_PER_REQUEST = 4
SLICE_SECONDS = 5.0
SETTLING_SHARE = 0.2
SMALLEST = ("compact-int8",)
MOST_MB = 350.0
MOST_SLOPE = 1.0


@dataclass(frozen=True)
class Soak:
    """What memory did.

    Attributes:
        variants: what was served, of every model.
        minutes: how long.
        requests: answered with 200.
        failed: otherwise.
        problem: the first of those.
        rss_start_mb, rss_end_mb, rss_peak_mb: memory of the service.
        slope_mb_per_minute: by least squares, after the first fifth of the time.
        samples: minutes since the start, and memory in MB.
    """

    variants: tuple[str, ...]
    minutes: float
    requests: int
    failed: int
    problem: str
    rss_start_mb: float
    rss_end_mb: float
    rss_peak_mb: float
    slope_mb_per_minute: float
    samples: tuple[tuple[float, float], ...]

    @property
    def promises(self) -> dict[str, bool]:
        """What should hold, in words, and whether it did."""
        promises = {
            "every request was answered": self.failed == 0,
            f"memory grows by at most {MOST_SLOPE:g} MB a minute": self.slope_mb_per_minute <= MOST_SLOPE,
        }
        if self.variants == SMALLEST:
            promises[f"at most {MOST_MB:g} MB"] = self.rss_peak_mb <= MOST_MB
        return promises


def soak(models: Path, *, variants: tuple[str, ...], minutes: float, say: Callable[[str], None]) -> Soak:
    """Keep the service busy; `say` is told of its memory now and then."""
    subjects = [subject for group in find_subjects(models, variants, note=say) for subject in group]
    messages = mixed_messages(subjects)
    runtimes = {subject.key: subject.runtime for subject in subjects}
    connections = 2 * core_count()
    samples: list[tuple[float, float]] = []
    requests = failed = 0
    problem = ""
    with ExitStack() as stack:
        server = stack.enter_context(started(our_server(models, variants=list(runtimes), runtimes=runtimes)))
        generator = stack.enter_context(Generator())
        server.wait()
        began = time.monotonic()
        while (passed := (time.monotonic() - began) / 60) < minutes:
            samples.append((passed, resident_bytes(server.pids) / 1e6))
            say(f"{passed:.1f} of {minutes:g} minutes, {samples[-1][1]:.0f} MB")
            random.Random(len(samples)).shuffle(messages)
            seen = generator.closed(server.port, messages, connections=connections, seconds=SLICE_SECONDS, pids=[])
            visit = seen.visit(lambda index, body: True)
            requests, failed, problem = requests + len(seen.status) - visit.failed, failed + visit.failed, problem or visit.problem
        samples.append(((time.monotonic() - began) / 60, resident_bytes(server.pids) / 1e6))
    return summary(variants, samples, requests, failed, problem)


def mixed_messages(subjects: Sequence[Subject]) -> list[Message]:
    """Requests of all lengths and several texts to every variant, some of them long enough for several windows."""
    messages: list[Message] = []
    for subject in subjects:
        for tokens in sorted({min(length, subject.model.manifest.max_length) for length in LENGTHS[subject.model.manifest.task]}):
            for texts in (1, random.Random(tokens).randint(2, MOST_TEXTS_PER_REQUEST)):
                try:
                    messages += make_load(subject.model, tokens=tokens, texts_per_request=texts).messages(subject.variant)
                except BenchError:
                    continue  # the question alone is longer
    return messages


def soak_lines(result: Soak) -> list[str]:
    """For people."""
    problem = f": {result.problem}" if result.failed else ""
    return [
        f"{result.minutes:.1f} minutes, {result.requests} requests answered, {result.failed} not{problem}",
        f"memory {result.rss_start_mb:.0f} MB at the start, {result.rss_peak_mb:.0f} MB at most, {result.rss_end_mb:.0f} MB at the end,"
        f" growing by {result.slope_mb_per_minute:+.2f} MB a minute after the first fifth",
        *(f"{'pass' if kept else 'FAIL'}  {promise}" for promise, kept in result.promises.items()),
    ]


def summary(variants: tuple[str, ...], samples: Sequence[tuple[float, float]], requests: int, failed: int, problem: str) -> Soak:
    """From minutes and megabytes."""
    times, sizes = np.array(samples, dtype=np.float64).T
    settled = times >= SETTLING_SHARE * times[-1]
    return Soak(
        variants=variants,
        minutes=float(times[-1]),
        requests=requests,
        failed=failed,
        problem=problem,
        rss_start_mb=float(sizes[0]),
        rss_end_mb=float(sizes[-1]),
        rss_peak_mb=float(sizes.max()),
        slope_mb_per_minute=slope(times[settled], sizes[settled]),
        samples=tuple(samples),
    )
