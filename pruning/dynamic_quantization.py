"""Linear layers in signed 8 bits whose inputs are quantized as they come: per row of tokens in a decoder, per call in an encoder.

An encoder's rows run one per call, so ONNX Runtime's own scheme fits: one range for all of an input's values, in few and fused
operators. A decoder's rows belong to different requests, so each has a scale of its own (`quantize_rows`): integers and scale of a row
depend on that row alone, and what a request is told does not depend on who is decoded with it.

Two other ways were tried for a decoder. Fixed ranges from a calibration (QDQ) take real documents to make, and one range has to do for
all tokens: values beyond it are clipped. Weights alone, in blocks (MatMulNBits), are quick for one row, but lose to integers as soon as
requests are decoded together.
"""

import copy
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime import quantization as ort_quantization

from pruning import onnx_graph
from pruning.quantizers import Table, linear_layers, quantize_embeddings, quantize_weight, store_table, store_weights
from service.model import GRAPH_NAME

_CONSTANTS: dict[str, NDArray[np.generic]] = {
    "rows.axes": np.array([-1]),
    "rows.smallest": np.array(1e-30, np.float32),
    "rows.step": np.array(1 / 127, np.float32),
    "rows.zero": np.array(128, np.uint8),
}
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}


def quantize_dynamic(model: onnx.ModelProto, tables: Mapping[str, Table] | None = None) -> onnx.ModelProto:
    """Quantize weights now and activations at run time, those of a call together.

    Layers with fewer than `NARROWEST_COLUMNS` outputs (the head of question answering) stay fp32: 8 bits gain nothing there.

    Args:
        model: fp32 graph.
        tables: codes of embedding tables, by name, that another graph has too; those of the others are found here.
    """
    layers = linear_layers(model)
    quantized = _quantize_integer(model, layers) if layers else copy.deepcopy(model)
    return finished(quantized, tables)


def quantize_rows(model: onnx.ModelProto, tables: Mapping[str, Table] | None = None) -> onnx.ModelProto:
    """Quantize weights now and activations at run time, each row [.., columns] with its own scale.

    A row is divided by its largest magnitude, coded as 127 times that plus 128 in unsigned 8 bits, multiplied, and scaled back. A head
    that multiplies by a table's rows (Gemm, transposed) reads the codes that its embeddings read: the scale of a token's row is that of
    an output.

    Args:
        model: fp32 graph.
        tables: see `quantize_dynamic`; that of the head has to be among them.
    """
    quantized = copy.deepcopy(model)
    layers, heads = linear_layers(quantized), table_heads(quantized)
    inputs = {node.input[0] for node in (*layers.values(), *heads.values())}
    onnx_graph.import_contrib(quantized)
    products = {node.output[0]: name for name, node in (layers | heads).items()}
    onnx_graph.splice(quantized, lambda node: _multiplied(quantized, node, products) if node.output[0] in products else [node])
    onnx_graph.splice(quantized, lambda node: [node, *(step for value in node.output if value in inputs for step in _coded(value))])
    for name, constant in _CONSTANTS.items():
        onnx_graph.add_initializer(quantized, name, constant)
    _store_layers(quantized, layers)
    _store_heads(quantized, heads, tables or {})
    return finished(quantized, tables)


def table_heads(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The Gemm nodes that multiply by the rows of a table [outputs, inputs], by its name."""
    weights = onnx_graph.initializers(model)
    return {
        node.input[1]: node
        for node in model.graph.node
        if node.op_type == "Gemm" and node.input[1] in weights and {a.name: a.i for a in node.attribute}.get("transB")
    }


def head_table(table: NDArray[np.float32]) -> Table:
    """Codes of a table [tokens, columns] that a head multiplies by; see `quantizers.quantize_weight`."""
    codes, scales = quantize_weight(table.T)
    return Table(np.ascontiguousarray(codes.T), np.ascontiguousarray(scales.T))


def finished(quantized: onnx.ModelProto, tables: Mapping[str, Table] | None = None) -> onnx.ModelProto:
    """Put the embeddings in 8 bits, drop unused operator sets, tidy up; in place."""
    quantize_embeddings(quantized, tables)
    onnx_graph.drop_unused_domains(quantized)
    onnx_graph.remove_unused(quantized)
    return quantized


def _coded(value: str) -> list[onnx.NodeProto]:
    """Nodes that give a value's largest magnitude per row, [.., 1], and its codes; a row of zeros has the code of zero."""
    steps = [
        ("Abs", [value], "magnitudes", {}),
        ("ReduceMax", [f"{value}.magnitudes", "rows.axes"], "peaks", {"keepdims": 1}),
        ("Max", [f"{value}.peaks", "rows.smallest"], "largest", {}),
        ("Div", [value, f"{value}.largest"], "unit", {}),
        ("QuantizeLinear", [f"{value}.unit", "rows.step", "rows.zero"], "codes", {}),
    ]
    return [onnx.helper.make_node(op, inputs, [f"{value}.{part}"], f"{value}/{op}", **options) for op, inputs, part, options in steps]


def _multiplied(model: onnx.ModelProto, node: onnx.NodeProto, products: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Nodes that replace a product: that of the integers, scaled per output and then per row, and a bias that is not 0."""
    value, weight, (output,) = node.input[0], products[node.output[0]], node.output
    bias = node.input[2] if len(node.input) > 2 and _any(model, node.input[2]) else None
    scaled = f"{output}.scaled" if bias else output
    integers = [f"{value}.codes", f"{weight}.columns", "rows.step", f"{weight}.scales", "rows.zero"]
    nodes = [
        onnx.helper.make_node("MatMulIntegerToFloat", integers, [f"{output}.unit"], f"{output}/product", domain=onnx_graph.CONTRIB_DOMAIN),
        onnx.helper.make_node("Mul", [f"{output}.unit", f"{value}.largest"], [scaled], f"{output}/Mul"),
    ]
    return nodes + ([onnx.helper.make_node("Add", [scaled, bias], [output], f"{output}/Add")] if bias else [])


def _store_layers(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Add codes [inputs, outputs] and scales [outputs] of linear layers."""
    weights = onnx_graph.initializers(model)
    for name in layers:
        codes, scales = quantize_weight(numpy_helper.to_array(weights[name]))
        onnx_graph.add_initializer(model, f"{name}.columns", codes)
        onnx_graph.add_initializer(model, f"{name}.scales", scales[0])


def _store_heads(model: onnx.ModelProto, heads: Collection[str], tables: Mapping[str, Table]) -> None:
    """Give heads the codes of their tables the other way round; the runtime turns them when it loads the graph."""
    turned: list[onnx.NodeProto] = []
    for name in heads:
        codes, scales = store_table(model, name, tables[name])
        turned.append(onnx.helper.make_node("Transpose", [codes], [f"{name}.columns"], f"{name}/Transpose", perm=[1, 0]))
        turned.append(onnx.helper.make_node("Squeeze", [scales, "rows.axes"], [f"{name}.scales"], f"{name}/Squeeze"))
    onnx_graph.insert_in_front(model, turned)


def _any(model: onnx.ModelProto, name: str) -> bool:
    """Whether a value is anything but a constant 0."""
    constant = onnx_graph.initializers(model).get(name)
    return constant is None or bool(numpy_helper.to_array(constant).any())


def _quantize_integer(model: onnx.ModelProto, layers: Mapping[str, onnx.NodeProto]) -> onnx.ModelProto:
    """ONNX Runtime's own dynamic quantization of these layers: one DynamicQuantizeLinear for all layers that share an input."""
    prepared = copy.deepcopy(model)
    # Says that the quantizer need not advise to pre-process the graph: `onnx_graph.clean` has done what that would.
    onnx.helper.set_model_props(prepared, _PREPROCESSED)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH_NAME
        ort_quantization.quantize_dynamic(
            prepared,
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=[node.name for node in layers.values()],
            per_channel=True,
            weight_type=ort_quantization.QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        quantized: onnx.ModelProto = onnx.load(path)
    del quantized.metadata_props[:]
    store_weights(quantized, model, layers)
    return quantized
