"""Q, K and V in one product: an option of quantization, since a small 8-bit product has a fixed cost. Measure before use."""

import copy
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from pruning import onnx_graph


def fuse_qkv(model: onnx.ModelProto) -> onnx.ModelProto:
    """Multiply by Q, K and V in one go where they read the same input: one MatMul [hidden, 3 * heads * head_size] and a Split.

    Every column is computed as before, so quantizing per column afterwards gives the same values too.
    """
    fused = copy.deepcopy(model)
    biases = {node.input[0]: node for node in _biased_sums(fused)}
    groups: dict[str, list[tuple[onnx.NodeProto, onnx.NodeProto]]] = {}
    for matmul in onnx_graph.weight_matmuls(fused).values():
        if matmul.output[0] in biases:
            groups.setdefault(matmul.input[0], []).append((matmul, biases[matmul.output[0]]))
    for group in groups.values():
        if len(group) > 1:
            _fuse(fused, group)
    onnx_graph.remove_unused(fused)
    return fused


def _biased_sums(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Add nodes that add an initializer to a MatMul's output that nothing else reads, as copies with the MatMul's output first."""
    constants, made = onnx_graph.initializers(model), onnx_graph.producers(model)
    found = []
    for node in model.graph.node:
        products = [name for name in node.input if name in made and made[name].op_type == "MatMul"]
        if node.op_type == "Add" and len(products) == 1 and sum(name in constants for name in node.input) == 1:
            bias = next(name for name in node.input if name in constants)
            if len(onnx_graph.consumers(model, products[0])) == 1:
                found.append(onnx.helper.make_node("Add", [products[0], bias], list(node.output), node.name))
    return found


def _fuse(model: onnx.ModelProto, group: Sequence[tuple[onnx.NodeProto, onnx.NodeProto]]) -> None:
    """Put one MatMul, Add and Split in the place of a group of MatMuls that share their input, each with its Add."""
    constants = onnx_graph.initializers(model)
    weights = [numpy_helper.to_array(constants[matmul.input[1]]) for matmul, _ in group]
    biases = [numpy_helper.to_array(constants[add.input[1]]) for _, add in group]
    first = group[0][0]
    stem = first.name.removesuffix("/MatMul")
    weight = onnx_graph.add_initializer(model, f"{stem}.fused.weight", np.concatenate(weights, axis=1))
    bias = onnx_graph.add_initializer(model, f"{stem}.fused.bias", np.concatenate(biases))
    widths = onnx_graph.add_initializer(model, f"{stem}.fused.widths", np.array([w.shape[1] for w in weights], np.int64))
    nodes = [
        onnx.helper.make_node("MatMul", [first.input[0], weight], [f"{stem}.fused.product"], f"{stem}/fused/MatMul"),
        onnx.helper.make_node("Add", [f"{stem}.fused.product", bias], [f"{stem}.fused.sum"], f"{stem}/fused/Add"),
        onnx.helper.make_node("Split", [f"{stem}.fused.sum", widths], [a.output[0] for _, a in group], f"{stem}/fused/Split", axis=-1),
    ]
    gone = {output for pair in group for node in pair for output in node.output} - {first.output[0]}
    onnx_graph.splice(model, lambda node: nodes if first.output[0] in node.output else [] if gone & set(node.output) else [node])
