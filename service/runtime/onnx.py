"""ONNX Runtime on CPU: one session per artifact, the caller's thread does the work.

With `threads=1` and spinning off, several threads call `run` at once and share the weights; ONNX Runtime releases the
interpreter's lock while it computes.

Memory stays flat over rows of mixed lengths because patterns are off: a pattern plans the memory of one shape, and a part of the arena
is kept for it. Eight callers with 320 rows of 8 to 384 tokens at a time (qa/compact-int8, ONNX Runtime 1.31, two cores with AVX2) went
from 99 MB to 214 and then 262 MB with patterns, and to 178 MB, at once and for good, without. The arena stays on: without it the same
rows took 260 to 305 MB, 346 at their peak, as the C library splits its memory between threads, and one of 384 tokens took 69 ms instead
of 54. Patterns make no difference to speed. Two other ways did not help: shrinking the arena after each run took more memory, and this
version's CPU provider passes over `arena_extend_strategy`. An arena never shrinks, so what bounds it is the scheduler's limit on the
tokens of one call.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from service.artifact import Machine
from service.errors import ArtifactError
from service.runtime.base import Array
from service.runtime.graph import check_graph
from service.runtime.machine import core_count, cpu_name, instruction_sets

__all__ = ["OnnxSession", "core_count", "machine"]

_ERRORS_ONLY = 3
ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


class OnnxSession:
    """A graph loaded by ONNX Runtime; see `service.runtime.base.Session`.

    Args:
        model: a file, whose operators and external data are checked first (`service.runtime.graph`), or a serialized model of
            the caller's own making.
        threads: threads inside one call.
        spinning: whether threads that wait inside a call keep their cores busy.
    """

    def __init__(self, model: Path | bytes, *, threads: int = 1, spinning: bool = False) -> None:
        """Load the graph; `ArtifactError` when it cannot be."""
        if isinstance(model, Path):
            check_graph(model)
        try:
            self._session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                base_options(threads=threads, spinning=spinning),
                providers=["CPUExecutionProvider"],
            )
        except ERRORS as error:
            name = model if isinstance(model, Path) else "the model in memory"
            raise ArtifactError(
                f"{name}: ONNX Runtime {ort.__version__} refuses it ({one_line(error)}); fetch or export it again"
            ) from error
        self.inputs: tuple[str, ...] = tuple(item.name for item in self._session.get_inputs())
        self.outputs: tuple[str, ...] = tuple(item.name for item in self._session.get_outputs())
        self.runtime = f"onnxruntime {ort.__version__} cpu"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Arrays that are not inputs of the graph are passed over."""
        try:
            values = self._session.run(self.outputs, {name: inputs[name] for name in self.inputs})
        except ERRORS as error:
            raise ArtifactError(f"ONNX Runtime {ort.__version__} cannot run the graph ({one_line(error)}); export it again") from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, values, strict=True)}


def machine() -> Machine:
    """This machine and runtime, as a manifest records them beside a latency."""
    return Machine(cpu=cpu_name(), cores=core_count(), isa=instruction_sets(), runtime=f"onnxruntime {ort.__version__}")


def base_options(*, threads: int, spinning: bool = False) -> ort.SessionOptions:
    """Options that every session has; see the module's docstring."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    return options


def one_line(error: Exception) -> str:
    """The start of a runtime's message, without line breaks."""
    return " ".join(str(error).split())[:200]
