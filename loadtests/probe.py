"""Raw sessions and matrix products, one caller and one thread: `python -m loadtests.probe`, told what to measure by `loadtests.below`.

One JSON document comes in on standard input and one goes out. Sessions and lengths are visited in rounds, in one order and then in the
other; a visit is the median of its calls. A session that cannot be loaded is named with the reason, and the others go on.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from loadtests.texts import TASKS

Call = Callable[[], object]

ROWS, COLUMNS, DEPTH = 384, 1536, 384
LEAST_CALLS = 3
_HEADS = {task.served_as: task.head for task in TASKS.values()}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Carry out a job.

    Args:
        job: `sessions`, each with `label`, `path`, `runtime`, `precision` and `task`; `lengths` in tokens; `rounds`, and `seconds` of a
            visit; `gemms`, each with `runtime` and `precision`.

    Returns:
        `milliseconds` by label and length, [rounds]; `gemms` in 10^9 operations per second, in their order; `failed`, reasons by label.
    """
    calls: dict[tuple[str, int], Call] = {}
    failed: dict[str, str] = {}
    for session in job["sessions"]:
        try:
            calls |= {(session["label"], tokens): call for tokens, call in session_calls(session, job["lengths"])}
        except Exception as error:  # each library has errors of its own
            failed[session["label"]] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    milliseconds: dict[str, dict[int, list[float]]] = {label: {} for label, _ in calls}
    for number in range(job["rounds"]):
        for (label, tokens), call in tuple(calls.items())[:: 1 if number % 2 == 0 else -1]:
            milliseconds[label].setdefault(tokens, []).append(1e3 * statistics.median(timed(call, job["seconds"])))
    return {"milliseconds": milliseconds, "failed": failed, "gemms": [gemm(**each, seconds=job["seconds"]) for each in job["gemms"]]}


def timed(call: Call, seconds: float) -> list[float]:
    """Seconds of each call, after one that does not count, for so long."""
    call()
    found, until = list[float](), time.perf_counter() + seconds
    while len(found) < LEAST_CALLS or time.perf_counter() < until:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def session_calls(session: dict[str, Any], lengths: Sequence[int]) -> Iterator[tuple[int, Call]]:
    """A call for each length, of a row that is all words."""
    run = RUNS[session["runtime"]](**session)
    for tokens in lengths:
        ids = np.random.default_rng(tokens).integers(1000, 2000, size=(1, tokens))
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        yield tokens, lambda feed=feed: run(feed)  # type: ignore[misc]


def onnxruntime_run(path: str, **_: object) -> Callable[[dict[str, Any]], object]:
    """As the service sets it up: one thread, which does not spin."""
    session = _ort_session(f"{path}/model.onnx")
    names = {each.name for each in session.get_inputs()}
    return lambda feed: session.run(None, {name: value for name, value in feed.items() if name in names})


def openvino_run(path: str, precision: str, **_: object) -> Callable[[dict[str, Any]], object]:
    """One stream of one thread."""
    request = _openvino_request(f"{path}/model.onnx", precision)
    names = {name for port in request.model_inputs for name in port.get_names()}
    return lambda feed: request.infer({name: value for name, value in feed.items() if name in names})


def torch_run(path: str, task: str, **_: object) -> Callable[[dict[str, Any]], object]:
    """The checkpoint of the same folder in fp32."""
    import torch
    import transformers

    torch.set_num_threads(1)
    model = getattr(transformers, _HEADS[task]).from_pretrained(path, torch_dtype=torch.float32).eval()

    def run(feed: dict[str, Any]) -> object:
        with torch.inference_mode():
            return model(**{name: torch.from_numpy(value) for name, value in feed.items()})

    return run


RUNS: dict[str, Callable[..., Callable[[dict[str, Any]], object]]] = {
    "onnxruntime": onnxruntime_run,
    "openvino": openvino_run,
    "torch": torch_run,
}


def gemm(runtime: str, precision: str, *, seconds: float) -> float:
    """10^9 operations per second of a matrix product [ROWS, DEPTH] x [DEPTH, COLUMNS] with constant weights, the fastest call."""
    left, model = product(precision)
    if runtime == "openvino":
        request = _openvino_request(model, precision)
        call: Call = lambda: request.infer({"left": left})  # noqa: E731
    else:
        session = _ort_session(model)
        call = lambda: session.run(None, {"left": left})  # noqa: E731
    return 2e-9 * ROWS * COLUMNS * DEPTH / min(timed(call, seconds))


def product(precision: str) -> tuple[np.ndarray[Any, Any], bytes]:
    """A left side and a graph that multiplies it, in 8 bits or in floating point."""
    from onnx import TensorProto, helper, numpy_helper

    source = np.random.default_rng(0)
    sides: tuple[np.ndarray[Any, Any], ...]
    if precision == "int8":
        sides = source.integers(0, 255, (ROWS, DEPTH), np.uint8), source.integers(-127, 127, (DEPTH, COLUMNS), np.int8)
        operator, kinds = "MatMulInteger", (TensorProto.UINT8, TensorProto.INT32)
    else:
        sides = tuple(source.standard_normal(shape, np.float32) for shape in ((ROWS, DEPTH), (DEPTH, COLUMNS)))
        operator, kinds = "MatMul", (TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "product",
        [helper.make_tensor_value_info("left", kinds[0], [ROWS, DEPTH])],
        [helper.make_tensor_value_info("product", kinds[1], [ROWS, COLUMNS])],
        [numpy_helper.from_array(sides[1], "right")],
    )
    return sides[0], helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


def _ort_session(model: str | bytes) -> Any:  # noqa: ANN401 - has no hints
    import onnxruntime

    from loadtests.peers.sessions import session_options

    return onnxruntime.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])


def _openvino_request(model: str | bytes, precision: str) -> Any:  # noqa: ANN401 - has no hints
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # without it OpenVINO reports its import
    import openvino

    core = openvino.Core()
    properties = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    return core.compile_model(core.read_model(model), "CPU", properties).create_infer_request()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(json.load(sys.stdin))) + "\n")
