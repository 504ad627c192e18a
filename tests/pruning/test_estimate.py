"""The estimate of a recipe's trainings: as many steps as a run takes, each training listed, nothing left behind."""

import json
import tempfile
from pathlib import Path

import pytest
import yaml

from pruning import checkpoint
from pruning.cli import main
from pruning.config import RunConfig, parse_config
from pruning.errors import CheckpointError
from pruning.estimate import Estimate, estimate
from pruning.pipeline import pruned_models
from pruning.run import Run
from pruning.stages import Stages
from pruning.stages.compaction import compact_stage
from pruning.stages.dense import train_dense
from pruning.stages.recovery import recover
from pruning.step_timing import typical_rows
from tests.pruning import helpers

TEXTS = ["the good a b c", "bad the d e", "good good f", "the bad bad"]
TRAINING = {"batch_size": 4, "precision": "fp32"}
TEACHER = {"distillation": {"teacher": "dense"}}
EXAMPLES = {
    "text-classification": [{"text": text, "label": index % 2} for index, text in enumerate(TEXTS * 4)],
    "question-answering": [
        {"id": str(index), "question": "the good", "context": " ".join([text] * 4), "answers": [{"text": text[:3], "answer_start": 0}]}
        for index, text in enumerate(TEXTS * 2)
    ],
    "summarization": [{"document": f"{text} {text}", "summary": text} for text in TEXTS * 3],
}


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that temporary folders are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def content(tmp_path: Path) -> dict:
    """A recipe that trains in every way, over a tiny classifier."""
    return content_of("text-classification", tmp_path)


def content_of(task: str, folder: Path) -> dict:
    """A recipe that trains in every way, over a tiny encoder."""
    data = folder / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, EXAMPLES[task])))
    generates = task == "summarization"
    model = helpers.tiny_model("bert", "text-classification" if generates else task, intermediate=48, layers=2)
    checkpoint.save(model.base_model if generates else model, helpers.tiny_tokenizer(), folder / "model")
    return {
        "name": "tiny",
        "task": task,
        "model": str(folder / "model"),
        "labels": ["NO", "YES"] if task == "text-classification" else [],
        "max_length": 12,
        "stride": 2,
        "target_length": 8,
        "data": {"train": [{"path": str(data), "name": "tiny"}]},
        "train": [{**TRAINING, "epochs": 0.5, "accumulation": 2}, {**TRAINING, "epochs": 3}],
        "fine_prune": {
            "granularity": {"attention": "head", "feed_forward": "neuron"},
            "method": {"name": "movement"},
            "targets": [{"density": 0.5}],
            "train": {**TRAINING, **TEACHER, "epochs": 4},
        },
        "recover": {**TRAINING, **TEACHER, "epochs": 1.5},
        **({"warm_start": {"decoder_layers": 2}} if generates else {}),
    }


def estimated(content: dict, **options: int) -> Estimate:
    """The estimate of a recipe, from few steps."""
    return estimate(parse_config(content, origin="test"), steps=2, **options)


def steps_taken(config: RunConfig, folder: Path) -> dict[str, int]:
    """Optimizer steps that the trainings of a run recorded, by the names that the estimate has for them."""
    current = Run(config, Stages(folder))
    dense = train_dense(current)
    found = {f"train.{number}": result["steps"] for number, result in enumerate(dense.details["training"])}
    for pruned in pruned_models(current, dense):
        found[f"fine_prune {pruned.label}"] = pruned.masked.details["training"]["steps"]
        recovered = recover(current, pruned.label, compact_stage(current, pruned.label, pruned.masked), dense)
        found[f"recover {pruned.label}"] = recovered.details["training"]["steps"]
    return found


@pytest.mark.parametrize("task", EXAMPLES)
def test_it_counts_the_steps_that_a_run_takes(task, tmp_path):
    """Every training of a run is in the estimate, in its order, with the steps that the run then records."""
    content = content_of(task, tmp_path)
    found = {each.stage: each.steps for each in estimated(content).trainings}
    taken = steps_taken(parse_config(content, origin="test"), tmp_path / "run")
    assert list(found.items()) == list(taken.items())


def test_each_target_is_listed_and_with_rewind_twice(content):
    """Targets share what was measured of one of them."""
    targets = [{"macs": 0.5, "sequence_length": 8}, {"speedup": 2.0, "precision": "int8", "sequence_length": 8}]
    content["fine_prune"] |= {"targets": targets, "rewind": True}
    found = [each for each in estimated(content).trainings if each.stage.startswith("fine_prune")]
    labels = [target.label for target in parse_config(content, origin="test").targets]
    assert [each.stage for each in found] == [f"fine_prune {label}{part}" for label in labels for part in (", guide", "")]
    assert len({each.hours for each in found}) == 1


def test_what_is_recovered_after_pruning_without_training_is_listed(content):
    """With `prune`, only the dense model and recovery are trained; recovery is an upper bound."""
    content["prune"] = {"targets": [{"density": 0.5}, {"density": 0.3}]}
    found = estimated({**content, "fine_prune": None, "train": []}).trainings
    assert [(each.stage, each.at_most) for each in found] == [("recover density-0.5", True), ("recover density-0.3", True)]


@pytest.mark.parametrize("changes", [{"prune": {"targets": [{"density": 0.5}]}}, {}])
def test_a_recipe_that_does_not_train_takes_no_time(content, changes):
    """Without pruning nothing is recovered, and without recovery pruning trains nothing."""
    unpruned = {**content, "fine_prune": None, "train": []}
    found = estimated({**unpruned, **changes, **({"recover": None} if changes else {})})
    assert found.trainings == ()
    assert found.hours == 0
    assert "Nothing in this recipe trains" in found.as_text()


def test_patience_makes_it_an_upper_bound(content):
    """A training that may end early is timed to its end, and takes that at most."""
    content["data"]["validation"] = content["data"]["train"]
    content["train"][1]["patience"] = 1
    assert [each.at_most for each in estimated({**content, "fine_prune": None}).trainings] == [False, True]


def test_more_examples_take_more_steps(content):
    """`examples` stands for the number that a sample file cannot tell; rows and steps grow with it."""
    content["fine_prune"] = None
    few, many = estimated(content), estimated(content, examples=1600)
    assert [each.rows for each in many.trainings] == [100 * each.rows for each in few.trainings]
    assert [each.steps for each in many.trainings] == [100 * each.steps for each in few.trainings]
    assert many.hours > few.hours


def test_the_teacher_that_answers_first_is_counted(content):
    """Where a teacher answers all rows before the first step, once; not where it answers along the way, or where there is none."""
    content["recover"]["epochs"] = 1
    found = {each.stage.split()[0]: each for each in estimated(content).trainings}
    assert [name for name, each in found.items() if each.teacher_hours > 0] == ["fine_prune"]
    pruning = found["fine_prune"]
    assert pruning.hours == pytest.approx(pruning.teacher_hours + pruning.steps * pruning.seconds_per_step / 3600)


def test_a_teacher_that_is_not_there_is_said(content, temporary, offline):
    """The usual one line, and no folder stays behind."""
    content["fine_prune"]["train"]["distillation"] = {"teacher": "nobody/nothing"}
    with pytest.raises(CheckpointError, match="nobody/nothing"):
        estimated(content)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("written", [True, False])
def test_summaries_of_a_teacher_are_rows_and_are_not_written(tmp_path, written):
    """A row for what the teacher would write, beside the document's own; nobody generates anything for that."""
    content = content_of("summarization", tmp_path)
    content["recover"]["distillation"] = {"teacher": "dense", "pseudo_labels": {"references": written}}
    *_, trained, recovered = estimated(content).trainings
    assert recovered.rows == (2 if written else 1) * trained.rows


def test_batches_are_of_like_lengths_and_of_all_lengths():
    """Batches that are taken out of an epoch are as its own: rows of like lengths together, short ones and long ones."""
    rows = [{"input_ids": [0] * (index * 7 % 100)} for index in range(100)]
    lengths = [len(row["input_ids"]) for row in typical_rows(rows, 10, 5)]
    batches = [lengths[at : at + 10] for at in range(0, 50, 10)]
    assert [max(batch) - min(batch) for batch in batches] == [9] * 5
    assert sum(lengths) / 50 == pytest.approx(49.5, abs=1)


def test_the_command_prints_a_table_or_json_and_leaves_nothing(content, tmp_path, temporary, invoke):
    """The same figures in both forms' terms, the machine beside them, and no file but the recipe's own."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, "fine_prune": None}))
    before = sorted(tmp_path.rglob("*"))
    asked = ["--quiet", "estimate", str(recipe), "--steps", "1", "--examples", "1600", "--set", "train.0.epochs=2"]
    found, text = json.loads(invoke(main, [*asked, "--json"]).stdout), invoke(main, asked).stdout
    assert [each["stage"] for each in found["trainings"]] == ["train.0", "train.1"]
    assert {"machine", "torch", "threads", "hours", "peak_memory_bytes"} <= found.keys()
    assert found["trainings"][0]["steps"] == 800
    assert all(shown in text for shown in ("train.0", "800", found["machine"]["cpu"]))
    assert sorted(tmp_path.rglob("*")) == before
    assert list(temporary.iterdir()) == []
