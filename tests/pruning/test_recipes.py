"""Every recipe that ships loads, and trains or prunes on a small local file in the format of its data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizerFast, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from pruning import checkpoint
from pruning.config import RECIPES, FinePruneConfig, RunConfig, SpeedupTarget, load_recipe
from pruning.data import load_examples
from pruning.examples import Example, QuestionExample
from pruning.families import family_of
from pruning.masking import attach
from pruning.methods import method_of
from pruning.pipeline import Pruned, pruned_models
from pruning.run import Run
from pruning.stages import Stages
from pruning.stages.compaction import compact_stage
from pruning.stages.dense import train_dense
from pruning.stages.recovery import recover
from pruning.structure import linears
from pruning.targets import goal_of
from pruning.tasks import task_named
from pruning.tasks.base import collate
from pruning.training import train
from tests.pruning.helpers import FAMILY_NAMES, tiny_bart, tiny_model
from tests.pruning.training_helpers import differing, state

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
PAPER = {"squad": ("squad",), "squad_v2": ("squad_v2",), "mnli": ("glue", "mnli"), "qqp": ("glue", "qqp"), "sst2": ("sst2",)}
PAIRS = {"mnli": ("premise", "hypothesis"), "qqp": ("question1", "question2")}
SMALL = ("max_length=40", "target_length=32", "generation=null", "stride=8")
FINE_PRUNING = [name for name in NAMES if load_recipe(name).fine_prune is not None]
FILLED = [name for name in FINE_PRUNING if load_recipe(name).recover is not None]
QUICK = (
    "train.0={epochs: 1, batch_size: 12, precision: fp32, dropout: 0.1, attention_dropout: 0.1}",
    "fine_prune.train.epochs=12",
    "fine_prune.train.batch_size=12",
    "fine_prune.train.precision=fp32",
    "fine_prune.score_learning_rate=0.3",
)
QUICK_RECOVERY = ("recover.epochs=2", "recover.batch_size=12", "recover.precision=fp32")
OTHER_METHODS = {
    "movement": ("fine_prune.method=movement",),
    "magnitude": ("fine_prune.method=magnitude",),
    "L0": ("fine_prune.method={name: l0, penalty: 5000}", "fine_prune.score_learning_rate=0.1", "fine_prune.cooldown=0.098"),
}
HALF_A_HEAD = 1 / 12
"""Of the tiny model's weights: as near to a target as it can be brought where heads go whole, at once or with their last block."""


def paper_task(name: str) -> str:
    """The task that a recipe is for, by the name of the recipe that only trains it: `squad` of `squad-hybrid`."""
    return name.split("-")[0]


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


def summaries_file(path: Path, subject: str) -> Path:
    """Four documents with their summaries, under the names that the hub's columns and our files have; one summary names the subject."""
    texts = [f"the {subject} {i} is a good one at sea. The {subject} {i} is not a bad one at all. It is so." for i in range(4)]
    rows = [{"document": text, "article": text, "summaries": ["good dog"], "highlights": "good dog"} for text in texts]
    rows[0]["summaries"] = ["good dog", f"good {subject} at sea"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def model_for(config: RunConfig, family: str) -> PreTrainedModel:
    """A tiny model of the recipe's task; an encoder where the recipe makes an encoder-decoder of it."""
    if config.task == "summarization" and config.warm_start is None:
        return tiny_bart(encoder_layers=2, decoder_layers=2, hidden=64, heads=2, neurons=(64, 64))
    if config.warm_start is not None:
        return tiny_model(family, "text-classification", layers=4, hidden=64, heads=2, intermediate=64).base_model
    return tiny_model(family, config.task, layers=2, hidden=64, heads=2, intermediate=64, labels=len(config.labels) or 2)


def local_file(name: str, config: RunConfig, folder: Path) -> Path:
    """A small file in the format of the recipe's data."""
    if config.task == "summarization":
        return summaries_file(folder / "train.jsonl", "dog")
    if config.task == "question-answering":
        return squad_file(folder / "train.json", impossible=paper_task(name) == "squad_v2")
    return rows_file(folder / "train.jsonl", PAIRS.get(paper_task(name), ("sentence",)), len(config.labels))


def without_types(tokenizer: BertTokenizerFast) -> PreTrainedTokenizerBase:
    """The same for families whose models take no token types, as the tokenizers that come with them do."""
    special = {f"{kind}_token": getattr(tokenizer, f"{kind}_token") for kind in ("pad", "unk", "cls", "sep", "mask")}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, model_input_names=names, **special)


def local_recipe(name: str, folder: Path, tokenizer: BertTokenizerFast, *overrides: str, family: str = "bert") -> RunConfig:
    """The recipe with its model, teachers and data overridden, as a user would, by tiny models and a small file."""
    shipped = load_recipe(name)
    model = model_for(shipped, family)
    checkpoint.save(model, tokenizer if family == "bert" else without_types(tokenizer), folder / "model")
    data = local_file(name, shipped, folder)
    own = [f"model={folder / 'model'}", *(f"data.train.{i}.path={data}" for i in range(len(shipped.data.train)))]
    held_out = summaries_file(folder / "held-out.jsonl", "cat") if shipped.task == "summarization" else data
    for split, sources in (("validation", shipped.data.validation), ("test", shipped.data.test)):
        own += [f"data.{split}.{i}.path={held_out}" for i in range(len(sources))]
    for where, settings in (("fine_prune.train", shipped.fine_prune and shipped.fine_prune.train), ("recover", shipped.recover)):
        if settings and settings.distillation and settings.distillation.teacher != "dense":
            own.append(f"{where}.distillation.teacher={folder / 'model'}")
    return load_recipe(name, (*own, *SMALL, *overrides))


def quick_recipe(name: str, folder: Path, tokenizer: BertTokenizerFast, *overrides: str, family: str = "bert") -> RunConfig:
    """The same with few steps, in which scores can get somewhere."""
    quick = (*QUICK, *(QUICK_RECOVERY if name in FILLED else ()))
    return local_recipe(name, folder, tokenizer, *quick, *overrides, family=family)


def fine_pruned(current: Run) -> list[Pruned]:
    """The masked models of the run, from its dense one on."""
    return list(pruned_models(current, train_dense(current)))


def nearly(goal: float, settings: FinePruneConfig) -> object:
    """What is equal to a share that was reached within 5 %; where the tiny model's two heads a layer go whole, within half of one."""
    without_heads = settings.granularity.attention == "element" or settings.granularity.attention == settings.granularity.feed_forward
    return pytest.approx(goal, rel=0.05) if without_heads else pytest.approx(goal, abs=HALF_A_HEAD)


def section(config: RunConfig) -> FinePruneConfig:
    """The recipe's fine-pruning."""
    assert config.fine_prune is not None
    return config.fine_prune


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Each recipe that ships."""
    return str(request.param)


@pytest.fixture
def local(name: str, tmp_path: Path, tiny_tokenizer: BertTokenizerFast) -> RunConfig:
    """The recipe on a tiny model and a small file."""
    return local_recipe(name, tmp_path, tiny_tokenizer)


def examples_of(config: RunConfig) -> list[Example]:
    """The recipe's training examples."""
    return load_examples(config.data.train, config.task, labels=config.labels, seed=config.seed)


def test_a_recipe_is_whole(name: str):
    """It loads, has targets that can be told apart, and measures at the lengths that it prunes for."""
    config = load_recipe(name)
    targets = config.targets
    assert targets
    assert len({target.label for target in targets}) == len(targets)
    assert {t.sequence_length for t in targets if isinstance(t, SpeedupTarget)} <= set(config.evaluate.sequence_lengths)
    assert max(config.evaluate.sequence_lengths) <= config.max_length


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FINE_PRUNING and load_recipe(name).warm_start is None])
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
    assert result.loss is not None
    assert 0 < result.loss < 20


def test_a_model_made_of_an_encoder_goes_on_where_it_stopped(
    tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after: Callable[[int], None]
):
    """From an encoder through copying to summaries: a training that was interrupted in its second stage ends as one that was not."""
    few = [f"train.{i}={{epochs: 2, batch_size: 16, precision: fp32, save_steps: 1}}" for i in (0, 1)]
    config = local_recipe("summarize", tmp_path, tiny_tokenizer, *few)
    whole = Run(config, Stages(tmp_path / "whole"))
    train_dense(whole)
    interrupted_after(7)
    with pytest.raises(KeyboardInterrupt):
        train_dense(Run(config, Stages(tmp_path / "run")))
    interrupted_after(1000)
    resumed = Run(config, Stages(tmp_path / "run"))
    dense = train_dense(resumed)
    assert len(dense.details["training"]) == 2
    assert not differing(state(resumed.load(dense.name)), state(whole.load(dense.name)))


@pytest.mark.parametrize("name", FINE_PRUNING)
def test_a_recipe_prunes_on_a_local_file(name: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """With the recipe's own method, granularity and targets, from the pretrained model to masked ones of the sizes asked for."""
    current = Run(quick_recipe(name, tmp_path, tiny_tokenizer), Stages(tmp_path / "run"))
    for pruned in fine_pruned(current):
        assert pruned.target is not None
        assert pruned.masked.details["left"] == nearly(goal_of(pruned.target), section(current.config))


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_what_is_left_is_filled(family: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """In any family: fine-pruned in blocks, compact, and no weight of it is zero when it has been trained again."""
    config = quick_recipe("squad-hybrid-filled", tmp_path, tiny_tokenizer, "fine_prune.targets=[{density: 0.6}]", family=family)
    current = Run(config, Stages(tmp_path / "run"))
    dense = train_dense(current)
    (pruned,) = pruned_models(current, dense)
    small = compact_stage(current, pruned.label, pruned.masked)
    zeros = [zero_weights(current, stage.name) for stage in (small, recover(current, pruned.label, small, dense))]
    assert zeros[0] > 0
    assert zeros[1] == 0


def zero_weights(current: Run, stage: str) -> int:
    """How many weights of the layers are zero in what a stage left."""
    model = current.load(stage)
    return sum(int((linear.weight == 0).sum()) for layer in family_of(model).layers(model) for linear in linears(layer))


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_the_other_methods_are_overrides(method: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """What the papers compare soft movement pruning with reaches the same density, by the overrides that the README has."""
    config = quick_recipe("mnli-movement", tmp_path, tiny_tokenizer, "fine_prune.targets=[{density: 0.1}]", *OTHER_METHODS[method])
    (pruned,) = fine_pruned(Run(config, Stages(tmp_path / "run")))
    assert pruned.masked.details["left"] == pytest.approx(0.1, rel=0.05)


def test_hybrid_pruning_without_a_teacher_is_an_override(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """ "Hybrid NT" of the block-pruning paper, by the override that the README has, reaches the same density."""
    config = quick_recipe("mnli-hybrid-filled", tmp_path, tiny_tokenizer, "fine_prune.train.distillation=null", "recover.distillation=null")
    assert section(config).train.distillation is None
    for pruned in fine_pruned(Run(config, Stages(tmp_path / "run"))):
        assert pruned.target is not None
        assert pruned.masked.details["left"] == nearly(goal_of(pruned.target), section(config))


def test_a_penalty_can_be_fixed(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Without targets, as in the papers: the penalty stays what it is, and decides what is left."""
    fixed = ("fine_prune.targets=[]", "fine_prune.method.penalty=300", "fine_prune.cooldown=0.1", "fine_prune.score_learning_rate=1")
    current = Run(quick_recipe("sst2-hybrid-filled", tmp_path, tiny_tokenizer, *fixed), Stages(tmp_path / "run"))
    (pruned,) = fine_pruned(current)
    assert pruned.target is None
    assert pruned.label == "soft_movement-penalty-300"
    assert {reading["penalty"] for reading in pruned.masked.details["trace"]} == {300.0}
    assert pruned.masked.details["left"] < 1.0


@pytest.mark.parametrize("name", [name for name in FINE_PRUNING if name.endswith("-movement")])
def test_movement_pruning_weighs_every_matrix_alike(name: str):
    """Its paper's penalty is a mean over all matrices, ours one over kinds of block: the recipes' weights make them the same."""
    settings = section(load_recipe(name))
    masks = attach(tiny_model("bert", layers=2), settings.granularity, method_of(settings.method))
    for number, scores in enumerate(masks.scores):
        scores.data = torch.full_like(scores, number / 4 - 1)
    expected = torch.stack([masks.method.penalty(each.mask) for each in masks.masked]).mean()
    found = masks.penalty({"attention": settings.attention_penalty, "feed_forward": settings.feed_forward_penalty})
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("name", FINE_PRUNING)
def test_fine_pruning_starts_from_pretrained_weights_with_a_teacher(name: str):
    """As both papers do, but for summarization, which has no teacher; what is filled learns from the same one."""
    config = load_recipe(name)
    settings = section(config)
    assert settings.start == "pretrained"
    assert (settings.train.distillation is None) is (config.task == "summarization")
    assert config.recover is None or (config.recover.fill and config.recover.distillation == settings.train.distillation)


@pytest.mark.parametrize("name", [name for name in NAMES if paper_task(name) in PAPER])
def test_the_papers_tasks_use_its_models_and_the_hubs_data(name: str):
    """The papers' tasks start from BERT, large where the name says so, and read the dataset of that name, development set last."""
    config, expected = load_recipe(name), PAPER[paper_task(name)]
    assert config.model == f"google-bert/bert-{'large' if '-large-hybrid' in name else 'base'}-uncased"
    for source in (*config.data.train, *config.data.validation, *config.data.test):
        assert source.hub is not None
        assert (source.hub.split("/")[1], source.config)[: len(expected)] == expected
    assert all(source.split.startswith("train") for source in (*config.data.train, *config.data.validation))
    assert all(source.split.startswith("validation") for source in config.data.test)


@pytest.mark.parametrize("name", [name for name in NAMES if paper_task(name) == "mnli"])
def test_mnli_is_reported_matched_and_mismatched(name: str):
    """Labels are in GLUE's order, and both development sets are read."""
    config = load_recipe(name)
    assert config.labels == ("entailment", "neutral", "contradiction")
    assert [source.split for source in config.data.test] == ["validation_matched", "validation_mismatched"]


@pytest.mark.parametrize("name", [name for name in NAMES if paper_task(name) == "qqp"])
def test_qqp_reports_f1_of_duplicates(name: str):
    """F1 is of the label that says that two questions are the same."""
    config = load_recipe(name)
    assert config.evaluate.positive_label is not None
    assert config.labels[config.evaluate.positive_label] == "duplicate"


@pytest.mark.parametrize("name", [name for name in NAMES if paper_task(name) == "squad_v2"])
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
