"""What the tests over HTTP share: a folder of tiny models, applications over fakes, a real server, and what a problem document is."""

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import uvicorn
from fastapi import FastAPI

from pruning.quantization import quantize_artifact
from service.model import Model
from service.registry import Registry, Served
from service.runtime.base import Array, Session
from service.tokenization import TextTokenizer
from tests.pruning.seq2seq_artifacts import summarizer
from tests.pruning.seq2seq_artifacts import write_summarizer as export_summarizer
from tests.service import builders
from tests.service.http.graphs import masked_mean, scaled_by_call
from tests.service.summarizing import write_summarizer
from tests.waiting import until

LABELS = ("negative", "neutral", "positive")
QA = {"question": "who wrote it?", "context": "Ada wrote it in the café 🙂. " * 5}
MEMBERS = {"type", "title", "status", "detail", "instance", "error", "error_type", "request_id"}
INTERNAL_WORDS = ("Traceback", 'File "', ".py", "pydantic", "starlette", "secret")


def write_models(folder: Path) -> Path:
    """Two variants of questions and of sentiment, three of summaries, several labels at once in `topics`."""
    bert, roberta = builders.bert_tokenizer(), builders.roberta_tokenizer()
    for seed, variant, precision in ((0, "dense", "fp32"), (1, "compact-int8", "int8")):
        about: dict[str, Any] = {"variant": variant, "precision": precision}
        questions = builders.qa_model(bert.get_vocab_size(), seed=seed)
        builders.write_artifact(folder / "qa" / variant, "question-answering", questions, bert, name="qa", handles_no_answer=True, **about)
        graph = masked_mean if precision == "fp32" else scaled_by_call
        labels = graph(roberta.get_vocab_size(), len(LABELS), seed)
        builders.write_artifact(folder / "sentiment" / variant, "text-classification", labels, roberta, name="sentiment", **about)
    topics = masked_mean(bert.get_vocab_size(), len(LABELS), seed=2)
    builders.write_artifact(folder / "topics/dense", "text-classification", topics, bert, name="topics", multi_label=True)
    write_summarizer(folder / "summarize/dense")
    write_summarizer(folder / "summarize/compact", variant="compact", seed=1, tokenizer=roberta)
    _write_small_summarizer(folder / "summarize/compact-int8")
    return folder


def _write_small_summarizer(folder: Path) -> None:
    """A pruned model of fewer output tokens in 8 bits, as it is exported, whose own way is beams."""
    model = summarizer(seed=3, pruned=True, reduced=True)
    model.generation_config.num_beams, model.generation_config.max_length = 4, 13
    model.generation_config.no_repeat_ngram_size = 2
    exported = folder.parent / "exported"
    export_summarizer(exported, model, name="summarize", target_length=40)
    quantize_artifact(exported, folder)
    shutil.rmtree(exported)


class FakeSession:
    """Gives zeros after having called `before`, which may wait or raise."""

    inputs = ("input_ids", "attention_mask")
    runtime = "fake 1.0"

    def __init__(self, task: str, before: Callable[[], object] = lambda: None) -> None:
        """Nothing has run yet.

        Args:
            task: decides what the outputs are.
            before: called in each run.
        """
        self.runs = 0
        self._before = before
        self.outputs = ("logits",) if task == "text-classification" else ("start_logits", "end_logits")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Zeros."""
        self._before()
        self.runs += 1
        rows, tokens = inputs["input_ids"].shape
        return {name: np.zeros((rows, 3 if name == "logits" else tokens), dtype=np.float32) for name in self.outputs}


class HeldSession:
    """A session that waits for an event before each run, so that work piles up behind it."""

    def __init__(self, session: Session, event: threading.Event) -> None:
        """Hold this session.

        Args:
            session: does the work.
            event: waited for, not for ever.
        """
        self.inputs, self.outputs, self.runtime = session.inputs, session.outputs, session.runtime
        self._session, self._event = session, event

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The session's outputs, when the event has come."""
        self._event.wait(20)
        return self._session.run(inputs)


def registry_of(*sessions: FakeSession, precision: str = "int8") -> Registry:
    """A registry of fakes, named after their tasks."""
    served = {}
    for session in sessions:
        task = "text-classification" if session.outputs == ("logits",) else "question-answering"
        manifest = builders.manifest_for(task, name=task, precision=precision, max_length=24)
        model = Model(manifest, TextTokenizer(builders.bert_tokenizer()), session)
        served[task, manifest.variant] = Served(model, "sha256:0")
    return Registry(served)


def assert_problem(response: Any, status: int | None = None, sent: object = None) -> dict[str, Any]:
    """The problem document of a refusal, after every promise about such documents was checked.

    Args:
        response: of httpx.
        status: which one it must be; any refusal without it.
        sent: the body that was sent, for pointers to be followed in.
    """
    assert response.headers["content-type"] == "application/problem+json", response.text[:300]
    problem: dict[str, Any] = response.json()
    assert problem.keys() >= MEMBERS
    assert problem["status"] == response.status_code >= 400
    assert status is None or problem["status"] == status, problem
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["type"] == f"urn:secateur:problem:{problem['error_type']}"
    assert problem["error"] == f"{problem['title']}: {problem['detail']}"
    assert not [word for word in INTERNAL_WORDS if word in response.text]
    for entry in problem.get("errors", []):
        assert entry["detail"]
        assert sent is None or leads_somewhere(sent, entry["pointer"]), entry
    return problem


def leads_somewhere(document: Any, pointer: str) -> bool:
    """Whether a JSON pointer leads to a member of the document, or to the place where one is missing."""
    assert pointer.startswith("#"), pointer
    parts = [unquote(part).replace("~1", "/").replace("~0", "~") for part in pointer[1:].split("/")[1:]]
    for index, part in enumerate(parts):
        if isinstance(document, list) and part.isdecimal() and int(part) < len(document):
            document = document[int(part)]
        elif isinstance(document, dict) and part in document:
            document = document[part]
        else:
            return isinstance(document, dict) and index == len(parts) - 1
    return True


@dataclass(frozen=True)
class Live:
    """A server on a port of its own."""

    address: str
    port: int
    app: FastAPI


@contextlib.contextmanager
def live(app: FastAPI) -> Iterator[Live]:
    """uvicorn around an application, in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),), daemon=True)
        thread.start()
        try:
            until(lambda: server.started)
            port = listening.getsockname()[1]
            yield Live(f"http://127.0.0.1:{port}", port, app)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def same(one: Any, other: Any, tolerance: float = 1e-6) -> bool:
    """Whether two answers are the same: shapes, texts and places exactly, scores within the tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name], tolerance) for name in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same(*pair, tolerance) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance
    return bool(one == other)


def metric(text: str, name: str) -> float:
    """The sum of a metric's samples; 0 when there is none."""
    lines = [line for line in text.splitlines() if line.startswith((name + " ", name + "{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
