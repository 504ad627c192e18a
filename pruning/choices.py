"""The measurements behind two defaults: which form of the graph is served, and which 8-bit scheme. Each can be repeated anywhere.

Forms of the graph: as the exporter traced it; *cleaned* (`onnx_graph.clean`); cleaned with the shapes of inner values left in, from which
ONNX Runtime fuses residual additions and norms; cleaned with Q, K and V in one product (`fusion.fuse_qkv`); and cleaned with one operator
for each attention of an unpadded row (`attention_node.fuse_attention`), which is what is served.
Schemes: dynamic, and static with each way of calibrating, on accuracy, size and latency.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from transformers import PreTrainedModel

from pruning.attention_node import fuse_attention
from pruning.bench import PRECISIONS, random_row
from pruning.calibration import Inputs
from pruning.comparison import Compared, compare_on
from pruning.config import DataSource, Method
from pruning.export import to_onnx
from pruning.fusion import fuse_qkv
from pruning.quantization import quantize_artifact
from pruning.timing import Call, Ratio, interleaved
from service.runtime.base import Array
from service.runtime.onnx import OnnxSession

CLEANED = "cleaned"
WITH_SHAPES, ONE_OPERATOR = "with inner shapes", "attention in one"
FINISHED: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    WITH_SHAPES: onnx.shape_inference.infer_shapes,
    ONE_OPERATOR: fuse_attention,
}
"""What is done to a form once more when it has been quantized."""
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy")
SECONDS = 12.0


@dataclass(frozen=True)
class FormSpeed:
    """How fast one form of a graph is.

    Attributes:
        form: Which form.
        precision: fp32 or int8.
        sequence_length: Tokens in the row.
        latency_ms: Median latency of one row, one thread.
        ratio: How many times faster than the cleaned graph in the same precision, with its interval.
    """

    form: str
    precision: str
    sequence_length: int
    latency_ms: float
    ratio: Ratio

    def __str__(self) -> str:
        """One line of the table."""
        interval = f"{self.ratio.value:.3f}x ({self.ratio.low:.3f} to {self.ratio.high:.3f})"
        return f"{self.sequence_length:>4} tokens  {self.precision:<5} {self.form:<18} {self.latency_ms:8.2f} ms  {interval} of {CLEANED}"


def graph_forms(model: PreTrainedModel, task: str) -> dict[str, onnx.ModelProto]:
    """The model's graph in each form, fp32, but for what belongs to a form only when it has been quantized (`FINISHED`)."""
    cleaned = to_onnx(model, task)
    return {
        CLEANED: cleaned,
        "as traced": to_onnx(model, task, clean=False),
        WITH_SHAPES: cleaned,
        "QKV in one": fuse_qkv(cleaned),
        ONE_OPERATOR: cleaned,
    }


def compare_forms(model: PreTrainedModel, task: str, *, sequence_lengths: Sequence[int], seconds: float = SECONDS) -> list[FormSpeed]:
    """Time every form in every precision at every length, all forms of one precision and length interleaved."""
    forms = graph_forms(model, task)
    return [
        row
        for precision, quantize in PRECISIONS.items()
        for length in sequence_lengths
        for row in _time_forms(forms, quantize, random_row(model, length), precision=precision, length=length, seconds=seconds)
    ]


def _time_forms(
    forms: Mapping[str, onnx.ModelProto],
    quantize: Callable[[onnx.ModelProto], onnx.ModelProto],
    row: Mapping[str, Array],
    *,
    precision: str,
    length: int,
    seconds: float,
) -> list[FormSpeed]:
    calls = {form: _call(FINISHED.get(form, _as_is)(quantize(graph)), row) for form, graph in forms.items()}
    timings = interleaved(calls, seconds=seconds, description=f"{precision}, {length} tokens")
    return [FormSpeed(form, precision, length, timings.median_ms(form), timings.ratio(form, CLEANED)) for form in forms]


def _as_is(graph: onnx.ModelProto) -> onnx.ModelProto:
    return graph


def _call(graph: onnx.ModelProto, row: Mapping[str, Array]) -> Call:
    """One row through the graph."""
    session = OnnxSession(graph.SerializeToString(), threads=1)
    feed = {name: row[name] for name in session.inputs}
    return lambda: session.run(feed)


def compare_schemes_of(
    artifact: Path, *, sources: Sequence[DataSource], calibration: Sequence[Inputs], sequence_length: int, skip_worst: int = 0
) -> dict[str, Compared]:
    """Quantize an fp32 artifact by each scheme, and measure each against it: accuracy with paired differences, size, latency.

    Args:
        artifact: fp32.
        sources: What accuracy is measured on; validation data.
        calibration: Real rows without padding, for the static schemes and for smoothing.
        sequence_length: Tokens at which latency is compared.
        skip_worst: Static: layers that stay fp32.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        dynamic, smoothed = Path(folder) / "dynamic", Path(folder) / "smoothed"
        quantize_artifact(artifact, dynamic)
        quantize_artifact(artifact, smoothed, calibration=calibration, smoothed=True)
        static = {f"static, {method}": Path(folder) / method for method in METHODS}
        for method, target in zip(METHODS, static.values(), strict=True):
            quantize_artifact(artifact, target, scheme="static", calibration=calibration, method=method, skip_worst=skip_worst)
        for name, target in {"dynamic": dynamic, "dynamic, smooth": smoothed, **static}.items():
            found[name] = compare_on(target, sources=sources, against=artifact, lengths=(sequence_length,))
    return found
