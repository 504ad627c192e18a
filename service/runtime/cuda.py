"""ONNX Runtime on an NVIDIA GPU: few shapes, bound buffers, bounded memory. Made for fp16 graphs; 8-bit ones have few kernels there.

Rows are padded to one of few lengths (`BUCKETS`), since each new shape costs the CUDA provider a search and a place in its arena.
Inputs are bound from the host and outputs to the device, and come back in one copy. The arena grows by what is asked for
(`kSameAsRequested`), not by powers of two, and never beyond `gpu_memory_bytes`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from service.errors import ArtifactError, RuntimeUnavailableError
from service.runtime.base import Array
from service.runtime.graph import check_graph
from service.runtime.onnx import ERRORS, base_options, one_line
from service.runtime.padding import MASK, bucket_for, cut_outputs, pad_feed

BUCKETS = (32, 64, 128, 256, 384, 512)
PROVIDER = "CUDAExecutionProvider"


class BoundSession:
    """A graph that runs with IO binding on a device; see `service.runtime.base.Session`.

    Args:
        session: loaded by ONNX Runtime.
        device: where outputs are bound: `cuda`, or `cpu` in tests.
    """

    def __init__(self, session: ort.InferenceSession, *, device: str) -> None:
        """Take over a loaded session."""
        self._session = session
        self._device = device
        self.inputs: tuple[str, ...] = tuple(item.name for item in session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in session.get_outputs())
        self.runtime = f"onnxruntime {ort.__version__} {device}"
        self._per_token = [item.name for item in session.get_outputs() if len(item.shape) == 2 and not isinstance(item.shape[1], int)]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Arrays that are not inputs of the graph are passed over."""
        feed = {name: inputs[name] for name in self.inputs}
        length = next(iter(feed.values())).shape[1]
        if MASK not in feed:
            return self._run(feed)
        outputs = self._run(pad_feed(feed, bucket_for(length, BUCKETS)))
        return cut_outputs(outputs, self._per_token, length)

    def _run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        binding = self._session.io_binding()
        try:
            for name, values in feed.items():
                binding.bind_cpu_input(name, np.ascontiguousarray(values))
            for name in self.outputs:
                binding.bind_output(name, self._device)
            self._session.run_with_iobinding(binding)
            values = binding.copy_outputs_to_cpu()
        except (*ERRORS, RuntimeError) as error:  # with IO binding a run that fails raises a plain RuntimeError
            raise ArtifactError(f"ONNX Runtime {ort.__version__} cannot run the graph ({one_line(error)}); export it again") from error
        return dict(zip(self.outputs, values, strict=True))


def has_cuda() -> bool:
    """Whether this build of ONNX Runtime knows CUDA; whether a GPU is there is found out by loading."""
    return PROVIDER in ort.get_available_providers()


def open_cuda(model: Path, *, gpu_memory_bytes: int | None = None) -> BoundSession:
    """Load a graph on the first GPU; `RuntimeUnavailableError` when there is none to be used, `ArtifactError` when it cannot be loaded."""
    if not has_cuda():
        raise RuntimeUnavailableError(
            "the device is cuda, but this build of ONNX Runtime is for CPU; "
            "pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]', or choose the device cpu"
        )
    check_graph(model)
    ort.preload_dlls()
    try:
        session = ort.InferenceSession(str(model), base_options(threads=1), providers=[(PROVIDER, _provider_options(gpu_memory_bytes))])
    except ERRORS as error:
        raise ArtifactError(f"{model}: ONNX Runtime {ort.__version__} refuses it ({one_line(error)}); fetch or export it again") from error
    if PROVIDER not in session.get_providers():
        raise RuntimeUnavailableError(
            "the device is cuda, but CUDA does not start here; see that nvidia-smi lists a GPU and that CUDA and cuDNN are installed "
            "(pip install 'onnxruntime-gpu[cuda,cudnn]'), or choose the device cpu"
        )
    return BoundSession(session, device="cuda")


def _provider_options(gpu_memory_bytes: int | None) -> dict[str, str]:
    limit = {} if gpu_memory_bytes is None else {"gpu_mem_limit": str(gpu_memory_bytes)}
    return {"arena_extend_strategy": "kSameAsRequested", **limit}
