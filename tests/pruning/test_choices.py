"""The measurements behind the defaults compare like with like: every form and scheme computes the same model."""

import json
from functools import partial

import numpy as np
import pytest

from pruning import comparison
from pruning.choices import CLEANED, FINISHED, compare_forms, compare_schemes_of, graph_forms
from pruning.config import DataSource
from pruning.export import ArtifactSpec, export_artifact
from service.runtime.onnx import OnnxSession
from tests.pruning import helpers

TASK = "text-classification"


@pytest.fixture(scope="module")
def classifier():
    """A tiny classifier."""
    return helpers.tiny_model("bert", TASK, intermediate=32, layers=2)


def test_every_form_gives_the_same_outputs(classifier):
    """What is timed against each other differs in speed alone."""
    row = {name: tensor.numpy() for name, tensor in helpers.random_batch().items()}
    forms = {form: FINISHED.get(form, lambda graph: graph)(graph) for form, graph in graph_forms(classifier, TASK).items()}
    outputs = {form: OnnxSession(graph.SerializeToString()).run(row)["logits"] for form, graph in forms.items()}
    for form, found in outputs.items():
        np.testing.assert_allclose(found, outputs[CLEANED], atol=1e-4, err_msg=form)


def test_every_form_is_timed_in_every_precision(classifier):
    """One row for each form, precision and length; the cleaned one is its own reference."""
    rows = compare_forms(classifier, TASK, sequence_lengths=[4, 8], seconds=0.05)
    assert {(row.precision, row.sequence_length) for row in rows} == {(p, n) for p in ("fp32", "int8") for n in (4, 8)}
    assert {row.ratio.value for row in rows if row.form == CLEANED} == {1.0}


def test_every_scheme_is_compared_with_the_artifact(classifier, tmp_path, monkeypatch):
    """Dynamic, with and without smoothing, and the three calibrations, each with a paired difference and a ratio."""
    monkeypatch.setattr(comparison, "compare_latency", partial(comparison.compare_latency, seconds=0.05))
    row = {name: tensor.numpy()[:1] for name, tensor in helpers.random_batch().items()}
    spec = ArtifactSpec(
        name="tiny",
        variant="dense",
        task=TASK,
        family="bert",
        max_length=16,
        macs_sequence_length=8,
        density=1.0,
        golden=(row,),
        labels=("A", "B"),
    )
    export_artifact(classifier, helpers.tiny_tokenizer(), tmp_path / "dense", spec=spec)
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": "good a", "label": 1}))
    found = compare_schemes_of(
        tmp_path / "dense", sources=[DataSource(path=str(tmp_path / "texts.jsonl"))], calibration=[row, row], sequence_length=8
    )
    assert list(found) == ["dynamic", "dynamic, smooth", "static, minmax", "static, percentile", "static, entropy"]
    for compared in found.values():
        assert compared.metrics[0].difference is not None
        assert compared.ratios.keys() == {8}
