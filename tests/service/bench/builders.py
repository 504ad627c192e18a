"""Loads, visits and traffic for tests of what is made of them."""

import numpy as np

from service.bench.client import Traffic
from service.bench.texts import Load
from service.bench.visit import Samples, Visit


def load_of(task: str = "text-classification", texts: int = 1, name: str = "sentiment, 32 tokens", tokens: int = 32) -> Load:
    """A load of one request."""
    return Load(name, "sentiment", task, tokens, texts, bodies=("a text",), requests=((),))


def visit(rate: float, *, cpu_ms: float = 1.0, generator: float = 0.0, latency_ms: float = 1.0, **changes: object) -> Visit:
    """A visit of one second with so many requests; `generator` are cores."""
    fields = {"requests": rate, "seconds": 1.0, "cpu_seconds": rate * cpu_ms / 1e3, "latencies_ms": np.full(4, latency_ms)}
    return Visit(**{**fields, "generator_seconds": generator, **changes})


def samples(load: str = "sentiment, 32 tokens", variant: str = "dense", **layers: list[Visit]) -> Samples:
    """Visits by layer; underscores stand for spaces."""
    return {(load, variant, layer): visits for layer, visits in layers.items()}


def traffic(rows: list[tuple[float, float, int]], *, opened: float = 0.0, shut: float = 10.0, **changes: object) -> Traffic:
    """Traffic of requests that were due, ended and were answered so."""
    due, ended, status = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    fields = {
        "intended": due,
        "sent": due,
        "ended": ended,
        "status": status.astype(np.int64),
        "opened": opened,
        "shut": shut,
        "generator_seconds": 0.0,
        "server_seconds": 0.0,
        "bodies": (),
        "problem": "",
    }
    return Traffic(**{**fields, **changes})
