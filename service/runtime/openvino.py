"""OpenVINO on CPU, a second runtime for the same artifacts: `pip install '.[openvino]'` in the clone.

What was seen with OpenVINO 2026.4 and the models that ship, on two cores of an AMD EPYC with AVX2, and what is done about it:

- With one stream all calls wait for one lock, whoever makes them. So there is a stream for each caller, of `threads` threads; one
  request per call in flight, from a pool. The layout is then ONNX Runtime's, but the work is done by OpenVINO's own threads: a lower
  priority of the calling thread does not reach them.
- Each new length is compiled and kept: 320 rows of random lengths took memory from 165 to 1052 MB, and it went on growing. So rows
  are padded to a multiple of 16 tokens, and it stayed at 310 MB. A graph without an attention mask is not padded.
- bf16 products move the logits by 0.007 to 0.056 (emulated), where the golden check allows 0.003 to 0.008: so f32 is asked for in so
  many words, where the plugin alone would take bf16 on a processor with AMX. `precision="bf16"` asks for that.
- Graphs of fixed ranges (int8-static) are computed in 8 bits. Attention in 8 bits as well was tried: 1.04 times as fast at 384 tokens
  of models/qa, and no faster at 128, so it stays fp32.
- Graphs that quantize activations on the fly took longer than their fp32 variants (38 ms of processor time for 128 tokens against 29),
  as their products are not computed in 8 bits; one of the two that ship fell out of the golden tolerance, and padding would change
  their scales: they are refused.
- Artifacts choose between two forms of attention by an If, one for rows without padding and one for any. Branches that take the same
  values mixed them up (a row came out as NaN), and the first form was no faster here: the second one is put in the place of each If.
- Token ids are not checked against the embedding table. They come from the artifact's own tokenizer.
- Nothing is cached on disk, and files are not mapped: what was verified is what runs.
"""

import sys
from collections import deque
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.errors import ArtifactError
from service.runtime.base import Array
from service.runtime.graph import GraphFacts, check_graph, read_graph
from service.runtime.machine import core_count
from service.runtime.padding import MASK, cut_outputs, pad_feed, step_up

# OpenVINO reports its own import to an analytics server unless this package is missing. A service does not call out.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino as ov  # noqa: E402 - after the line above

LENGTH_STEP = 16
_ELSE = 1  # the number of that branch in OpenVINO's If
QUANTIZED_ON_THE_FLY = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


class OpenVinoSession:
    """A graph compiled by OpenVINO; see `service.runtime.base.Session`.

    Args:
        model: a file, whose operators and external data are checked first (`service.runtime.graph`), or a serialized model of
            the caller's own making.
        threads: threads inside one call.
        callers: calls that may run at once; more than that wait for each other. None for as many as the cores allow.
        precision: of matrix products; bf16 falls back to f32 where the processor has no bf16.
    """

    def __init__(
        self, model: Path | bytes, *, threads: int = 1, callers: int | None = None, precision: Literal["f32", "bf16"] = "f32"
    ) -> None:
        """Compile the graph; `ArtifactError` when it cannot be."""
        name = str(model) if isinstance(model, Path) else "the model in memory"
        _refuse_dynamic(check_graph(model) if isinstance(model, Path) else read_graph(model), name)
        streams = callers or max(1, core_count() // threads)
        try:
            graph = _without_choices(_core().read_model(model))
            self._compiled = _core().compile_model(graph, "CPU", _properties(streams, threads, precision))
        except RuntimeError as error:
            raise ArtifactError(
                f"{name}: OpenVINO {_version()} refuses it ({_one_line(error)}); use onnxruntime for it, or export it again"
            ) from error
        self.inputs: tuple[str, ...] = tuple(port.any_name for port in self._compiled.inputs)
        self.outputs: tuple[str, ...] = tuple(port.any_name for port in self._compiled.outputs)
        self.runtime = " ".join(["openvino", _version(), "cpu", *_precision_note(self._compiled)])
        self._per_token = [port.any_name for port in self._compiled.outputs if _is_dynamic(port, axis=1)]
        self._requests: deque[Any] = deque()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Arrays that are not inputs of the graph are passed over."""
        feed = {name: inputs[name] for name in self.inputs}
        length = next(iter(feed.values())).shape[1]
        if MASK in feed:
            feed = pad_feed(feed, step_up(length, LENGTH_STEP))
        outputs = self._infer(feed)
        return cut_outputs(outputs, self._per_token, length) if MASK in feed else outputs

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run on a request that nobody else uses; one that failed is not used again."""
        try:
            request = self._requests.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            values = request.infer(feed, share_inputs=True)
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO {_version()} cannot run the graph ({_one_line(error)}); use onnxruntime for it") from error
        outputs = {name: np.array(values[index]) for index, name in enumerate(self.outputs)}
        self._requests.append(request)
        return outputs


@cache
def _core() -> Any:  # noqa: ANN401 - openvino's own class
    core = ov.Core()
    core.set_property({"ENABLE_MMAP": False})
    return core


def _without_choices(graph: Any) -> Any:  # noqa: ANN401 - openvino's own class
    """The graph with the nodes of its else branch in the place of each If."""
    for choice in [node for node in graph.get_ordered_ops() if node.get_type_name() == "If"]:
        branch = choice.get_else_body()
        for taken in choice.get_input_descriptions(_ELSE):
            source = choice.input_value(taken.input_index)
            for reader in branch.get_parameters()[taken.body_parameter_index].output(0).get_target_inputs():
                reader.replace_source_output(source)
        for given in choice.get_output_descriptions(_ELSE):
            source = branch.get_results()[given.body_value_index].input_value(0)
            for reader in choice.output(given.output_index).get_target_inputs():
                reader.replace_source_output(source)
    graph.validate_nodes_and_infer_types()
    return graph


def _properties(streams: int, threads: int, precision: str) -> dict[str, object]:
    return {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * threads,
        "INFERENCE_PRECISION_HINT": precision,
        "ENABLE_CPU_PINNING": False,
    }


def _refuse_dynamic(facts: GraphFacts, name: str) -> None:
    found = sorted(facts.operators & QUANTIZED_ON_THE_FLY)
    if found:
        raise ArtifactError(
            f"{name}: it quantizes activations on the fly ({', '.join(found)}), which OpenVINO computes slower than fp32; "
            f"use onnxruntime for it, or openvino for the variant without -int8, or quantize it with scheme static"
        )


def _is_dynamic(port: Any, *, axis: int) -> bool:  # noqa: ANN401 - openvino's own class
    shape = port.partial_shape
    return len(shape) > axis and bool(shape[axis].is_dynamic)


def _precision_note(compiled: Any) -> list[str]:  # noqa: ANN401 - openvino's own class
    """`bf16` where that is what it came to."""
    return ["bf16"] if compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.bf16 else []


def _version() -> str:
    """`2026.4.1`, without the build."""
    return str(ov.get_version()).split("-")[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
