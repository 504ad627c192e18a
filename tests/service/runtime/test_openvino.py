"""OpenVINO gives what ONNX Runtime gives, with the same checks before it."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.artifact import read_manifest
from service.errors import ArtifactError
from service.model import Model
from service.runtime import RuntimeOptions
from service.runtime.onnx import OnnxSession
from tests.service.builders import classify_model, onnx_model
from tests.service.runtime.graphs import attention_model, dynamic_model, feed

if find_spec("openvino") is None:
    pytest.skip("openvino is not installed", allow_module_level=True)

from service.runtime.openvino import OpenVinoSession

MODELS = Path(__file__).parents[3] / "models"


@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 15), (1, 16), (1, 17), (3, 40)])
def test_outputs_are_those_of_onnx_runtime(per_token, batch, length):
    """Whatever the length and however many rows, outputs have the same names, shapes and values."""
    model = attention_model(per_token=per_token).SerializeToString()
    inputs = feed(length, batch=batch)
    expected, found = OnnxSession(model).run(inputs), OpenVinoSession(model).run(inputs)
    assert list(found) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-3)


def test_padded_rows_of_a_batch_are_as_alone():
    """The mask of a batch with padding of its own is kept."""
    session = OpenVinoSession(attention_model(per_token=True).SerializeToString())
    row = feed(5)
    padded = {name: np.pad(values, ((0, 0), (0, 4))) for name, values in row.items()}
    np.testing.assert_allclose(session.run(padded)["end_logits"][:, :5], session.run(row)["end_logits"], atol=1e-4)


def test_graph_without_mask_is_not_padded():
    """Where padding could not be told from text there is none."""
    model = classify_model(20, 3, inputs=("input_ids",)).SerializeToString()
    inputs = {"input_ids": np.array([[1, 2, 3]])}
    np.testing.assert_allclose(OpenVinoSession(model).run(inputs)["logits"], OnnxSession(model).run(inputs)["logits"], atol=1e-5)


@pytest.mark.parametrize("callers", [1, 2])
def test_several_threads_may_run_at_once(callers):
    """Calls from threads give what calls one after the other give, with a stream for each and without."""
    session = OpenVinoSession(attention_model(per_token=False).SerializeToString(), callers=callers)
    feeds = [feed(1 + seed % 20, seed=seed) for seed in range(60)]
    alone = [session.run(inputs)["logits"] for inputs in feeds]
    with ThreadPoolExecutor(4) as pool:
        together = [output["logits"] for output in pool.map(session.run, feeds)]
    for left, right in zip(alone, together, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-6)


def test_outputs_of_a_call_outlive_the_next():
    """What a call gave is not written over by a later one."""
    session = OpenVinoSession(attention_model(per_token=False).SerializeToString())
    first = session.run(feed(4))["logits"]
    copy = first.copy()
    session.run(feed(4, seed=1))
    assert np.array_equal(first, copy)


@pytest.mark.parametrize("artifact", ["qa/dense", "qa/compact", "sentiment/dense", "sentiment/compact", "sentiment/compact-int8"])
def test_models_that_ship_reproduce_their_golden_outputs(artifact):
    """fp16 shards and 8-bit tables beside the graph are read, and the golden check is the same as ONNX Runtime's."""
    model = Model.load(MODELS / artifact, options=RuntimeOptions(name="openvino"))
    assert model.session.runtime.startswith("openvino ")
    assert model.session.runtime.endswith(" cpu")


def test_graph_quantized_on_the_fly_is_refused_in_one_line():
    """An 8-bit graph says which variant to take instead."""
    with pytest.raises(ArtifactError, match="variant without -int8") as caught:
        OpenVinoSession(dynamic_model().SerializeToString())
    assert "\n" not in str(caught.value)


def test_model_that_ships_with_ranges_of_each_call_is_refused():
    """A shipped 8-bit variant that quantizes as it goes does not slip through to a slower runtime."""
    assert read_manifest(MODELS / "qa/compact-int8").precision == "int8"
    with pytest.raises(ArtifactError, match="on the fly"):
        OpenVinoSession(MODELS / "qa/compact-int8/model.onnx")


def test_graph_is_checked_before_it_is_read(tmp_path):
    """Tensors outside the artifact's folder are refused, as by the other runtime."""
    model = classify_model(20, 3)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret.bin")
    model.graph.initializer.append(tensor)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="not a path inside"):
        OpenVinoSession(tmp_path / "model.onnx")


def test_graph_that_the_runtime_refuses_is_an_artifact_error(tmp_path):
    """An operator that does not exist is reported by file, in one line."""
    onnx.save(
        onnx_model([helper.make_node("NoSuchOperator", ["input_ids"], ["logits"])], {}, ("input_ids",), {"logits": [1]}), tmp_path / "m"
    )
    with pytest.raises(ArtifactError, match="refuses it") as caught:
        OpenVinoSession(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_session_goes_on_after_a_call_that_failed():
    """A feed that does not fit is reported, and the next call is answered."""
    session = OpenVinoSession(attention_model(per_token=False).SerializeToString())
    with pytest.raises(ArtifactError, match="cannot run"):
        session.run({**feed(4, batch=2), "attention_mask": np.ones((3, 4), dtype=np.int64)})
    assert session.run(feed(4))["logits"].shape == (1, 3)


def test_nothing_is_reported_or_written_anywhere(tmp_path):
    """OpenVINO's own telemetry is kept out: it would call an analytics server at import, and leave files in the home folder."""
    code = "import sys, service.runtime.openvino; print(sys.modules['openvino_telemetry'])"
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "None"
    assert list(tmp_path.iterdir()) == []
