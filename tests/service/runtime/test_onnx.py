"""Sessions of ONNX Runtime."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from service.errors import ArtifactError
from service.runtime.onnx import OnnxSession, base_options, machine
from tests.service.builders import classify_model, onnx_model, qa_model

IDS = np.array([[1, 2, 3]], dtype=np.int64)


def test_outputs_come_by_name_in_the_order_of_the_graph():
    """Inputs and outputs are named as in the graph."""
    session = OnnxSession(qa_model(20).SerializeToString())
    assert session.inputs == ("input_ids", "attention_mask", "token_type_ids")
    outputs = session.run({"input_ids": IDS, "attention_mask": IDS, "token_type_ids": IDS})
    assert list(outputs) == list(session.outputs) == ["start_logits", "end_logits"]


def test_arrays_that_are_not_inputs_are_passed_over():
    """A graph without token types runs on a feed that has them."""
    session = OnnxSession(qa_model(20, inputs=("input_ids",)).SerializeToString())
    assert session.run({"input_ids": IDS, "token_type_ids": IDS})["start_logits"].shape == (1, 3)


def test_file_and_bytes_give_the_same(tmp_path):
    """A model loaded from a file equals the same model from memory."""
    model = classify_model(20, 3)
    onnx.save(model, tmp_path / "model.onnx")
    feed = {"input_ids": IDS, "attention_mask": IDS}
    left, right = OnnxSession(tmp_path / "model.onnx").run(feed), OnnxSession(model.SerializeToString()).run(feed)
    assert np.array_equal(left["logits"], right["logits"])


def test_several_threads_may_run_at_once():
    """Calls from threads give what calls one after the other give."""
    session = OnnxSession(classify_model(50, 3).SerializeToString())
    feeds = [{"input_ids": np.full((1, 5), index), "attention_mask": np.ones((1, 5), dtype=np.int64)} for index in range(50)]
    alone = [session.run(feed)["logits"] for feed in feeds]
    with ThreadPoolExecutor(4) as pool:
        together = [output["logits"] for output in pool.map(session.run, feeds)]
    assert all(np.array_equal(left, right) for left, right in zip(alone, together, strict=True))


@pytest.mark.parametrize("content", [b"", b"not a model", qa_model(20).SerializeToString()[:-40]])
def test_damaged_file_is_one_clear_line(tmp_path, content):
    """A file that is no model is refused by name in one line."""
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx") as caught:
        OnnxSession(path)
    assert "\n" not in str(caught.value)


def test_graph_that_the_runtime_refuses_is_an_artifact_error():
    """An operator that does not exist is the artifact's fault, in one line."""
    model = onnx_model([helper.make_node("NoSuchOperator", ["input_ids"], ["logits"])], {}, ("input_ids",), {"logits": [1]})
    with pytest.raises(ArtifactError, match="refuses it") as caught:
        OnnxSession(model.SerializeToString())
    assert "\n" not in str(caught.value)


def test_input_that_the_graph_cannot_take_is_an_artifact_error():
    """A token outside the table is reported, not a crash."""
    session = OnnxSession(qa_model(20, inputs=("input_ids",)).SerializeToString())
    with pytest.raises(ArtifactError, match="cannot run"):
        session.run({"input_ids": np.array([[99]])})


def test_machine_names_the_runtime():
    """A latency's machine says which runtime it was."""
    assert machine().runtime == f"onnxruntime {onnxruntime.__version__}"


def test_sessions_keep_no_plan_for_each_length():
    """Patterns of memory are off, so that rows of mixed lengths do not fill it."""
    assert not base_options(threads=1).enable_mem_pattern
    assert base_options(threads=1).enable_cpu_mem_arena


@pytest.mark.parametrize("package", ["service", "pruning", "loadtests"])
def test_nothing_is_reported_to_the_makers_of_the_runtime(package):
    """A package turns ONNX Runtime's telemetry off before anything of it can import that, unless the environment says otherwise."""
    code = f"import os, sys, {package}; print(os.environ['ORT_DISABLE_TELEMETRY'], 'onnxruntime' in sys.modules)"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    for extra, expected in (({}, "1"), ({"ORT_DISABLE_TELEMETRY": "0"}, "0")):
        result = subprocess.run([sys.executable, "-c", code], env=environment | extra, capture_output=True, text=True, check=True)
        assert result.stdout.split() == [expected, "False"]
