"""Outlier channels are scaled down before quantization: the graph computes what it did, and 8 bits lose less."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from pydantic import ValidationError

from pruning import onnx_graph
from pruning.config import QuantizeConfig
from pruning.errors import ConfigError
from pruning.fusion import fuse_qkv
from pruning.quantization import output_error, quantize_artifact, quantize_dynamic, quantize_static, run_all
from pruning.quantizers import linear_layers
from pruning.smoothing import factors_of, smooth
from service.model import Model
from tests.pruning.helpers import FAMILY_NAMES
from tests.pruning.test_export import arrays
from tests.pruning.test_quantization import compact_artifact as compact_artifact
from tests.pruning.test_quantization import graph_of, rows

OUTLIER = 30.0


def with_outliers(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same function up to what follows, with one channel of every normalised value far beyond the others, as BERT has them."""
    weights = onnx_graph.initializers(model)
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            gain = numpy_helper.to_array(weights[node.input[1]]).copy()
            gain[3] *= OUTLIER
            weights[node.input[1]].CopyFrom(numpy_helper.from_array(gain, node.input[1]))
    for name in linear_layers(model):
        weight = numpy_helper.to_array(weights[name]).copy()
        if weight.shape[0] == len(gain):
            weight[3] /= OUTLIER
        weights[name].CopyFrom(numpy_helper.from_array(weight, name))
    return model


def inserted(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The products by which channels are scaled."""
    return [node for node in model.graph.node if node.output[0].endswith(".smoothed")]


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_graph_computes_what_it_did(family: str):
    """In fp32, with one product for all layers that read the same value, fused or not."""
    model = with_outliers(graph_of(family))
    inputs = rows(family, count=4, seed=50)
    for graph in (model, fuse_qkv(model)):
        smoothed = smooth(graph, rows(family))
        onnx.checker.check_model(smoothed)
        divided = [node.input[0] for node in inserted(smoothed)]
        assert 0 < len(divided) == len(set(divided))
        assert output_error(run_all(smoothed, inputs), run_all(graph, inputs)) < 1e-5


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_outliers_cost_less(scheme: str):
    """The error of 8 bits falls to less than half where one channel had set the scale of all."""
    model, inputs = with_outliers(graph_of(hidden=64, heads=4)), rows(seed=50)
    reference = run_all(model, inputs)
    errors = []
    for graph in (model, smooth(model, rows())):
        quantized = quantize_dynamic(graph) if scheme == "dynamic" else quantize_static(graph, rows())
        errors.append(output_error(run_all(quantized, inputs), reference))
    assert errors[1] < 0.5 * errors[0]


def test_channels_of_ordinary_size_are_left_alone():
    """Only what reaches beyond the ordinary channels is divided; a channel that is always 0 divides by nothing."""
    maxima = np.r_[np.linspace(0.5, 1.0, 198), 4.0, 8.0].astype(np.float32)
    found = factors_of(maxima)
    assert (found[:198] == 1).all()
    assert found[198:] == pytest.approx([4.0, 8.0], rel=0.01)
    assert (factors_of(np.zeros(5, np.float32)) == 1).all()


def test_without_outliers_nothing_is_inserted():
    """What was smoothed once has no outliers left."""
    once = smooth(with_outliers(graph_of()), rows())
    again = smooth(once, rows())
    assert len(inserted(once)) == len(inserted(again)) > 0
    assert again.SerializeToString() == once.SerializeToString()


def test_the_source_is_not_changed():
    """The graph that was given stays what it was."""
    model = with_outliers(graph_of())
    before = model.SerializeToString()
    smooth(model, rows())
    assert model.SerializeToString() == before


def test_a_smoothed_artifact_loads(compact_artifact, tmp_path):
    """The service takes it like any other; rows to look at are needed."""
    calibration = [arrays("bert", rows=1, length=8, seed=seed) for seed in range(4)]
    quantize_artifact(compact_artifact, tmp_path / "smooth", calibration=calibration, smoothed=True)
    Model.load(tmp_path / "smooth")
    with pytest.raises(ConfigError, match="calibration inputs"):
        quantize_artifact(compact_artifact, tmp_path / "none", smoothed=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("scheme", "smoothed", "asked"), [("dynamic", False, False), ("dynamic", True, True), ("static", False, True)])
def test_calibration_is_asked_for_where_it_is_needed(scheme, smoothed, asked):
    """By the static scheme, and by any that scales channels."""
    assert QuantizeConfig(scheme=scheme, smooth=smoothed).needs_calibration is asked


def test_16_bits_are_not_smoothed():
    """They have no scale that outliers could set."""
    with pytest.raises(ValidationError, match="`smooth` is for 8 bits"):
        QuantizeConfig(scheme="fp16", smooth=True)
