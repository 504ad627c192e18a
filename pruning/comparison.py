"""One artifact measured, or two side by side: accuracy with paired differences, and latency as an interleaved ratio."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pruning.config import DataSource
from pruning.data import load_source
from pruning.data_sources import source_name
from pruning.evaluation import Evaluation, evaluate
from pruning.export import update_manifest
from pruning.results import size_bytes
from pruning.serving_latency import Decoding, open_calls, own_decoding
from pruning.timing import Ratio, interleaved
from service.artifact import Manifest, Metric, read_manifest
from service.model import AnyModel, load_model

SECONDS = 10.0


@dataclass(frozen=True)
class Compared:
    """What `evaluate` prints.

    Attributes:
        artifact: `<name>/<variant>`.
        size_bytes: Of the artifact's files.
        metrics: With paired differences where another artifact was given.
        against: The other artifact, `<name>/<variant>`.
        ratios: How many times faster than the other one, by sequence length.
        callers: Concurrent callers of those ratios.
        decoding: What was generated for those ratios; None by encoders.
    """

    artifact: str
    size_bytes: int
    metrics: tuple[Metric, ...]
    against: str | None = None
    ratios: dict[int, Ratio] | None = None
    callers: int = 1
    decoding: Decoding | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        metrics = [metric.model_dump(mode="json") for metric in self.metrics]
        ratios = {length: asdict(ratio) for length, ratio in (self.ratios or {}).items()}
        return asdict(self) | {"metrics": metrics, "ratios": ratios}

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.artifact}  {self.size_bytes / 1e6:.1f} MB"]
        lines += [_metric_line(metric) for metric in self.metrics]
        lines += [
            f"  latency at {length} tokens{self._generated()}, {self.callers} caller(s): "
            f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f}) over {self.against}"
            for length, ratio in (self.ratios or {}).items()
        ]
        return "\n".join(lines)

    def _generated(self) -> str:
        return "" if self.decoding is None else f", {self.decoding.target_length} generated with {self.decoding.beams} beam(s)"


def compare_on(
    artifact: Path,
    *,
    sources: Sequence[DataSource],
    against: Path | None = None,
    positive_label: int | None = None,
    lengths: Sequence[int] = (),
    callers: int = 1,
    write: bool = False,
) -> Compared:
    """Evaluate an artifact on each source, and compare it with another one if that is given.

    Args:
        artifact: Folder of the artifact.
        sources: Datasets; labels are checked against the artifact's.
        against: Folder of the other artifact.
        positive_label: Classification: also F1 of this label.
        lengths: Tokens at which latency is compared; only with `against`.
        callers: Concurrent callers of that comparison, one thread each.
        write: Write the metrics into the artifact's manifest.
    """
    model = load_model(artifact)
    other = None if against is None else load_model(against)
    metrics: list[Metric] = []
    for source in sources:
        found = _evaluate(model, source, positive_label)
        metrics += (
            found.metrics if other is None else found.compared_with(_evaluate(other, source, positive_label), against=_name(other.manifest))
        )
    if write:
        update_manifest(artifact, metrics=metrics)
    ratios = None if against is None else {length: compare_latency(artifact, against, length=length, callers=callers) for length in lengths}
    return Compared(
        artifact=_name(model.manifest),
        size_bytes=size_bytes(model.manifest),
        metrics=tuple(metrics),
        against=None if other is None else _name(other.manifest),
        ratios=ratios,
        callers=callers,
        decoding=own_decoding(other.manifest) if other is not None and lengths else None,
    )


def compare_latency(artifact: Path, against: Path, *, length: int, callers: int, seconds: float = SECONDS) -> Ratio:
    """How many times faster `artifact` answers one row of that length than `against`; both generate as `against` does by default."""
    decoding = own_decoding(read_manifest(against))
    calls = {str(folder): open_calls(folder, decoding)(length) for folder in (artifact, against)}
    return interleaved(calls, seconds=seconds, callers=callers, description=f"{length} tokens").ratio(str(artifact), str(against))


def _evaluate(model: AnyModel, source: DataSource, positive_label: int | None) -> Evaluation:
    examples = load_source(source, model.manifest.task, labels=model.manifest.labels)
    return evaluate(model, examples, dataset=source_name(source), split=source.split, positive_label=positive_label)


def _name(manifest: Manifest) -> str:
    return f"{manifest.name}/{manifest.variant}"


def _metric_line(metric: Metric) -> str:
    value = f"{metric.name} {metric.value:.2f} ({metric.low:.2f} to {metric.high:.2f})"
    line = f"  {value}  {metric.dataset} {metric.split}, {metric.examples} examples"
    if metric.difference is None:
        return line
    difference = metric.difference
    return f"{line}; {difference.value:+.2f} ({difference.low:+.2f} to {difference.high:+.2f}) against {difference.against}"
