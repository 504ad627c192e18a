"""Layers of the service are read from its benchmark's report."""

import json
from pathlib import Path

import pytest

from loadtests.artifacts import Artifacts
from loadtests.children import Done
from loadtests.layers import differences, layers_of, read_layers
from loadtests.plan import Plan, parse_subjects

FIGURES = {"tokens_per_request": 384, "requests_per_second": 10.0, "p50_ms": 1.0, "p99_ms": None, "cpu_ms_per_request": 3.0, "failed": 0}
ONE, MANY = "qa, 384 tokens", "qa, 8 x 384 tokens"
REPORT = {
    "rows": [
        {"load": ONE, "variant": "dense", "layer": "raw", **FIGURES},
        {"load": ONE, "variant": "dense", "layer": "http", **FIGURES},
        {"load": ONE, "variant": "compact, openvino", "layer": "engine", **FIGURES},
        {"load": MANY, "variant": "dense", "layer": "http", **FIGURES},
    ],
    "notes": ["a reason"],
    "comparisons": [
        {"load": ONE, "variant": "dense", "name": "efficiency", "interval": {"value": 0.9, "low": 0.8, "high": 1.0}},
        {"load": ONE, "variant": "compact, openvino", "name": "engine's efficiency", "interval": {"value": 0.7, "low": 0.6, "high": 0.8}},
    ],
}


def test_layers_of_the_load_of_one_text_are_read():
    """With labels as they are asked for, and the share of the raw session where it is compared."""
    layers = list(read_layers(REPORT))
    assert [(layer.subject, layer.layer) for layer in layers] == [("dense", "raw"), ("dense", "http"), ("compact@openvino", "engine")]
    assert [layer.efficiency and layer.efficiency.value for layer in layers] == [None, 0.9, 0.7]
    assert {layer.tokens for layer in layers} == {384}


def test_the_benchmark_is_asked_for_the_length_of_the_loads(tmp_path, monkeypatch):
    """And what it says of what it left out is told, too."""
    asked: list[str] = []

    def run_child(command, *, seconds):
        asked.extend(command)
        Path(command[command.index("--json") + 1]).write_text(json.dumps(REPORT))
        return Done(0, "", "")

    monkeypatch.setattr("loadtests.layers.run_child", run_child)
    plan = Plan(("qa",), parse_subjects("dense,compact@openvino"), quick=True)
    found = layers_of(plan, Artifacts(tmp_path, "qa", {}, ()), tokens=128, within_s=1.0)
    assert "--tokens=128" in asked
    assert found.notes == ("layers of the service: a reason",)


@pytest.mark.parametrize(
    ("compared", "notes"),
    [
        ("dense,compact@openvino", []),
        ("dense,compact", ["layers of the service have no compact, but compact@openvino"]),
        ("dense,compact-int8", ["layers of the service have no compact-int8"]),
    ],
)
def test_what_was_compared_and_not_measured_is_said(compared, notes):
    """The benchmark has one runtime for each variant, which may be another than that of the loads."""
    assert list(differences(parse_subjects(compared), list(read_layers(REPORT)))) == notes
