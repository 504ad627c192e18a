"""What is measured: cells, each visited once in every round, and what a visit saw."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from service.bench.statistics import FloatArray, share_inside


@dataclass(frozen=True)
class Visit:
    """What one cell did in one window.

    Attributes:
        requests: answered in the window, by the share of each that lies inside.
        seconds: length of the window.
        cpu_seconds: processor time of who answered.
        latencies_ms: of each call that ended in the window with an answer.
        generator_seconds: processor time of who asked, where that is another process.
        failed: answers that were not 200.
        unexpected: different answers that were not the expected one.
        problem: the first of either.
    """

    requests: float
    seconds: float
    cpu_seconds: float
    latencies_ms: FloatArray
    generator_seconds: float = 0.0
    failed: int = 0
    unexpected: int = 0
    problem: str = ""

    @property
    def requests_per_second(self) -> float:
        """Throughput."""
        return self.requests / self.seconds

    @property
    def cpu_ms_per_request(self) -> float:
        """Processor time of who answered."""
        return 1e3 * self.cpu_seconds / max(self.requests, 1e-9)

    @property
    def generator_cores(self) -> float:
        """Cores that who asked kept busy."""
        return self.generator_seconds / self.seconds


@dataclass(frozen=True)
class Cell:
    """One thing that is measured.

    Attributes:
        load: what is asked.
        variant: of the model.
        layer: who answers: `raw`, `engine`, `http`, the same with `-1` for one client, or a peer.
        visit: measure once, in a window of so many seconds.
    """

    load: str
    variant: str
    layer: str
    visit: Callable[[float], Visit]

    @property
    def key(self) -> tuple[str, str, str]:
        """Load, variant, layer."""
        return self.load, self.variant, self.layer


Span = tuple[float, float, float]
Samples = dict[tuple[str, str, str], list[Visit]]


def interleaved(cells: Sequence[Cell], *, rounds: int, seconds: float, before: Callable[[Cell], None]) -> Samples:
    """Visit every cell once a round, forwards in one round and backwards in the next (A-B-B-A), so that slow drift falls on all alike.

    Args:
        cells: what to visit.
        rounds: how often.
        seconds: length of each window.
        before: told of each visit, for progress.
    """
    samples: Samples = {cell.key: [] for cell in cells}
    for number in range(rounds):
        for cell in cells if number % 2 == 0 else reversed(cells):
            before(cell)
            samples[cell.key].append(cell.visit(seconds))
    return samples


def visit_of(spans: Iterable[Span], *, opened: float, shut: float, cpu_seconds: float, generator_seconds: float = 0.0) -> Visit:
    """A visit from its calls: start, end (seconds of one clock) and the requests that each call answered."""
    table = np.array(list(spans), dtype=np.float64).reshape(-1, 3)
    started, ended, requests = table.T
    inside = (ended > opened) & (ended <= shut) & (requests > 0)
    return Visit(
        requests=share_inside(started, ended, requests, opened=opened, shut=shut),
        seconds=shut - opened,
        cpu_seconds=cpu_seconds,
        latencies_ms=1e3 * (ended - started)[inside],
        generator_seconds=generator_seconds,
    )
