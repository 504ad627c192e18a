"""Patience: a training that no longer becomes better ends, keeps its best weights, and resumes as if it had never been interrupted."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertTokenizerFast, PreTrainedModel

from pruning.config import RECIPES, DensityTarget, FinePruneConfig, MovementConfig, TrainConfig, load_recipe
from pruning.errors import ConfigError
from pruning.fine_pruning import FinePruning, fine_prune
from pruning.targets import left_by_density
from pruning.tasks import task_named
from pruning.tasks.base import Feature
from pruning.training import TrainingResult, train
from tests.pruning.helpers import tiny_model
from tests.pruning.method_cases import GRANULARITIES
from tests.pruning.training_helpers import differing, features_of, state

TASK = task_named("text-classification")
PATIENCE, EVERY = 2, 3
CONFIG = TrainConfig(epochs=8, batch_size=4, learning_rate=1e-2, precision="fp32", save_steps=EVERY, patience=PATIENCE, warmup=0.0)


def contrary(rows: list[Feature]) -> list[Feature]:
    """The same rows with the other label: the better the training, the worse it does on them."""
    return [{**row, "labels": 1 - row["labels"]} for row in rows]


def model_of(*, seed: int = 0) -> PreTrainedModel:
    """Tiny, with sizes that every granularity divides."""
    return tiny_model("bert", TASK.name, layers=2, intermediate=32, seed=seed)


def run(
    model: PreTrainedModel, tokenizer: BertTokenizerFast, folder: Path, config: TrainConfig = CONFIG, *, learnt: bool = False
) -> TrainingResult:
    """Train on the twelve rows, with validation rows that become worse, or better where they are those that are learnt."""
    torch.manual_seed(5)
    rows = features_of(TASK, tokenizer)
    return train(model, tokenizer, TASK, rows, config, folder=folder, seed=5, validation=rows if learnt else contrary(rows))


def saved(folder: Path, step: int) -> dict[str, Tensor]:
    """The weights in the checkpoint of that step."""
    tensors: dict[str, Tensor] = load_file(folder / f"checkpoint-{step}" / "model.safetensors")
    return tensors


def best_of(result: TrainingResult) -> int:
    """The step at which the validation loss was lowest."""
    return EVERY * (1 + result.validation_loss.index(min(result.validation_loss)))


def test_what_no_longer_becomes_better_ends(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """After so many evaluations without a better one the training ends, and the model has the weights of the best."""
    model = model_of()
    result = run(model, tiny_tokenizer, tmp_path)
    assert result.kept == best_of(result)
    assert result.steps == result.kept + PATIENCE * EVERY < 24
    assert differing(state(model), saved(tmp_path, result.kept)) == []


def test_what_becomes_better_goes_on_to_its_end(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """The weights of the last step are evaluated too, wherever it falls, and kept if they are the best."""
    config = CONFIG.model_copy(update={"epochs": 20 / 3, "learning_rate": 1e-3})
    result = run(model_of(), tiny_tokenizer, tmp_path, config, learnt=True)
    assert result.steps == result.kept == 20
    assert len(result.validation_loss) == 7
    assert result.validation_loss[-1] == min(result.validation_loss)


def test_a_training_that_ended_early_is_not_done_again(tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after):
    """Run again after its early end, it takes no step and gives the same weights."""
    model, again = model_of(), model_of(seed=9)
    first = run(model, tiny_tokenizer, tmp_path)
    interrupted_after(0)
    second = run(again, tiny_tokenizer, tmp_path)
    assert (second.steps, second.kept, second.validation_loss) == (first.steps, first.kept, first.validation_loss)
    assert differing(state(again), state(model)) == []


@pytest.mark.parametrize("steps", [4, 7], ids=["before the patience is tried", "while it is"])
def test_resumed_equals_uninterrupted(steps: int, tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after):
    """What was counted before an interruption counts: the same end, and the same weights."""
    whole, parts = model_of(), model_of()
    expected = run(whole, tiny_tokenizer, tmp_path / "whole")
    assert expected.steps > steps
    interrupted_after(steps)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tiny_tokenizer, tmp_path / "parts")
    interrupted_after(100)
    again = model_of(seed=9)
    resumed = run(again, tiny_tokenizer, tmp_path / "parts")
    assert (resumed.steps, resumed.kept, resumed.validation_loss) == (expected.steps, expected.kept, expected.validation_loss)
    assert differing(state(again), state(whole)) == []


def test_only_final_masks_compete(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """In fine-pruning the best weights are those of the cool-down, however much better the denser ones before them were."""
    config = FinePruneConfig(
        method=MovementConfig(),
        granularity=GRANULARITIES["hybrid"],
        targets=(DensityTarget(density=0.5),),
        score_learning_rate=0.3,
        cooldown=0.5,
        train=CONFIG.model_copy(update={"epochs": 12, "learning_rate": 2e-3}),
    )
    model, rows = model_of(), features_of(TASK, tiny_tokenizer)
    found: FinePruning = fine_prune(
        model,
        tiny_tokenizer,
        TASK,
        rows,
        config,
        left=left_by_density(model),
        target=0.5,
        folder=tmp_path,
        seed=5,
        validation=contrary(rows),
    )
    frozen = found.trace[-1].step
    training = found.training
    assert frozen == 18
    assert min(training.validation_loss) < min(training.validation_loss[frozen // EVERY :])
    assert frozen < training.kept < training.steps == training.kept + PATIENCE * EVERY
    assert found.left == pytest.approx(0.5, abs=0.025)


def test_patience_needs_validation_rows(tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Without rows to validate on, one line says what to do: for a recipe, before anything is done."""
    with pytest.raises(ConfigError, match=r"`patience` needs rows .* `data\.validation`"):
        train(model_of(), tiny_tokenizer, TASK, features_of(TASK, tiny_tokenizer), CONFIG, folder=tmp_path, seed=5)
    recipe = next(path for path in sorted(RECIPES.glob("*.yaml")) if load_recipe(path).train)
    with pytest.raises(ConfigError, match=r"`patience` goes by the loss on `data\.validation`"):
        load_recipe(recipe, ("data.validation=[]", "train.0.patience=3"))
