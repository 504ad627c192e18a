"""A runtime is chosen by name, and imported when it is asked for."""

import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

from service.errors import RuntimeUnavailableError
from service.model import Model
from service.runtime import RuntimeOptions, open_session
from service.runtime.cuda import has_cuda
from tests.service.runtime.graphs import attention_model, feed


@pytest.fixture
def graph(tmp_path):
    """A small graph on disk."""
    onnx.save(attention_model(per_token=False), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_default_is_onnx_runtime_on_the_cpu(graph):
    """Without options a graph runs in ONNX Runtime, and the session says so."""
    session = open_session(graph)
    assert session.runtime == f"onnxruntime {onnxruntime.__version__} cpu"
    assert session.run(feed(3))["logits"].shape == (1, 3)


def test_threads_and_spinning_change_no_output(graph):
    """How a call is spread over cores is not seen in its outputs."""
    alone = open_session(graph).run(feed(9))["logits"]
    spread = open_session(graph, RuntimeOptions(threads=2, spinning=True)).run(feed(9))["logits"]
    np.testing.assert_allclose(spread, alone, atol=1e-6)


def test_other_runtimes_are_not_imported_before_they_are_asked_for():
    """A service on ONNX Runtime does not pay for OpenVINO."""
    code = "import sys, service.runtime, service.model; print('openvino' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_runtime_that_is_not_installed_says_how_to_install_it(graph, monkeypatch):
    """Without the package the error is one line with the command."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "service.runtime.openvino", raising=False)
    with pytest.raises(RuntimeUnavailableError, match=r"pip install '\.\[openvino\]'") as caught:
        open_session(graph, RuntimeOptions(name="openvino"))
    assert "\n" not in str(caught.value)


def test_runtime_without_that_device_is_refused(graph):
    """OpenVINO is not asked to run on an NVIDIA GPU."""
    with pytest.raises(RuntimeUnavailableError, match="CPU only"):
        open_session(graph, RuntimeOptions(name="openvino", device="cuda"))


@pytest.mark.skipif(has_cuda(), reason="this ONNX Runtime is built for CUDA")
def test_cuda_without_cuda_says_what_to_install(graph):
    """A device that this build does not know is refused in one line with the command."""
    with pytest.raises(RuntimeUnavailableError, match="pip install 'onnxruntime-gpu") as caught:
        open_session(graph, RuntimeOptions(device="cuda"))
    assert "\n" not in str(caught.value)


def test_model_takes_options_and_threads(classify_folder):
    """A model loads by options, and `threads` alone is enough."""
    assert Model.load(classify_folder, options=RuntimeOptions(threads=2)).session.runtime.endswith("cpu")
    assert Model.load(classify_folder, threads=2).manifest.variant == "dense"
