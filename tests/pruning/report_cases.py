"""Reports of runs that never ran, and what a test reads off a page."""

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any, Literal

from pruning.config import SpeedupTarget, Target
from pruning.report import Headline, ModelReport, RunReport, StageReport, TargetReport, VariantReport
from service.artifact import Counts, Difference, Latency, LayerShape, Machine, Macs, Metric, Precision, Variant

HOSTILE = "</title><script src=http://evil.example/x.js></script> | `qa` *x* [a](http://evil.example)"
MACHINE = Machine(cpu="A CPU", cores=2, isa=("avx2", "amx_int8"), runtime="onnxruntime 1.31.1")
DENSE_LAYERS = (LayerShape(heads=4, intermediate=16), LayerShape(heads=4, intermediate=16))


def metric_of(value: float, difference: float | None = None, *, spread: float = 1.0) -> Metric:
    """F1 on a development set."""
    found = (
        difference if difference is None else Difference(against="qa/dense", value=difference, low=difference - 0.5, high=difference + 0.5)
    )
    return Metric(
        name="f1", value=value, low=value - spread, high=value + spread, examples=100, dataset="squad", split="dev", difference=found
    )


def latency_of(kind: Literal["structural", "total"], speedup: float, length: int = 128) -> Latency:
    """A speed-up over dense."""
    low, high = 0.97 * speedup, 1.03 * speedup
    return Latency(
        sequence_length=length,
        callers=1,
        latency_ms=5.0,
        reference="qa/dense",
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        kind=kind,
        machine=MACHINE,
    )


def variant_of(name: Variant, size_bytes: int, metrics: tuple[Metric, ...] = (), latency: tuple[Latency, ...] = ()) -> VariantReport:
    """One artifact."""
    precision: Precision = "int8" if name.endswith("int8") else "fp32"
    return VariantReport(artifact=f"qa/{name}", variant=name, precision=precision, size_bytes=size_bytes, metrics=metrics, latency=latency)


def counts_of(density: float) -> dict[str, Any]:
    """Parameters and multiply-accumulates."""
    return {
        "parameters": Counts(encoder=int(1e7 * density), embeddings=10**7, total=int(1e7 + 1e7 * density)),
        "macs": Macs(encoder=int(1e9 * density), embeddings=0, total=10**9, sequence_length=128),
        "density": density,
    }


def dense_of(*extra: VariantReport) -> ModelReport:
    """The dense model."""
    variants = (variant_of("dense", 45_000_000, (metric_of(80.0),)), *extra)
    return ModelReport(**counts_of(1.0), layers=DENSE_LAYERS, variants=variants)


def target_of(
    speedup: float = 1.5, *, loss: float = 1.2, total: float = 3.0, target: Target | None = None, before: tuple[Metric, ...] = ()
) -> TargetReport:
    """A pruned model."""
    latency = (latency_of("structural", speedup), latency_of("total", total))
    int8 = variant_of("compact-int8", 19_000_000, (metric_of(80.0 - loss, -loss),), latency)
    return TargetReport(
        **counts_of(0.6),
        layers=(LayerShape(heads=3, intermediate=8), LayerShape(heads=0, intermediate=5)),
        variants=(variant_of("compact", 33_000_000), int8),
        target=target or SpeedupTarget(speedup=speedup, precision="int8", sequence_length=128),
        predicted_speedup=1.52,
        before_recovery=before,
    )


def report_of(*targets: TargetReport, **changes: Any) -> RunReport:
    """A run of these targets."""
    fields: dict[str, Any] = {
        "run": "qa",
        "task": "question-answering",
        "date": datetime(2026, 7, 1, 14, 3, tzinfo=UTC),
        "producer": "secateur 0.1.0",
        "machine": MACHINE,
        "recipe": "name: qa\n",
        "headline": Headline(metric="f1", dataset="squad", split="dev"),
        "dense": dense_of(variant_of("dense-int8", 24_000_000, (metric_of(79.8, -0.2),), (latency_of("total", 1.9),))),
        "targets": targets,
        "stages": (StageReport(name="prune", seconds=141.8, peak_memory_bytes=1_900_000_000),),
    }
    return RunReport(**(fields | changes))


class Page(HTMLParser):
    """What an HTML file would fetch or run, and its text."""

    def __init__(self, html: str) -> None:
        """Read all of it."""
        super().__init__()
        self.fetched: list[str | None] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag, and every attribute that loads something from elsewhere."""
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "srcset", "data", "action")
        self.fetched += [value for name, value in attrs if name in names and not (value or "").startswith("#")]

    def handle_data(self, data: str) -> None:
        """Gather text."""
        self.text += data
