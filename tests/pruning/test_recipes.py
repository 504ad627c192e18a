"""Every recipe that ships loads, and trains on a small local file in the format of its data."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizerFast

from pruning import checkpoint
from pruning.config import RECIPES, RunConfig, SpeedupTarget, load_recipe
from pruning.data import Example, QuestionExample, load_examples
from pruning.tasks import task_named
from pruning.tasks.base import collate
from pruning.training import train
from tests.pruning.helpers import tiny_model

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
PAPER = {"squad": ("squad",), "squad_v2": ("squad_v2",), "mnli": ("glue", "mnli"), "qqp": ("glue", "qqp"), "sst2": ("sst2",)}
PAIRS = {"mnli": ("premise", "hypothesis"), "qqp": ("question1", "question2")}
SMALL = ("max_length=40", "stride=8")


def squad_file(path: Path, *, impossible: bool) -> Path:
    """Four questions in SQuAD's format, v2.0 if one of them has no answer."""
    questions: list[dict[str, Any]] = [
        {"id": str(i), "question": "is it?", "answers": [{"text": "good", "answer_start": 11}], "is_impossible": False} for i in range(4)
    ]
    if impossible:
        questions[3] |= {"answers": [], "is_impossible": True}
    content = {"version": "v2.0" if impossible else "1.1", "data": [{"paragraphs": [{"context": "the sea is good.", "qas": questions}]}]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def rows_file(path: Path, columns: tuple[str, ...], labels: int) -> Path:
    """Four rows a label as JSON lines, with the columns that the hub's dataset has."""
    rows = [{**dict.fromkeys(columns, f"{'good' if i % 2 else 'bad'} {i % 9}"), "label": i % labels, "idx": i} for i in range(4 * labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def local_file(name: str, config: RunConfig, folder: Path) -> Path:
    """A small file in the format of the recipe's data."""
    if config.task == "question-answering":
        return squad_file(folder / "train.json", impossible=name == "squad_v2")
    return rows_file(folder / "train.jsonl", PAIRS.get(name, ("sentence",)), len(config.labels))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each recipe that ships."""
    return str(request.param)


@pytest.fixture
def local(name: str, tmp_path: Path, tiny_tokenizer: BertTokenizerFast) -> RunConfig:
    """The recipe with its model and data overridden, as a user would, by a tiny model and a small file."""
    shipped = load_recipe(name)
    model = tiny_model("bert", shipped.task, layers=2, labels=len(shipped.labels) or 2)
    checkpoint.save(model, tiny_tokenizer, tmp_path / "model")
    data = local_file(name, shipped, tmp_path)
    paths = [f"data.train.{i}.path={data}" for i in range(len(shipped.data.train))]
    return load_recipe(name, (f"model={tmp_path / 'model'}", *paths, *SMALL))


def examples_of(config: RunConfig) -> list[Example]:
    """The recipe's training examples."""
    return load_examples(config.data.train, config.task, labels=config.labels, seed=config.seed)


def test_a_recipe_is_whole(name: str):
    """It loads, has targets that can be told apart, and measures at the lengths that it prunes for."""
    config = load_recipe(name)
    assert config.prune is not None
    targets = config.prune.targets
    assert len({target.label for target in targets}) == len(targets)
    assert {t.sequence_length for t in targets if isinstance(t, SpeedupTarget)} <= set(config.evaluate.sequence_lengths)
    assert max(config.evaluate.sequence_lengths) <= config.max_length


def test_a_recipe_trains_on_a_local_file(local: RunConfig, tmp_path: Path):
    """From file to features to two optimizer steps, with the recipe's own settings for all but precision and length."""
    task = task_named(local.task)
    tokenizer = checkpoint.load_tokenizer(local.model)
    model = checkpoint.load(local.model, auto_class=task.auto_class)
    features = task.features(examples_of(local), tokenizer, max_length=local.max_length, stride=local.stride)
    settings = local.train[0] if local.train else local.recover
    if settings is None:
        assert model(**collate(features, tokenizer)).loss.isfinite()
        return
    config = settings.model_copy(update={"precision": "fp32", "epochs": 2, "batch_size": len(features), "distillation": None})
    result = train(model, tokenizer, task, features, config, folder=tmp_path / "train", seed=local.seed)
    assert result.steps == 2
    assert 0 < result.loss < 20


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_tasks_use_its_base_model_and_the_hubs_data(name: str):
    """The block-pruning paper's tasks start from BERT-base and read the dataset of that name, development set last."""
    config = load_recipe(name)
    assert config.model == "google-bert/bert-base-uncased"
    for source in (*config.data.train, *config.data.validation, *config.data.test):
        assert source.hub is not None
        assert (source.hub.split("/")[1], source.config)[: len(PAPER[name])] == PAPER[name]
    assert all(source.split.startswith("train") for source in (*config.data.train, *config.data.validation))
    assert all(source.split.startswith("validation") for source in config.data.test)


def test_mnli_is_reported_matched_and_mismatched():
    """Labels are in GLUE's order, and both development sets are read."""
    config = load_recipe("mnli")
    assert config.labels == ("entailment", "neutral", "contradiction")
    assert [source.split for source in config.data.test] == ["validation_matched", "validation_mismatched"]


def test_qqp_reports_f1_of_duplicates():
    """F1 is of the label that says that two questions are the same."""
    config = load_recipe("qqp")
    assert config.evaluate.positive_label is not None
    assert config.labels[config.evaluate.positive_label] == "duplicate"


@pytest.mark.parametrize("name", ["squad_v2"])
def test_squad_v2_knows_questions_without_answers(local: RunConfig):
    """Questions without an answer come through as such."""
    assert [bool(example.answers) for example in examples_of(local) if isinstance(example, QuestionExample)] == [True, True, True, False]


def test_the_demo_needs_nothing_but_the_shipped_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its sentences ship with the package, whatever folder it is run from; it trains nothing, and says that it is a smoke sample."""
    monkeypatch.chdir(tmp_path)
    config = load_recipe("demo")
    assert len(examples_of(config)) == 200
    assert len(load_examples(config.data.validation, config.task, labels=config.labels)) == 100
    assert config.train == ()
    assert config.recover is None
    assert "smoke sample" in config.notes[0]
