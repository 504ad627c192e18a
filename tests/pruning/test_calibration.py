"""Ranges hold what each method says they hold."""

import numpy as np
import pytest

from pruning import onnx_graph
from pruning.calibration import calibrate, entropy_range, percentile_range
from pruning.errors import ConfigError
from pruning.export import to_onnx
from pruning.quantizers import linear_layers
from tests.pruning.helpers import random_batch, tiny_model


def counts_of(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Histogram of 2048 bins."""
    return np.histogram(values, 2048, range=span)[0]


def test_percentile_cuts_an_outlier():
    """One value far away does not widen the range; all but the asked-for share stays inside."""
    values = np.append(np.random.default_rng(0).normal(size=100_000), 80.0)
    extremes = (float(values.min()), 80.0)
    lowest, highest = percentile_range(counts_of(values, extremes), extremes, percentile=99.9)
    assert highest < 5
    inside = ((values >= lowest) & (values <= highest)).mean()
    assert inside >= 0.999


def test_percentile_of_everything_is_the_extremes():
    """With nothing to cut the range is what was seen."""
    values = np.random.default_rng(0).uniform(-2, 3, 10_000)
    extremes = (float(values.min()), float(values.max()))
    assert percentile_range(counts_of(values, extremes), extremes, percentile=100) == pytest.approx(extremes, abs=1e-9)


def test_entropy_keeps_what_is_evenly_spread():
    """Values that use the whole range are not clipped."""
    values = np.random.default_rng(0).uniform(-4, 4, 400_000)
    lowest, highest = entropy_range(counts_of(np.abs(values), (0, 4)), (-4.0, 4.0))
    assert highest > 3.9
    assert lowest < -3.9


def test_entropy_clips_a_rare_tail():
    """A few values at many times the spread of the others are clipped."""
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=400_000), rng.uniform(20, 30, 20))
    _, highest = entropy_range(counts_of(np.abs(values), (0, 30)), (float(values.min()), 30.0))
    assert highest < 10


def test_minmax_is_what_torch_sees():
    """The range of a layer's input holds every value of the calibration sample, and is no wider."""
    model = tiny_model()
    proto = to_onnx(model, "question-answering")
    node = linear_layers(proto)["bert.encoder.layer.0.intermediate.dense.weight"]
    batch = random_batch(rows=1)
    seen = []
    model.bert.encoder.layer[0].intermediate.dense.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model(**batch)
    sample = [{name: tensor.numpy() for name, tensor in batch.items()}]
    (found,) = calibrate(proto, [node.input[0]], sample, method="minmax").values()
    assert found == pytest.approx((float(seen[0].min()), float(seen[0].max())), abs=1e-4)


def test_no_sample_is_refused():
    """Without calibration inputs there is no range; the message says so."""
    proto = to_onnx(tiny_model(), "question-answering")
    with pytest.raises(ConfigError, match="needs calibration inputs"):
        calibrate(proto, list(onnx_graph.output_names(proto)), [], method="minmax")
