"""ONNX fp32 to 8 bits.

Dynamic: every linear layer's weight becomes signed 8 bits per output channel, its input is quantized to unsigned 8 bits as it comes
(U8S8), and the attention core, normalisation and the task's head stay fp32. Embedding tables become 8 bits with one scale per row.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime import quantization as ort_quantization

from pruning import onnx_graph

NARROWEST_COLUMNS = 16
SHORTEST_TABLE_ROWS = 64
_PREPROCESSED = ("onnx.quant.pre_process", "onnxruntime.quant")


def quantize_dynamic(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantize weights now and activations at run time; the input graph is left as it is.

    Layers with fewer than `NARROWEST_COLUMNS` outputs (the head of question answering) stay fp32: 8 bits gain nothing there.
    """
    prepared = _prepared(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ort_quantization.quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=ort_quantization.QuantType.QInt8,
            nodes_to_exclude=narrow_layers(model),
            extra_options={"MatMulConstBOnly": True},
        )
        quantized = onnx.load(path)
    return _finished(quantized)


def narrow_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the MatMul nodes that are too narrow to gain from 8 bits."""
    weights = onnx_graph.initializers(model)
    return [node.name for name, node in onnx_graph.weight_matmuls(model).items() if weights[name].dims[1] < NARROWEST_COLUMNS]


def quantize_embeddings(model: onnx.ModelProto) -> None:
    """Store embedding tables in 8 bits with one scale per row, in place.

    A lookup gathers the row and its scale, and multiplies: `table[row] ~ scale[row] * int8[row]`. A row's largest error is half its
    scale, 1/254 of its largest entry. Tables of fewer than `SHORTEST_TABLE_ROWS` rows (token types) are left.
    """
    tables = onnx_graph.initializers(model)
    for name, readers in onnx_graph.embedding_gathers(model).items():
        if tables[name].dims[0] >= SHORTEST_TABLE_ROWS:
            codes, scales = quantize_rows(numpy_helper.to_array(tables[name]))
            onnx_graph.add_initializer(model, f"{name}.int8", codes)
            onnx_graph.add_initializer(model, f"{name}.scale", scales)
            outputs = {node.output[0] for node in readers}
            onnx_graph.splice(model, lambda node, name=name, outputs=outputs: _lookup(node, name) if node.output[0] in outputs else [node])


def quantize_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric 8-bit codes [rows, columns] and fp32 scales [rows, 1] of a table [rows, columns]."""
    scales = np.abs(table).max(axis=1, keepdims=True).astype(np.float32) / 127
    scales[scales == 0] = 1
    return np.round(table / scales).astype(np.int8), scales


def _lookup(gather: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
    """Nodes that replace a Gather from `table`: codes [.., columns] as float, times their row's scale [.., 1]."""
    codes, floats, scales = (f"{gather.output[0]}.{part}" for part in ("codes", "floats", "scales"))
    rows = gather.input[1]
    return [
        onnx.helper.make_node("Gather", [f"{table}.int8", rows], [codes], f"{gather.name}/codes", axis=0),
        onnx.helper.make_node("Cast", [codes], [floats], f"{gather.name}/Cast", to=TensorProto.FLOAT),
        onnx.helper.make_node("Gather", [f"{table}.scale", rows], [scales], f"{gather.name}/scales", axis=0),
        onnx.helper.make_node("Mul", [floats, scales], [gather.output[0]], f"{gather.name}/Mul"),
    ]


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy marked as pre-processed, so that the quantizer does not advise to; `onnx_graph.clean` has done what that would."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    onnx.helper.set_model_props(prepared, dict([_PREPROCESSED]))
    return prepared


def _finished(quantized: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the quantizer's marks and unused operator sets, put the embeddings in 8 bits, tidy up."""
    quantize_embeddings(quantized)
    del quantized.metadata_props[:]
    used = {node.domain for node in quantized.graph.node}
    kept = [entry for entry in quantized.opset_import if entry.domain in used]
    del quantized.opset_import[:]
    quantized.opset_import.extend(kept)
    onnx_graph.tidy(quantized)
    return quantized
