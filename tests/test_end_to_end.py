"""The models that ship, as a user meets them: they load, they answer, and compaction changes no answer.

The slow tests read real questions from the folder that SECATEUR_DATA names, and say so when it is not set.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pruning import checkpoint
from pruning.compaction import compact
from pruning.config import DataSource
from pruning.data import load_source
from pruning.examples import QuestionExample
from pruning.export import ArtifactSpec, export_artifact
from pruning.structure import bake, density
from service.artifact import hash_files, read_manifest
from service.model import Model
from service.tasks.classify import ClassifyRequest
from service.tasks.qa import QuestionRequest
from tests.pruning import helpers

MODELS = Path(__file__).parent.parent / "models"
VARIANTS = ("dense", "compact", "compact-int8")
QUESTIONS = 200


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_sentiment_model_that_ships_tells_good_from_bad(variant):
    """Each variant loads through its golden check and answers two plain sentences rightly."""
    model = Model.load(MODELS / "sentiment" / variant)
    good, bad = model.predict([ClassifyRequest(text="A wonderful film."), ClassifyRequest(text="A terrible, boring mess.")])
    assert (good.labels[0].label, bad.labels[0].label) == ("POSITIVE", "NEGATIVE")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_qa_model_that_ships_answers(variant):
    """Each variant loads through its golden check and finds an answer where it stands."""
    context = "The bridge was opened by the mayor in 1932, after nine years of work."
    answer = (
        Model.load(MODELS / "qa" / variant)
        .predict([QuestionRequest(question="When was the bridge opened?", context=context)])[0]
        .answers[0]
    )
    assert context[answer.start : answer.end] == answer.answer
    assert "1932" in answer.answer


def requests_for(name: str, texts: Sequence[str]) -> list[QuestionRequest] | list[ClassifyRequest]:
    """What the model of that name can be asked of these texts."""
    return (
        [ClassifyRequest(text=text) for text in texts]
        if name == "sentiment"
        else [QuestionRequest(question="When?", context=text) for text in texts]
    )


@pytest.mark.parametrize("name", ["qa", "sentiment"])
def test_rows_that_share_a_call_give_what_they_give_alone(name):
    """In fp32, padding and neighbours change no output by more than rounding."""
    model = Model.load(MODELS / name / "compact")
    texts = ["A quiet triumph.", "The bridge was opened by the mayor in 1932, after nine years of work.", "No."]
    rows = [row for request in requests_for(name, texts) for row in model.rows(request)]
    for alone, together in zip(model.run_rows(rows), model.run_batch(rows), strict=True):
        assert {key: value.shape for key, value in alone.items()} == {key: value.shape for key, value in together.items()}
        for key, value in alone.items():
            np.testing.assert_allclose(together[key], value, atol=1e-4)
    assert model.batches
    assert model.pads


@pytest.mark.parametrize("name", ["qa", "sentiment"])
def test_rows_of_8_bits_share_a_call_only_where_that_changes_nothing(name):
    """With ranges of each call no rows do; with fixed ranges those of one length do, and give to the last digit what they give alone."""
    model = Model.load(MODELS / name / "compact-int8")
    assert model.batches == (model.manifest.precision == "int8-static")
    assert not model.pads
    if model.batches:
        rows = [
            row for request in requests_for(name, ["A quiet triumph.", "A loud triumph.", "No good news."]) for row in model.rows(request)
        ]
        assert len({len(row) for row in rows}) == 1
        for alone, together in zip(model.run_rows(rows), model.run_batch(rows), strict=True):
            assert all(np.array_equal(together[key], value) for key, value in alone.items())


def test_models_share_their_embeddings():
    """The frozen embedding tables are the same bytes in every model that ships."""
    shards = {
        hash_files(MODELS / name / variant)["model-embeddings.safetensors"].sha256
        for name in ("qa", "sentiment")
        for variant in VARIANTS[:2]
    }
    assert len(shards) == 1


@pytest.mark.parametrize("name", ["qa", "sentiment"])
def test_the_8_bit_models_are_small(name):
    """An int8 artifact that ships holds at most 20 MB."""
    files = read_manifest(MODELS / name / "compact-int8").files
    assert sum(entry.size_bytes for entry in files.values()) <= 20e6


@pytest.mark.slow
def test_answers_to_real_questions_are_the_same_before_and_after_compaction(tmp_path):
    """The masked and the compact form of the qa model that ships, with groups and whole blocks removed at random, answer alike."""
    if "SECATEUR_DATA" not in os.environ:
        pytest.fail("this test asks real questions: set SECATEUR_DATA to a folder with squadshifts/validation.json")
    questions = [
        QuestionRequest(question=example.question, context=example.context)
        for example in load_source(DataSource(path="squadshifts/validation.json", limit=QUESTIONS), "question-answering")
        if isinstance(example, QuestionExample)
    ]
    masked = checkpoint.load(MODELS / "qa" / "dense")
    bake(masked, helpers.random_structure(np.random.default_rng(3), masked))
    answers = [_served(model, tmp_path / name).predict(questions) for name, model in (("masked", masked), ("small", compact(masked)))]
    before, after = ([response.answers[0].answer for response in responses] for responses in answers)
    assert len(before) == QUESTIONS
    assert after == before


def _served(model, folder: Path) -> Model:
    """The model as an artifact, loaded."""
    dense = read_manifest(MODELS / "qa" / "dense")
    spec = ArtifactSpec(
        name="qa",
        variant="compact",
        task="question-answering",
        family="bert",
        max_length=dense.max_length,
        stride=dense.stride,
        macs_sequence_length=dense.max_length,
        density=density(model),
        golden=({name: tensor.numpy() for name, tensor in helpers.random_batch().items()},),
    )
    export_artifact(model, checkpoint.load_tokenizer(MODELS / "qa" / "dense"), folder, spec=spec)
    return Model.load(folder)
