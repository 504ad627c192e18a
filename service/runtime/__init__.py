"""Runtimes that load a graph, and how to ask for one: `open_session(model, RuntimeOptions(name="openvino"))`.

A runtime is one file of this package plus one line of `RUNTIMES`; it is imported when it is first asked for, and no sooner.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.errors import RuntimeUnavailableError
from service.runtime.base import Session

RuntimeName = Literal["onnxruntime", "openvino"]
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class RuntimeOptions:
    """What loads a graph, and with which means.

    Attributes:
        name: the runtime.
        device: where it computes.
        threads: threads inside one call; with 1 the calls of several threads share the machine.
        callers: calls that may run at once, where the runtime must know it beforehand (OpenVINO; more calls than that wait for each
            other); None for as many as the cores allow at that many threads.
        spinning: whether threads that wait inside a call keep their cores busy; only the doctor asks for it.
        precision: of the matrix products of an fp32 graph. bf16 is faster where the processor has AMX, and beyond the tolerance of
            the golden check (see `service.runtime.openvino`).
        gpu_memory_bytes: most memory that the runtime takes on the GPU; None for all that is free.
    """

    name: RuntimeName = "onnxruntime"
    device: Device = "cpu"
    threads: int = 1
    callers: int | None = None
    spinning: bool = False
    precision: Literal["f32", "bf16"] = "f32"
    gpu_memory_bytes: int | None = None


DEFAULT_OPTIONS = RuntimeOptions()


def open_session(model: Path, options: RuntimeOptions = DEFAULT_OPTIONS) -> Session:
    """Load a graph.

    Raises:
        ArtifactError: the graph cannot be trusted, or the runtime refuses it.
        RuntimeUnavailableError: the runtime is not installed, or it has not that device.
    """
    opener = RUNTIMES.get((options.name, options.device))
    if opener is None:
        raise RuntimeUnavailableError(
            f"{options.name} runs on the CPU only here; choose onnxruntime for {options.device}, or the device cpu"
        )
    return opener(model, options)


def _onnxruntime(model: Path, options: RuntimeOptions) -> Session:
    from service.runtime.onnx import OnnxSession

    return OnnxSession(model, threads=options.threads, spinning=options.spinning)


def _cuda(model: Path, options: RuntimeOptions) -> Session:
    from service.runtime.cuda import open_cuda

    return open_cuda(model, gpu_memory_bytes=options.gpu_memory_bytes)


def _openvino(model: Path, options: RuntimeOptions) -> Session:
    try:
        from service.runtime.openvino import OpenVinoSession
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"openvino cannot be imported ({error}); install it: pip install '.[openvino]' in the clone"
        ) from error

    return OpenVinoSession(model, threads=options.threads, callers=options.callers, precision=options.precision)


RUNTIMES: dict[tuple[RuntimeName, Device], Callable[[Path, RuntimeOptions], Session]] = {
    ("onnxruntime", "cpu"): _onnxruntime,
    ("onnxruntime", "cuda"): _cuda,
    ("openvino", "cpu"): _openvino,
}
