"""What a service says of its variants is read with care."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from loadtests.client import Client
from loadtests.described import accuracy_of, artifact_of, macs_at, scores_of
from loadtests.errors import ServiceError
from loadtests.plan import parse_subject
from loadtests.texts import TASKS

SCORE = {"name": "f1", "value": 80.0, "low": 79.0, "high": 81.0, "examples": 10, "dataset": "SQuAD", "split": "validation"}
SAID = {
    "runtime": "onnxruntime 1.31 cpu",
    "revision": "abc",
    "sha256": {"model.onnx": "00"},
    "parameters": {"total": 30},
    "macs": {"total": 100 * 10 + 2 * 8 * 3 * 10**2, "sequence_length": 10},
    "head_size": 8,
    "layers": [{"heads": 2, "intermediate": 4}, {"heads": 1, "intermediate": 4}],
}


@pytest.fixture
def client():
    """Of a service that says one thing about every variant."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"parameters": SAID}).encode()
            self.send_response_only(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Client(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_an_artifact_is_what_the_service_says(client):
    """Size and precision from its line, the rest from its own address."""
    row = {"model": "qa", "variant": "compact", "precision": "fp32", "size_bytes": 5, "density": 0.5}
    artifact = artifact_of(client, row, parse_subject("compact"), tokens=10)
    assert (artifact.runtime, artifact.parameters, artifact.revision) == ("onnxruntime 1.31 cpu", 30, "abc")
    assert artifact.macs == SAID["macs"]["total"]


def test_another_runtime_than_was_asked_for_is_refused(client):
    """With the name by which it can be had."""
    with pytest.raises(ServiceError, match="compact@onnxruntime"):
        artifact_of(client, {"model": "qa", "variant": "compact"}, parse_subject("compact@openvino"), tokens=10)


def test_a_service_that_says_little_is_taken_as_it_is(fake):
    """What is not known is None."""
    artifact = artifact_of(Client(fake.url), {"model": "qa", "variant": "dense"}, parse_subject("dense"), tokens=10)
    assert (artifact.macs, artifact.parameters, artifact.density, artifact.sha256) == (None, None, None, {})


def test_operations_grow_with_the_length_and_attention_with_its_square():
    """As the manifest says at its own length; none for a model that generates."""
    assert macs_at(SAID, 10) == SAID["macs"]["total"]
    assert macs_at(SAID, 20) == 100 * 20 + 2 * 8 * 3 * 20**2
    assert macs_at({**SAID, "generation": {"beams": 4}}, 10) is None
    assert macs_at({}, 10) is None


def test_the_headline_score_is_the_tasks_own_on_the_first_data_set():
    """A score that lacks a member is passed over."""
    other = {"against": "qa/dense", "value": -1.0, "low": -2.0, "high": 0.0}
    rows = [{"name": "f1", "value": 1.0}, {**SCORE, "name": "exact_match"}, {**SCORE, "difference": other}, {**SCORE, "dataset": "other"}]
    scores = scores_of({"metrics": rows})
    assert [score.name for score in scores] == ["exact_match", "f1", "f1"]
    best = accuracy_of(TASKS["qa"], scores)
    assert best is not None
    assert (best.dataset, best.difference.value) == ("SQuAD", -1.0)
    assert accuracy_of(TASKS["classify"], scores) is None
