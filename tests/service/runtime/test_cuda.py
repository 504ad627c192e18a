"""Buckets and IO binding are tested on the CPU; that CUDA gives the same needs a GPU."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from service.errors import ArtifactError
from service.runtime.cuda import BUCKETS, BoundSession, open_cuda
from service.runtime.onnx import OnnxSession
from tests.service.builders import classify_model
from tests.service.runtime.graphs import attention_model, feed


def _bound(model: onnx.ModelProto) -> BoundSession:
    return BoundSession(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]), device="cpu")


@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 32), (2, 33), (1, 600)])
def test_bucketed_rows_give_what_unpadded_rows_give(per_token, batch, length):
    """Padding to a bucket is not seen from outside; a row beyond the last bucket runs as it is."""
    model = attention_model(per_token=per_token)
    inputs = feed(length, batch=batch)
    expected = OnnxSession(model.SerializeToString()).run(inputs)
    for name, values in _bound(model).run(inputs).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-4)


def test_graph_sees_only_lengths_of_the_buckets():
    """Whatever comes in, the graph is given few shapes."""
    model = attention_model(per_token=True)
    seen = set()

    class Spy(BoundSession):
        def _run(self, inputs):
            seen.add(inputs["input_ids"].shape[1])
            return super()._run(inputs)

    session = Spy(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]), device="cpu")
    for length in range(1, 200, 7):
        session.run(feed(length))
    assert seen <= set(BUCKETS)


def test_graph_without_mask_is_not_padded():
    """Where padding could not be told from text there is none."""
    model = classify_model(20, 3, inputs=("input_ids",))
    inputs = {"input_ids": np.array([[1, 2, 3]])}
    expected = OnnxSession(model.SerializeToString()).run(inputs)["logits"]
    np.testing.assert_allclose(_bound(model).run(inputs)["logits"], expected, atol=1e-5)


def test_input_that_the_graph_cannot_take_is_an_artifact_error():
    """A token outside the table is reported in one line, not a crash."""
    with pytest.raises(ArtifactError, match="cannot run"):
        _bound(attention_model(per_token=True)).run({**feed(3), "input_ids": np.array([[99, 1, 1]])})


@pytest.mark.gpu
@pytest.mark.parametrize("per_token", [True, False])
def test_gpu_gives_what_the_cpu_gives(tmp_path, per_token):
    """A graph on CUDA differs from the CPU by rounding alone."""
    model = attention_model(per_token=per_token)
    onnx.save(model, tmp_path / "model.onnx")
    session = open_cuda(tmp_path / "model.onnx", gpu_memory_bytes=2**30)
    assert session.runtime.endswith("cuda")
    for length in (5, 100):
        expected = OnnxSession(model.SerializeToString()).run(feed(length))
        for name, values in session.run(feed(length)).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-2)
