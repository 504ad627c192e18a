"""Graph surgery of quantization: which layers, their weights in signed 8 bits, activations of known range, embedding tables."""

import copy
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from pruning import onnx_graph
from pruning.calibration import Range

NARROWEST_COLUMNS = 16
SHORTEST_TABLE_ROWS = 64
CODES, SCALES = ".int8", ".scale"
"""What a table's name is followed by in those of its codes and of its scales."""


class Table(NamedTuple):
    """An embedding table in 8 bits.

    Attributes:
        codes: int8 [rows, columns].
        scales: fp32 [rows, 1].
    """

    codes: NDArray[np.int8]
    scales: NDArray[np.float32]


def linear_layers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The MatMul nodes worth 8 bits, by the name of their weight."""
    weights = onnx_graph.initializers(model)
    return {name: node for name, node in onnx_graph.weight_matmuls(model).items() if weights[name].dims[1] >= NARROWEST_COLUMNS}


def quantize_symmetric(table: NDArray[np.float32], *, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Signed 8-bit codes of a matrix and their scales, one for each slice along `axis`, which the scales keep with size 1."""
    scales = np.abs(table).max(axis=axis, keepdims=True, initial=0).astype(np.float32) / 127
    scales[scales == 0] = 1
    return np.round(table / scales).astype(np.int8), scales


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Signed 8-bit codes of a linear layer's weight [inputs, outputs] and their scales [1, outputs], that no processor saturates.

    Without VNNI, x86 adds the products of two neighbouring inputs, unsigned 8-bit activations with signed codes, in 16 bits that
    saturate (`vpmaddubsw`): silently, a different model. So a column's scale is such that no code exceeds 127 and no two neighbours
    of one sign sum to more than 128: 255 * 128 < 2 ** 15. That costs a scale about 1.3 times the usual one, where the customary
    `reduce_range` costs 2, and every processor computes the same integers.
    """
    pairs = np.pad(weight, ((0, len(weight) % 2), (0, 0))).reshape(-1, 2, weight.shape[1])
    largest = np.maximum(np.abs(pairs).max(axis=(0, 1), initial=0), np.abs(pairs.sum(axis=1)).max(axis=0, initial=0))
    scales = largest[np.newaxis].astype(np.float32) / 127
    scales[scales == 0] = 1
    return np.round(weight / scales).astype(np.int8), scales


def store_weights(quantized: onnx.ModelProto, model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Put the codes and scales of `quantize_weight` in place of those that ONNX Runtime's quantizer chose for these layers."""
    weights, stored = onnx_graph.initializers(model), onnx_graph.initializers(quantized)
    for name in layers:
        codes, scales = quantize_weight(numpy_helper.to_array(weights[name]))
        for suffix, values in (("_quantized", codes), ("_scale", scales[0])):
            stored[name + suffix].CopyFrom(numpy_helper.from_array(values, name + suffix))


def with_fixed_ranges(model: onnx.ModelProto, layers: Mapping[str, onnx.NodeProto], ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """A copy in which these layers multiply codes: of their input, in unsigned 8 bits between the ends of its range, and of their weight.

    A product and the bias behind it become one operator of ONNX Runtime's own, which OpenVINO reads too. Written as pairs of
    QuantizeLinear and DequantizeLinear, the bias would stay an addition of its own and cost a tenth of the time at 32 tokens.
    """
    quantized = copy.deepcopy(model)
    onnx_graph.import_contrib(quantized)
    scaled = {value: _codes_of(quantized, value, ranges[value]) for value in sorted({node.input[0] for node in layers.values()})}
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for layer in layers.values():
        last, bias = _bias_behind(quantized, layer) or (layer, "")
        replaced[layer.output[0]] = []
        replaced[last.output[0]] = [_product(quantized, layer, last.output[0], bias)]
    onnx_graph.splice(quantized, lambda node: replaced.get(node.output[0], [node]))
    onnx_graph.splice(quantized, lambda node: [node, *(scaled[output] for output in node.output if output in scaled)])
    onnx_graph.remove_unused(quantized)
    return quantized


def quantize_embeddings(model: onnx.ModelProto, tables: Mapping[str, Table] | None = None) -> None:
    """Store embedding tables in 8 bits with one scale per row, in place.

    A lookup gathers the row and its scale, and multiplies: `table[row] ~ scale[row] * int8[row]`. A row's largest error is half its
    scale, 1/254 of its largest entry. Tables of fewer than `SHORTEST_TABLE_ROWS` rows (token types) are left.

    Args:
        model: with fp32 tables.
        tables: codes that were chosen for some of them, by name.
    """
    given, weights = tables or {}, onnx_graph.initializers(model)
    replaced: dict[str, str] = {}
    for name, readers in onnx_graph.embedding_gathers(model).items():
        if name in given or (weights[name].dims[0] >= SHORTEST_TABLE_ROWS):
            found = given[name] if name in given else Table(*quantize_symmetric(numpy_helper.to_array(weights[name]), axis=1))
            store_table(model, name, found)
            replaced |= {node.output[0]: name for node in readers}
    onnx_graph.splice(model, lambda node: _lookup(node, replaced[node.output[0]]) if node.output[0] in replaced else [node])


def store_table(model: onnx.ModelProto, name: str, table: Table) -> tuple[str, str]:
    """Add the codes and scales of a table, once, and give their names."""
    codes, scales = name + CODES, name + SCALES
    if codes not in onnx_graph.initializers(model):
        onnx_graph.add_initializer(model, codes, table.codes)
        onnx_graph.add_initializer(model, scales, table.scales)
    return codes, scales


def _bias_behind(model: onnx.ModelProto, layer: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """The Add of a constant vector that alone reads a layer's output, with that vector's name; None where there is none."""
    (output,), constants = layer.output, onnx_graph.initializers(model)
    readers = onnx_graph.consumers(model, output)
    if len(readers) != 1 or readers[0].op_type != "Add" or output in onnx_graph.output_names(model):
        return None
    bias = [name for name in readers[0].input if name in constants and len(constants[name].dims) == 1]
    return (readers[0], bias[0]) if bias else None


def _product(model: onnx.ModelProto, layer: onnx.NodeProto, output: str, bias: str) -> onnx.NodeProto:
    """The product of codes that replaces a layer's, scaled back and with the bias (none if empty) added; stores the weight's codes."""
    value, weight = layer.input
    codes, scales = quantize_weight(numpy_helper.to_array(onnx_graph.initializers(model)[weight]))
    integers = [f"{value}.codes", onnx_graph.add_initializer(model, f"{weight}.int8", codes)]
    factors = [f"{value}.scale", onnx_graph.add_initializer(model, f"{weight}.scale", scales[0])]
    inputs = [*integers, *factors, f"{value}.zero", *(["", bias] if bias else [])]
    return onnx.helper.make_node("MatMulIntegerToFloat", inputs, [output], f"{layer.name}/integers", domain=onnx_graph.CONTRIB_DOMAIN)


def _codes_of(model: onnx.ModelProto, value: str, found: Range) -> onnx.NodeProto:
    """QuantizeLinear of a value whose range is known; 0 is always a code of its own."""
    lowest, highest = min(found[0], 0.0), max(found[1], 0.0)
    step = np.float32((highest - lowest) / 255 or 1.0)
    scale = onnx_graph.add_initializer(model, f"{value}.scale", np.array(step))
    zero = onnx_graph.add_initializer(model, f"{value}.zero", np.array(round(-lowest / float(step)), np.uint8))
    return onnx.helper.make_node("QuantizeLinear", [value, scale, zero], [f"{value}.codes"], f"{value}/QuantizeLinear")


def _lookup(gather: onnx.NodeProto, table: str) -> list[onnx.NodeProto]:
    """Nodes that replace a Gather from `table`: codes [.., columns] as float, times their row's scale [.., 1]."""
    codes, floats, scales = (f"{gather.output[0]}.{part}" for part in ("codes", "floats", "scales"))
    rows = gather.input[1]
    return [
        onnx.helper.make_node("Gather", [table + CODES, rows], [codes], f"{gather.name}/codes", axis=0),
        onnx.helper.make_node("Cast", [codes], [floats], f"{gather.name}/Cast", to=TensorProto.FLOAT),
        onnx.helper.make_node("Gather", [table + SCALES, rows], [scales], f"{gather.name}/scales", axis=0),
        onnx.helper.make_node("Mul", [floats, scales], [gather.output[0]], f"{gather.name}/Mul"),
    ]
