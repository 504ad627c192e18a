"""A whole run on a tiny random model and a few examples: every stage, the artifacts through the service's engine, reuse, publishing."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from pruning import checkpoint
from pruning.cli import main
from pruning.config import DensityTarget, DistillationConfig, QuantizeConfig, RecoverConfig, RunConfig, TrainConfig, parse_config
from pruning.errors import ConfigError, DataError
from pruning.families import family_of
from pruning.pipeline import run
from pruning.publishing import model_card, publish
from pruning.quantization_aware import rounding
from pruning.report import RunReport
from pruning.run import Run
from pruning.stages import Stages, recovery
from pruning.stages.models import trainable_model
from pruning.structure import linears, shapes
from service.artifact import read_manifest, revision
from service.model import Model
from service.tasks.classify import ClassifyRequest
from service.tasks.qa import QuestionRequest
from tests.pruning import helpers

TEXTS = [("the good a b c", 1), ("bad the d e", 0), ("good good f", 1), ("the bad bad", 0)] * 6
CONTEXT = "the good a b c d e f g 1 2 3 bad"


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A recipe over a fine-tuned tiny classifier."""
    folder = tmp_path_factory.mktemp("classification")
    lines = [json.dumps({"text": text, "label": label}) for text, label in TEXTS]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    checkpoint.save(
        helpers.tiny_model("bert", "text-classification", intermediate=48, layers=2), helpers.tiny_tokenizer(), folder / "model"
    )
    return _recipe(folder, task="text-classification", labels=["NO", "YES"], data="texts.jsonl")


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A recipe over a fine-tuned tiny span extractor, with questions that have no answer."""
    folder = tmp_path_factory.mktemp("questions")
    qas = [
        {"id": str(i), "question": f"{word} ?", "answers": [{"text": word, "answer_start": CONTEXT.index(word)}] if i % 3 else []}
        for i, word in enumerate(["good", "a", "bad", "e", "1", "the"] * 3)
    ]
    squad = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}
    (folder / "questions.json").write_text(json.dumps(squad))
    checkpoint.save(helpers.tiny_model("bert", "question-answering", intermediate=48, layers=2), helpers.tiny_tokenizer(), folder / "model")
    return _only_target(_recipe(folder, task="question-answering", labels=[], data="questions.json"), 0)


@pytest.fixture(scope="module")
def finished(classification: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunReport, Path]:
    """The report and the folder of a finished run; a test that changes the folder works on a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run(classification, folder), folder


@pytest.fixture
def copied(finished: tuple[RunReport, Path], tmp_path: Path) -> Path:
    """A copy of the finished run's folder."""
    return Path(shutil.copytree(finished[1], tmp_path / "run"))


def _recipe(folder: Path, *, task: str, labels: list[str], data: str) -> RunConfig:
    source = [{"path": str(folder / data), "name": "tiny"}]
    content = {
        "name": "tiny",
        "task": task,
        "model": str(folder / "model"),
        "labels": labels,
        "max_length": 24,
        "stride": 4,
        "data": {"train": source, "validation": source, "test": [{**source[0], "name": "tiny test"}]},
        "prune": {
            "targets": [{"density": 0.5}, {"macs": 0.6, "sequence_length": 16}],
            "calibration_examples": 16,
            "batch_size": 8,
            "search_trials": 2,
        },
        "evaluate": {"sequence_lengths": [8], "seconds": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return parse_config(content, origin="test")


def _only_target(config: RunConfig, number: int) -> RunConfig:
    prune = config.prune.model_copy(update={"targets": config.prune.targets[number : number + 1]})
    return config.model_copy(update={"prune": prune})


def test_a_run_gives_artifacts_that_answer(finished):
    """Each target ends in artifacts that load through their golden check and answer, and the report is written."""
    report, folder = finished
    artifacts = sorted((folder / "artifacts").glob("*/*"))
    assert len(artifacts) == 2 + 2 * len(report.targets)
    for artifact in artifacts:
        answer = Model.load(artifact).predict([ClassifyRequest(text="the good")])[0]
        assert {each.label for each in answer.labels} == {"NO", "YES"}
    assert (folder / "report" / "report.html").is_file()


def test_bad_data_is_found_before_anything_is_made(classification, tmp_path):
    """Validation data that is read last is refused first."""
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": "good", "label": 7}))
    bad = classification.data.validation[0].model_copy(update={"path": str(tmp_path / "bad.jsonl")})
    config = classification.model_copy(update={"data": classification.data.model_copy(update={"validation": (bad,)})})
    with pytest.raises(DataError, match=r"bad\.jsonl"):
        run(config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]


def test_targets_are_met(finished):
    """A density and a MACs target are reached from below, and not by far."""
    report, _ = finished
    by_density, by_macs = report.targets
    assert 0.4 <= by_density.density <= 0.5
    assert 0.5 <= by_macs.macs.encoder / report.dense.macs.encoder <= 0.6


def test_a_second_run_makes_nothing_again(classification, finished, copied):
    """With nothing changed, every stage is reused and what the report says of the targets stays."""
    again = run(classification, copied)
    assert all(stage.reused for stage in again.stages)
    assert again.targets == finished[0].targets


def test_another_target_reuses_what_came_before(classification, copied):
    """Changing the targets does not take the dense model or the importance again."""
    prune = classification.prune.model_copy(update={"targets": (DensityTarget(density=0.8),)})
    report = run(classification.model_copy(update={"prune": prune}), copied)
    reused = {stage.name: stage.reused for stage in report.stages}
    assert reused["checkpoints/dense"]
    assert reused["importance"]
    assert not reused["checkpoints/density-0.8/masked"]


def test_changed_data_is_noticed(classification, copied, tmp_path):
    """The same path with other content is another input."""
    source = Path(classification.data.validation[0].path)
    other = tmp_path / "texts.jsonl"
    other.write_text(source.read_text() + "\n" + json.dumps({"text": "bad bad", "label": 0}))
    data = classification.data.model_copy(
        update={"validation": (classification.data.validation[0].model_copy(update={"path": str(other)}),)}
    )
    report = run(_only_target(classification.model_copy(update={"data": data}), 0), copied)
    assert report.dense.variants[0].metrics[0].examples == len(TEXTS) + 1


def test_recovery_trains_the_compact_model(classification, copied):
    """With `recover`, the scores from before it are in the report too, the shapes stay, and what it trained on is written down."""
    recover = RecoverConfig(epochs=1, batch_size=8, precision="fp32", distillation=DistillationConfig())
    config = _only_target(classification.model_copy(update={"recover": recover}), 0)
    report, label = run(config, copied), config.prune.targets[0].label
    recovered = checkpoint.load(copied / "checkpoints" / label / "recovered")
    assert report.targets[0].before_recovery
    assert shapes(recovered) == report.targets[0].layers
    seen = [read_manifest(copied / "artifacts" / name).training_data for name in ("dense/dense", f"{label}/compact-int8")]
    assert [[each.name for each in data] for data in seen] == [[], ["tiny (train)"]]


def test_questions_get_a_threshold_and_are_published(questions, tmp_path):
    """A question-answering run handles no-answer, and publishing copies variants that load, with test metrics and a card."""
    run(questions, tmp_path / "run")
    card = publish(Run(questions, Stages(tmp_path / "run")), questions.prune.targets[0].label, tmp_path / "models" / "tiny")
    assert "Training data" in card.read_text()
    assert "paragraph about something else" not in " ".join(card.read_text().split())
    for variant in ("dense", "compact", "compact-int8"):
        model = Model.load(tmp_path / "models" / "tiny" / variant)
        answer = model.predict([QuestionRequest(question="good ?", context=CONTEXT)])[0].answers[0]
        assert CONTEXT[answer.start : answer.end] == answer.answer
        assert model.manifest.handles_no_answer
        assert {metric.dataset for metric in model.manifest.metrics} == {"tiny", "tiny test"}
    dense, compact = (read_manifest(tmp_path / "models" / "tiny" / variant) for variant in ("dense", "compact"))
    assert compact.parent == revision(dense)


def test_card_claims_what_the_recipe_did(classification, finished):
    """Embeddings are unchanged where no training changes them, and where the training data is not known the card says so."""
    folders = [finished[1] / "artifacts" / "dense" / "dense", *sorted((finished[1] / "artifacts").glob("density-0.5/*"))]
    manifests = {manifest.variant: manifest for manifest in map(read_manifest, folders)}
    trained = classification.model_copy(update={"train": (TrainConfig(freeze_embeddings=False),)})
    assert f"those of `{classification.model}`, unchanged" in model_card(manifests, classification)
    assert "on what is not recorded" in model_card(manifests, classification)
    assert "unchanged" not in model_card(manifests, trained)


def test_static_quantization_in_a_run(classification, tmp_path):
    """The scheme is a setting: the int8 variant of a static run says so."""
    quantize = QuantizeConfig(scheme="static", calibration_examples=4)
    run(classification.model_copy(update={"quantize": quantize, "prune": None}), tmp_path / "run")
    assert read_manifest(tmp_path / "run" / "artifacts" / "dense" / "dense-int8").precision == "int8-static"


def test_recovery_rounds_between_the_ranges_that_will_be_used(classification, tmp_path, monkeypatch):
    """Where they are asked for, each linear of a layer is given its own before training, zeros or not; otherwise none is."""
    given = []

    def with_zeros(*asked: Any) -> PreTrainedModel:
        model = trainable_model(*asked)
        for layer in family_of(model).layers(model):
            for linear in linears(layer):
                linear.weight.data[0, 0] = 0
        return model

    monkeypatch.setattr(recovery, "trainable_model", with_zeros)
    monkeypatch.setattr(recovery, "rounding", lambda model, ranges: given.append(ranges) or rounding(model, ranges))
    quantize = QuantizeConfig(scheme="static", calibration_examples=4)
    for ranges in ("fixed", "own"):
        recover = RecoverConfig(epochs=1, batch_size=4, quantization_aware=True, fixed_ranges=ranges == "fixed")
        run(_only_target(classification, 0).model_copy(update={"quantize": quantize, "recover": recover}), tmp_path / ranges)
    fixed, none = given
    kinds = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
    assert all(any(name.endswith(kind) for name in fixed) for kind in kinds)
    assert all(lowest < highest for lowest, highest in fixed.values())
    assert none is None
    (one,), (other,) = (sorted((tmp_path / ranges / "checkpoints").glob("*/recovered")) for ranges in ("fixed", "own"))
    loaded = [checkpoint.load(folder, auto_class=AutoModelForSequenceClassification) for folder in (one, other)]
    assert any(not torch.equal(a, b) for a, b in zip(*(model.parameters() for model in loaded), strict=True))


def test_the_command_line_prints_the_table(classification, copied, invoke):
    """`secateur-prune run` prints the table on stdout and says on stderr where the report is."""
    recipe = Path(classification.model).parent / "recipe.yaml"
    result = invoke(main, ["run", str(recipe), "--output", str(copied)])
    assert result.exit_code == 0
    assert "tiny/dense-int8" in result.stdout
    assert "report.html" in result.stderr


def test_a_finished_run_is_reported_again(copied, invoke):
    """`secateur-prune report` prints the same table from what is there."""
    result = invoke(main, ["report", str(copied)])
    assert result.exit_code == 0
    assert "tiny/dense-int8" in result.stdout


def test_rows_longer_than_the_model_has_positions_are_refused(classification: RunConfig, tmp_path: Path) -> None:
    """Before anything is made; one line says how many there are."""
    longer = classification.model_copy(update={"max_length": 10_000})
    with pytest.raises(ConfigError, match=r"`max_length` is 10000, and .* has positions for \d+ tokens"):
        run(longer, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints" / "dense").exists()
