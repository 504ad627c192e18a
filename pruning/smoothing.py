"""Outlier channels of what linear layers read, made smaller before they are quantized (SmoothQuant: Xiao et al., 2023, arXiv:2211.10438).

8 bits share one scale among all inputs of a layer. Where one channel is far larger than the next, as before the feed-forward
blocks of BERT, all others are left few of the codes. Here such a channel is divided, and the rows of the weights that read it are
multiplied by the same: in fp32 the outputs stay what they are. Channels of ordinary size are left alone, and where there is no outlier
nothing is inserted. The division is one product with a vector; `secateur-prune bench-schemes` measures what it costs and wins.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from pruning import onnx_graph
from pruning.calibration import Inputs, channel_maxima
from pruning.quantizers import linear_layers

ORDINARY = 0.99
"""Share of a layer's channels that are no outliers."""
WORTH_DIVIDING = 1.5
"""How far the largest channel must be beyond the ordinary ones."""

Factors = NDArray[np.float32]


def smooth(model: onnx.ModelProto, calibration_inputs: Sequence[Inputs]) -> onnx.ModelProto:
    """A graph with the same outputs in fp32, in which the inputs of linear layers have no outlier channels.

    Args:
        model: fp32 graph of an encoder.
        calibration_inputs: real rows without padding, int64 [rows, sequence] by name.

    Raises:
        ConfigError: no calibration inputs.
    """
    smoothed = copy.deepcopy(model)
    layers = linear_layers(smoothed)
    largest = channel_maxima(model, sorted({node.input[0] for node in layers.values()}), calibration_inputs)
    products: dict[str, onnx.NodeProto] = {}
    for value, maxima in largest.items():
        factors, readers = factors_of(maxima), {weight: node for weight, node in layers.items() if node.input[0] == value}
        if factors.max() >= WORTH_DIVIDING:
            products[next(iter(readers.values())).output[0]] = _divide(smoothed, value, factors, readers)
    onnx_graph.splice(smoothed, lambda node: [*(products[name] for name in node.output if name in products), node])
    return smoothed


def factors_of(maxima: NDArray[np.float32]) -> Factors:
    """What each channel is divided by, [channels], from its largest magnitude: at least 1, and 1 for ordinary ones."""
    ordinary = float(np.quantile(maxima, ORDINARY, method="lower")) or 1.0
    factors: Factors = np.maximum(maxima / ordinary, 1.0).astype(np.float32)
    return factors


def _divide(model: onnx.ModelProto, value: str, factors: Factors, readers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """Let these linear layers read a value divided by the factors, and multiply their weights' rows; gives the node that divides."""
    divided = f"{value}.smoothed"
    inverse = onnx_graph.add_initializer(model, f"{value}.inverse_factors", 1 / factors)
    weights = onnx_graph.initializers(model)
    for weight, node in readers.items():
        node.input[0] = divided
        scaled = numpy_helper.to_array(weights[weight]) * factors[:, np.newaxis]
        weights[weight].CopyFrom(numpy_helper.from_array(scaled, weight))
    return onnx.helper.make_node("Mul", [value, inverse], [divided], f"{divided}/Mul")
