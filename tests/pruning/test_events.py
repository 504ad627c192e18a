"""TensorBoard's events: what is logged of a training and of a pruning, once for each step, interrupted or not."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import BertTokenizerFast

from pruning.config import DensityTarget, FinePruneConfig, SoftMovementConfig, TrainConfig
from pruning.fine_pruning import FinePruning, fine_prune
from pruning.targets import left_by_density
from pruning.tasks import task_named
from pruning.training import train
from tests.pruning.helpers import tiny_model
from tests.pruning.method_cases import GRANULARITIES
from tests.pruning.training_helpers import features_of

TASK = task_named("text-classification")
CONFIG = TrainConfig(epochs=36, batch_size=4, precision="fp32", save_steps=40)
LOGGED_AT = [50, 100]


def shown(folder: Path) -> dict[str, list[int]]:
    """What TensorBoard shows: steps of each curve."""
    events = EventAccumulator(str(folder)).Reload()
    return {name: [event.step for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def pruned(tokenizer: BertTokenizerFast, folder: Path, events: Path | None) -> FinePruning:
    """Fine-prune for 108 steps, the last 32 of them with final masks."""
    model, rows = tiny_model("bert", TASK.name, layers=1, intermediate=32), features_of(TASK, tokenizer)
    config = FinePruneConfig(
        method=SoftMovementConfig(),
        granularity=GRANULARITIES["hybrid"],
        targets=(DensityTarget(density=0.5),),
        score_learning_rate=0.3,
        train=CONFIG,
    )
    left = left_by_density(model)
    return fine_prune(model, tokenizer, TASK, rows, config, left=left, target=0.5, folder=folder, seed=5, events=events)


def test_a_training_is_shown(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Loss and learning rate as they are logged, and the validation loss of each epoch."""
    rows = features_of(TASK, tiny_tokenizer)
    model = tiny_model("bert", TASK.name, layers=1)
    train(model, tiny_tokenizer, TASK, rows, CONFIG, folder=tmp_path / "work", seed=5, validation=rows, events=tmp_path / "events")
    curves = shown(tmp_path / "events")
    assert curves["train/loss"] == curves["train/learning_rate"] == LOGGED_AT
    assert curves["eval/loss"] == list(range(3, 109, 3))


def test_an_interrupted_pruning_is_shown_as_one(
    tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after, capsys: pytest.CaptureFixture[str]
):
    """The readings stand beside the loss, on the console too; a step that was done twice is shown once."""
    interrupted_after(70)
    with pytest.raises(KeyboardInterrupt):
        pruned(tiny_tokenizer, tmp_path / "work", tmp_path / "events")
    interrupted_after(1000)
    found = pruned(tiny_tokenizer, tmp_path / "work", tmp_path / "events")
    curves = shown(tmp_path / "events")
    for name in ("loss", "left", "wanted", "level", "penalty"):
        assert curves[f"train/{name}"] == LOGGED_AT
    assert f"left {found.left:.4g}  wanted 0.5  level" in capsys.readouterr().err


def test_no_events_are_written_unasked(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Without a folder for them there are none."""
    pruned(tiny_tokenizer, tmp_path / "work", None)
    assert list(tmp_path.rglob("*tfevents*")) == []
