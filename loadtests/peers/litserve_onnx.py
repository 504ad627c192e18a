"""LitServe over ONNX Runtime: `python -m loadtests.peers.litserve_onnx --artifact models/qa/compact-int8 --task … --port …`.

LitServe brings no tokenizer and no tasks, so both are written here as simply as they can be: one window, the best span of up to 30
tokens, softmax. Tuned, it has a worker per core, with one thread each.
"""

import json
from pathlib import Path
from typing import Any

import litserve
import numpy as np
import onnxruntime
from tokenizers import Encoding, Tokenizer

from loadtests.peers.options import HOST, Options, read_options
from loadtests.peers.sessions import session_options
from loadtests.peers.spans import FloatArray, best_span, softmax

LENGTH = 384


class OnnxApi(litserve.LitAPI):  # type: ignore[misc] # litserve has no type hints
    """One artifact behind LitServe's four methods."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options

    def setup(self, device: str) -> None:
        """Load the graph and the tokenizer, in each worker."""
        folder = Path(self._options.artifact)
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), session_options() if self._options.tuned else None, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(LENGTH)
        labels = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label", {})
        self._labels = [labels[index] for index in sorted(labels, key=int)]

    def decode_request(self, request: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """`inputs` of the body."""
        return request["inputs"]

    def predict(self, inputs: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - JSON
        """The best answer to each of the inputs."""
        answer = self._find if self._options.task == "question-answering" else self._label
        return [answer(each) for each in (inputs if isinstance(inputs, list) else [inputs])]

    def encode_response(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """As it is."""
        return output

    def _run(self, encoding: Encoding) -> list[FloatArray]:
        columns = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        feed = {node.name: np.array([columns[node.name]], dtype=np.int64) for node in self._session.get_inputs()}
        return [values[0] for values in self._session.run(None, feed)]

    def _label(self, text: str) -> dict[str, Any]:
        (logits,) = self._run(self._tokenizer.encode(text))
        scores = softmax(logits)
        return {"label": self._labels[int(scores.argmax())], "score": float(scores.max())}

    def _find(self, inputs: dict[str, str]) -> dict[str, Any]:
        encoding = self._tokenizer.encode(inputs["question"], inputs["context"])
        starts, ends = self._run(encoding)
        first, last, score = best_span(starts, ends, [index == 1 for index in encoding.sequence_ids])
        start, end = encoding.offsets[first][0], encoding.offsets[last][1]
        return {"answer": inputs["context"][start:end], "score": score, "start": start, "end": end}


def main() -> None:
    """Serve."""
    options = read_options()
    workers = options.cores if options.tuned else 1
    server = litserve.LitServer(OnnxApi(options), accelerator="cpu", workers_per_device=workers)
    server.run(host=HOST, port=options.port, generate_client_file=False, log_level="warning" if options.tuned else "info")


if __name__ == "__main__":
    main()
