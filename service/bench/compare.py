"""From visits to figures: one row per cell, and what is compared within rounds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from service.bench.layers import ENGINE, HTTP, HTTP_ONE, RAW, RAW_ONE
from service.bench.peers import DEFAULT
from service.bench.statistics import FloatArray, Interval, bootstrap_median, efficiency, percentile
from service.bench.texts import Load
from service.bench.visit import Samples, Visit

EFFICIENCY, ENGINE_EFFICIENCY = "efficiency", "engine's efficiency"
ADDED_CPU, ADDED_P50 = "added CPU, ms per request", "added p50 for one client, ms"
OVER, BEST_TUNED = "over ", "the best tuned peer"

OURS = (RAW, ENGINE, HTTP, RAW_ONE, HTTP_ONE)


@dataclass(frozen=True)
class Row:
    """One cell, over all its visits.

    Attributes:
        load, variant, layer: which cell.
        tokens_per_request: of all its texts, without padding.
        requests_per_second, tokens_per_second, cpu_ms_per_request: medians over visits; CPU is of who answers.
        p50_ms, p99_ms: over all requests of all visits, with the cell's number of clients.
        generator_share: of the machine's processor time, taken by making the load.
        failed: answers that were not 200.
        unexpected: different answers that were not the expected one.
        problem: the first of either.
    """

    load: str
    variant: str
    layer: str
    tokens_per_request: int
    requests_per_second: float
    tokens_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    generator_share: float
    failed: int
    unexpected: int
    problem: str


@dataclass(frozen=True)
class Comparison:
    """One comparison within rounds; `name` says of what."""

    load: str
    variant: str
    name: str
    interval: Interval


def row_of(key: tuple[str, str, str], visits: list[Visit], load: Load, *, cores: int) -> Row:
    """The figures of one cell."""
    latencies = np.concatenate([visit.latencies_ms for visit in visits])
    rate = _median(visit.requests_per_second for visit in visits)
    return Row(
        *key,
        tokens_per_request=load.tokens_per_request,
        requests_per_second=rate,
        tokens_per_second=rate * load.tokens_per_request,
        p50_ms=percentile(latencies, 50),
        p99_ms=percentile(latencies, 99),
        cpu_ms_per_request=_median(visit.cpu_ms_per_request for visit in visits),
        generator_share=_median(visit.generator_cores for visit in visits) / cores,
        failed=sum(visit.failed for visit in visits),
        unexpected=max(visit.unexpected for visit in visits),
        problem=next((visit.problem for visit in visits if visit.problem), ""),
    )


def comparisons(load: str, variant: str, samples: Samples, *, cores: int) -> list[Comparison]:
    """All that can be compared for one variant under one load."""
    layers = {layer: visits for (name, label, layer), visits in samples.items() if (name, label) == (load, variant)}

    def compared(name: str, layer: str, against: str, by: Callable[[Visit, Visit], float]) -> list[Comparison]:
        if layer not in layers or against not in layers:
            return []
        values = np.array([by(*pair) for pair in zip(layers[layer], layers[against], strict=True)])
        return [Comparison(load, variant, name, bootstrap_median(values))]

    def efficient(served: Visit, raw: Visit) -> float:
        rates = served.requests_per_second, raw.requests_per_second
        return efficiency(*rates, cores=cores, generator_cores=served.generator_cores)

    def faster(ours: Visit, other: Visit) -> float:
        return per_core_left(ours, cores) / per_core_left(other, cores)

    found = [
        *compared(EFFICIENCY, HTTP, RAW, efficient),
        *compared(ENGINE_EFFICIENCY, ENGINE, RAW, efficient),
        *compared(ADDED_CPU, HTTP, RAW, lambda ours, raw: ours.cpu_ms_per_request - raw.cpu_ms_per_request),
        *compared(ADDED_P50, HTTP_ONE, RAW_ONE, lambda ours, raw: percentile(ours.latencies_ms, 50) - percentile(raw.latencies_ms, 50)),
    ]
    peers = {layer: compared(OVER + layer, HTTP, layer, faster) for layer in layers if layer not in OURS}
    tuned = [each for layer, ratio in peers.items() if not layer.endswith(f"({DEFAULT})") for each in ratio]
    found += [each for ratio in peers.values() for each in ratio]
    if tuned:
        found.append(replace(min(tuned, key=lambda each: each.interval.value), name=OVER + BEST_TUNED))
    return found


def per_core_left(visit: Visit, cores: float) -> float:
    """Requests per second and per core that the generator left."""
    return visit.requests_per_second / (cores - visit.generator_cores)


def _median(values: Iterable[float]) -> float:
    array: FloatArray = np.fromiter(values, dtype=np.float64)
    return float(np.median(array))
