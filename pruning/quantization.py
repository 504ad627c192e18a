"""ONNX fp32 to 8 bits, and to fp16 for GPU.

Dynamic: every linear layer's weight becomes signed 8 bits per output channel, its input is quantized to unsigned 8 bits as it comes
(U8S8, in codes that no processor saturates); attention core, normalisation and the task's head stay fp32. Static: the same with
activation ranges from a calibration sample (`pruning/calibration.py`), so rows may share a call without changing each other's answers,
and OpenVINO multiplies in 8 bits too. Embedding tables get 8 bits with one scale per row in both. A model that generates has a scheme of
its own (`pruning/seq2seq_quantization.py`). Nothing here changes the graph that it is given.
"""

import copy
import importlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from pruning import onnx_graph
from pruning.attention_node import fuse_attention
from pruning.calibration import Inputs, Range, calibrate
from pruning.checkpoint_manifest import MANIFEST_NAME as CHECKPOINT_NAME
from pruning.checkpoint_weights import INDEX_NAME
from pruning.config import Method, Scheme
from pruning.dynamic_quantization import finished
from pruning.dynamic_quantization import quantize_dynamic as quantize_dynamic
from pruning.errors import ConfigError
from pruning.export import golden, load_fp32, producer
from pruning.fusion import fuse_qkv
from pruning.quantizers import linear_layers, with_fixed_ranges
from pruning.seq2seq_artifact import golden as generating_golden
from pruning.seq2seq_artifact import sessions
from pruning.seq2seq_quantization import load_graphs, quantize_graphs
from pruning.shared_weights import store_table_apart
from pruning.smoothing import smooth
from pruning.storage import written
from service.artifact import (
    DECODER_GRAPH_NAME,
    ENCODER_GRAPH_NAME,
    MANIFEST_NAME,
    Golden,
    Manifest,
    Precision,
    Variant,
    hash_files,
    read_manifest,
    revision,
    verify_files,
    write_manifest,
)
from service.model import GRAPH_NAME
from service.runtime.base import Array
from service.runtime.onnx import OnnxSession

Outputs = Mapping[str, Array]

TABLE_NAME = "embeddings-int8.safetensors"
"""Of the largest embedding table of an 8-bit variant, which models that came from the same pretrained one have in common."""
GOLDEN_TOLERANCE = 0.05
"""Of the largest golden output: the integers are the same everywhere, but fp32 rounds a little differently before each quantization,
and a code that falls the other way moves the outputs by up to a few hundredths."""

_PRECISIONS: dict[Scheme, Precision] = {"dynamic": "int8", "static": "int8-static", "fp16": "fp16"}
_INT8_VARIANTS: dict[Variant, Variant] = {"dense": "dense-int8", "compact": "compact-int8"}
_SLOW_TOKENIZER = {"vocab.txt", "vocab.json", "merges.txt"}  # tokenizer.json holds them too, and nothing is trained from an int8 artifact
_LEFT_BEHIND = frozenset({GRAPH_NAME, ENCODER_GRAPH_NAME, DECODER_GRAPH_NAME, MANIFEST_NAME, CHECKPOINT_NAME, INDEX_NAME} | _SLOW_TOKENIZER)


@dataclass(frozen=True)
class SchemeError:
    """What a scheme costs in accuracy of the logits and gains in size.

    Attributes:
        scheme: "fp32", "dynamic", "dynamic, smooth", or "static <method>".
        error: Root mean square difference of the outputs from the reference, over the reference's root mean square.
        largest: Largest absolute difference.
        size_bytes: Of the serialized graph.
    """

    scheme: str
    error: float
    largest: float
    size_bytes: int


def quantize_static(
    model: onnx.ModelProto, calibration_inputs: Sequence[Inputs], *, method: Method = "minmax", skip: Collection[str] = ()
) -> onnx.ModelProto:
    """Quantize weights and activations now.

    Args:
        model: fp32 graph.
        calibration_inputs: Real rows without padding, int64 [rows, sequence] by name.
        method: How activation ranges are drawn from them.
        skip: Linear layers that stay fp32, by the name of their weight; `worst_layers` finds candidates.
    """
    layers = {weight: node for weight, node in linear_layers(model).items() if weight not in skip}
    ranges = _ranges_of(model, layers, calibration_inputs, method)
    return finished(with_fixed_ranges(model, layers, ranges))


def input_ranges(model: onnx.ModelProto, calibration_inputs: Sequence[Inputs], *, method: Method = "minmax") -> dict[str, Range]:
    """The range that `quantize_static` takes for the input of each linear layer, by the name of its weight."""
    layers = linear_layers(model)
    ranges = _ranges_of(model, layers, calibration_inputs, method)
    return {weight: ranges[node.input[0]] for weight, node in layers.items()}


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and computation in fp16 for GPU; inputs stay int64 and outputs fp32."""
    # Imported here: the package puts its own folder on sys.path, which only who asks for fp16 should get.
    converter = importlib.import_module("onnxruntime.transformers.float16")
    converted: onnx.ModelProto = converter.convert_float_to_float16(copy.deepcopy(model), keep_io_types=True)
    return converted


def sensitivity(
    model: onnx.ModelProto, calibration_inputs: Sequence[Inputs], evaluation_inputs: Sequence[Inputs], *, method: Method = "minmax"
) -> dict[str, float]:
    """Error of the outputs (see `SchemeError`) when one linear layer alone is quantized statically, by the name of its weight."""
    layers = linear_layers(model)
    ranges = _ranges_of(model, layers, calibration_inputs, method)
    references = run_all(model, evaluation_inputs)
    return {
        weight: output_error(run_all(with_fixed_ranges(model, {weight: node}, ranges), evaluation_inputs), references)
        for weight, node in layers.items()
    }


def worst_layers(model: onnx.ModelProto, inputs: Sequence[Inputs], count: int, *, method: Method = "minmax") -> tuple[str, ...]:
    """The `count` layers that lose most when quantized statically; ranges and errors from the two halves of a sample."""
    if count == 0:
        return ()
    errors = sensitivity(model, inputs[::2], inputs[1::2] or inputs, method=method)
    return tuple(sorted(errors, key=lambda weight: errors[weight], reverse=True)[:count])


def compare_schemes(
    model: onnx.ModelProto,
    calibration_inputs: Sequence[Inputs],
    evaluation_inputs: Sequence[Inputs],
    references: Sequence[Outputs] | None = None,
) -> list[SchemeError]:
    """Each scheme's error and size, fp32 first.

    Args:
        model: fp32 graph.
        calibration_inputs: For the static schemes and for smoothing.
        evaluation_inputs: Other rows, one per call, as they will be served.
        references: Outputs to compare with, one for each of `evaluation_inputs`; the fp32 graph's own if None.
    """
    references = run_all(model, evaluation_inputs) if references is None else references
    candidates = {"fp32": model, "dynamic": quantize_dynamic(model)}
    candidates["dynamic, smooth"] = quantize_dynamic(smooth(model, calibration_inputs))
    methods: tuple[Method, ...] = ("minmax", "percentile", "entropy")
    candidates |= {f"static {method}": quantize_static(model, calibration_inputs, method=method) for method in methods}
    return [_scheme_error(name, candidate, evaluation_inputs, references) for name, candidate in candidates.items()]


def quantize_artifact(
    source: Path,
    target: Path,
    *,
    scheme: Scheme = "dynamic",
    calibration: Sequence[Inputs] = (),
    method: Method = "minmax",
    skip_worst: int = 0,
    smoothed: bool = False,
    fuse: bool = False,
) -> Manifest:
    """Write the 8-bit (or fp16) form of a `dense` or `compact` artifact, whole or not at all, and give its manifest.

    Golden outputs are recorded anew; metrics and latency are not inherited.

    Args:
        source: The fp32 artifact.
        target: Replaced if it exists.
        scheme: How.
        calibration: Static or smoothed: real rows without padding.
        method: Static: how activation ranges are drawn.
        skip_worst: Static: this many layers, those with the largest measured error, stay fp32.
        smoothed: Scale outlier channels of the layers' inputs down first; see `pruning.smoothing`.
        fuse: Multiply by Q, K and V in one go.

    Raises:
        ConfigError: The source is not fp32; it generates and the scheme is not the plain dynamic one; there are no calibration rows where
            they are needed.
        ArtifactError: The source is damaged.
        StorageError: The target could not be written; nothing of it is left.
    """
    above = read_manifest(source)
    if above.precision != "fp32":
        raise ConfigError(f"{source}: its precision is {above.precision}; quantize the fp32 artifact that it was made from")
    verify_files(source, above)
    if above.generation:
        _require_dynamic(source, scheme, plain=not (fuse or smoothed))
        graphs = quantize_graphs(load_graphs(source))
        quantized = {ENCODER_GRAPH_NAME: graphs.encoder, DECODER_GRAPH_NAME: graphs.decoder}
    else:
        model = fuse_qkv(load_fp32(source)) if fuse else load_fp32(source)
        quantized = {GRAPH_NAME: _apply(smooth(model, calibration) if smoothed else model, scheme, calibration, method, skip_worst)}
    with written(target) as partial:
        for name in above.files:
            if name not in _LEFT_BEHIND and not name.endswith(".safetensors"):
                shutil.copyfile(source / name, partial / name)
        store_table_apart(list(quantized.values()), partial / TABLE_NAME)
        for name, proto in quantized.items():
            onnx.save(proto if scheme == "fp16" else fuse_attention(proto), partial / name)
        manifest = _manifest(above, partial, scheme)
        write_manifest(manifest, partial)
    return manifest


def run_all(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> list[Outputs]:
    """Outputs of a graph for each input."""
    session = OnnxSession(model.SerializeToString())
    return [session.run(batch) for batch in inputs]


def output_error(found: Sequence[Outputs], references: Sequence[Outputs]) -> float:
    """Root mean square difference of all outputs, over the references' root mean square."""
    expected = _flat(references)
    return float(np.linalg.norm(_flat(found) - expected) / max(float(np.linalg.norm(expected)), 1e-12))


def _ranges_of(
    model: onnx.ModelProto, layers: Mapping[str, onnx.NodeProto], calibration_inputs: Sequence[Inputs], method: Method
) -> dict[str, Range]:
    """Ranges of what these layers read, by its name."""
    return calibrate(model, sorted({node.input[0] for node in layers.values()}), calibration_inputs, method=method)


def _apply(model: onnx.ModelProto, scheme: Scheme, calibration: Sequence[Inputs], method: Method, skip_worst: int) -> onnx.ModelProto:
    if scheme == "dynamic":
        return quantize_dynamic(model)
    if scheme == "fp16":
        return to_fp16(model)
    return quantize_static(model, calibration, method=method, skip=worst_layers(model, calibration, skip_worst, method=method))


def _require_dynamic(source: Path, scheme: Scheme, *, plain: bool) -> None:
    if scheme != "dynamic" or not plain:
        raise ConfigError(
            f"{source}: a model that generates is quantized dynamically, without fusion or smoothing, since all else works on the one "
            f"graph of an encoder; choose scheme dynamic"
        )


def _manifest(above: Manifest, folder: Path, scheme: Scheme) -> Manifest:
    """The source's manifest with what quantizing changed."""
    graphs = [path for path in (folder / GRAPH_NAME, folder / DECODER_GRAPH_NAME) if path.is_file()]
    return above.model_copy(
        update={
            "variant": above.variant if scheme == "fp16" else _INT8_VARIANTS[above.variant],
            "precision": _PRECISIONS[scheme],
            "opset": onnx_graph.opset(onnx.load(graphs[0], load_external_data=False)),
            "files": hash_files(folder),
            "golden": _golden(above, folder),
            "metrics": (),
            "latency": (),
            "parent": revision(above),
            "producer": producer(),
        }
    )


def _golden(above: Manifest, folder: Path) -> Golden:
    """The source's golden inputs with the outputs of the quantized graphs."""
    inputs = above.golden.inputs
    if above.generation:
        rows = zip(inputs["input_ids"], inputs["decoder_input_ids"], strict=True)
        return generating_golden(sessions(folder), rows, tolerance=GOLDEN_TOLERANCE)
    session = OnnxSession(folder / GRAPH_NAME)
    feeds = [{name: np.array([inputs[name][row]], np.int64) for name in session.inputs} for row in range(len(inputs["input_ids"]))]
    return golden(session, feeds, tolerance=GOLDEN_TOLERANCE)


def _scheme_error(name: str, model: onnx.ModelProto, inputs: Sequence[Inputs], references: Sequence[Outputs]) -> SchemeError:
    found = run_all(model, inputs)
    largest = float(np.abs(_flat(found) - _flat(references)).max())
    return SchemeError(name, output_error(found, references), largest, model.ByteSize())


def _flat(outputs: Sequence[Outputs]) -> NDArray[np.float64]:
    return np.concatenate([np.asarray(batch[name], np.float64).ravel() for batch in outputs for name in sorted(batch)])
