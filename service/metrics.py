"""What the service counts, for Prometheus. Names carry units; labels are bounded: tasks, variants, statuses and reasons, never input."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
TOKENS = (16, 32, 64, 128, 256, 384, 512, 1024, 2048, 4096, 16384)
VARIANT = ("task", "model", "variant")


class Metrics:
    """One application's metrics, in a registry of their own."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests by outcome.", ("route", "variant", "code"))
        self.shed = self._counter("shed", "Requests refused or dropped before they ran.", ("reason",))
        self.errors = self._counter("errors", "Requests that failed.", ("type",))
        self.tokens = self._counter(
            "tokens",
            "Tokens of finished texts (input), of calls with their padding (padded), and that were generated (generated).",
            ("kind", *VARIANT),
        )
        self.duration = self._histogram("request_duration_seconds", "From the first byte to the last.", ("route", "variant"))
        self.queue = self._histogram("queue_duration_seconds", "Waiting.", VARIANT)
        self.tokenize = self._histogram("tokenize_duration_seconds", "From text to tokens.", VARIANT)
        self.inference = self._histogram("inference_duration_seconds", "In the runtime, all windows of a text.", VARIANT)
        self.postprocess = self._histogram("postprocess_duration_seconds", "From logits to the answer.", VARIANT)
        self.decode_step = self._histogram("decode_step_duration_seconds", "One token of each sequence that is decoded.", VARIANT)
        self.first_token = self._histogram("first_token_duration_seconds", "From a streamed request to its first token.", VARIANT)
        self.batch_rows = self._histogram("batch_rows", "Rows in one call.", (), ROWS)
        self.batch_tokens = self._histogram("batch_tokens", "Padded tokens in one call.", (), TOKENS)
        self.reloads = self._counter("reloads", "Reloads of the models folder.", ("outcome",))
        self._variants: dict[tuple[str, str, str], VariantMetrics] = {}
        self._generating: dict[tuple[str, str, str], GenerationMetrics] = {}
        self._answered: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, route: str, variant: str, status: int, seconds: float) -> None:
        """Count an answer."""
        key = (route, variant, status)
        found = self._answered.get(key)
        if found is None:
            found = self._answered[key] = self.requests.labels(route, variant, str(status)), self.duration.labels(route, variant)
        found[0].inc()
        found[1].observe(seconds)

    def of(self, task: str, model: str, variant: str) -> "VariantMetrics":
        """What is counted of one variant; looked up once, as each look-up costs every request."""
        labels = (task, model, variant)
        found = self._variants.get(labels)
        if found is None:
            found = VariantMetrics(
                queue=self.queue.labels(*labels),
                tokenize=self.tokenize.labels(*labels),
                inference=self.inference.labels(*labels),
                postprocess=self.postprocess.labels(*labels),
                input_tokens=self.tokens.labels("input", *labels),
                padded_tokens=self.tokens.labels("padded", *labels),
            )
            self._variants[labels] = found
        return found

    def of_generation(self, task: str, model: str, variant: str) -> "GenerationMetrics":
        """What is counted of one variant that generates."""
        labels = (task, model, variant)
        found = self._generating.get(labels)
        if found is None:
            found = self._generating[labels] = GenerationMetrics(
                tokens=self.tokens.labels("generated", *labels),
                step=self.decode_step.labels(*labels),
                first_token=self.first_token.labels(*labels),
            )
        return found

    def observe(self, read: Callable[[], Iterable[Metric]]) -> None:
        """Collect these too, whenever the metrics are read."""
        self.registry.register(_Observed(read))

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"secateur_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...] = SECONDS) -> Histogram:
        return Histogram(f"secateur_{name}", text, labels, buckets=buckets, registry=self.registry)


@dataclass(frozen=True)
class VariantMetrics:
    """The counts of one variant."""

    queue: Histogram
    tokenize: Histogram
    inference: Histogram
    postprocess: Histogram
    input_tokens: Counter
    padded_tokens: Counter


@dataclass(frozen=True)
class GenerationMetrics:
    """The counts of one variant that generates."""

    tokens: Counter
    step: Histogram
    first_token: Histogram


class _Observed(Collector):
    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()


def gauge(name: str, text: str, value: float) -> Metric:
    """One value as of now."""
    return GaugeMetricFamily(f"secateur_{name}", text, value)


def counter(name: str, text: str, value: float) -> Metric:
    """One total as of now."""
    return CounterMetricFamily(f"secateur_{name}", text, value)


def labelled(name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
    """Values as of now, by labels."""
    family = GaugeMetricFamily(f"secateur_{name}", text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
