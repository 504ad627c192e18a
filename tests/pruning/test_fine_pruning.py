"""Fine-pruning: the target is met, what is interrupted ends as if it had not been, and a run that prunes nothing says so."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizerFast, PreTrainedModel

from pruning import fine_pruning
from pruning.compaction import compact
from pruning.config import DensityTarget, FinePruneConfig, L0Config, MacsTarget, SoftMovementConfig, Target, TrainConfig
from pruning.errors import NothingPrunedError
from pruning.fine_pruning import FinePruning, Pruner, fine_prune
from pruning.masking import Masked, Masks, attach
from pruning.methods import method_of
from pruning.schedule import Schedule
from pruning.structure import macs, parameters
from pruning.targets import goal_of, left_by, left_by_density, live_shapes
from pruning.tasks import task_named
from tests.pruning.helpers import tiny_model
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.training_helpers import differing, features_of, state

TASK = task_named("text-classification")
TRAIN = TrainConfig(epochs=14, batch_size=4, learning_rate=1e-3, precision="fp32", save_steps=7, dropout=0.1)
HALF = DensityTarget(density=0.5)
LARGEST_GROUP = 1 / 12  # a head of the tiny model, as a share of its weights


def config_for(method: str, granularity: str, target: Target | None = HALF, **changes: object) -> FinePruneConfig:
    """Forty-two steps, in which scores can get somewhere."""
    fields = {"train": TRAIN, "score_learning_rate": 0.3, "warmup": 0.1, "cooldown": 0.3, **changes}
    return FinePruneConfig(method=METHODS[method], granularity=GRANULARITIES[granularity], targets=(target,) if target else (), **fields)


def fine_pruned(model: PreTrainedModel, tokenizer: BertTokenizerFast, config: FinePruneConfig, folder: Path, **more: object) -> FinePruning:
    """Fine-prune on the twelve rows."""
    torch.manual_seed(5)
    target = next(iter(config.targets), HALF)
    left, goal = left_by(target, model, TASK.name), goal_of(target) if config.targets else None
    return fine_prune(model, tokenizer, TASK, features_of(TASK, tokenizer), config, left=left, target=goal, folder=folder, seed=5, **more)


def model_of(seed: int = 0) -> PreTrainedModel:
    """Tiny, with sizes that every granularity divides."""
    return tiny_model("bert", TASK.name, layers=2, intermediate=32, seed=seed)


def masked_of(masks: Masks, layer: int) -> list[Masked]:
    """The masks of one layer."""
    return [each for each in masks.masked if each.layer == layer]


@pytest.mark.parametrize("granularity", ["unstructured", "hybrid", "struct"])
@pytest.mark.parametrize("method", METHODS)
def test_the_density_asked_for_is_met(method, granularity, tiny_tokenizer, tmp_path):
    """Within 5 %, or half a head where heads go whole; what was pruned is zero, and of whole groups nothing else is left."""
    model = model_of()
    dense = parameters(model).encoder
    found = fine_pruned(model, tiny_tokenizer, config_for(method, granularity), tmp_path)
    assert found.left == pytest.approx(0.5, abs=LARGEST_GROUP / 2 if granularity == "struct" else 0.025)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    small = parameters(compact(model)).encoder / dense
    if granularity == "struct":
        assert small == pytest.approx(found.left, abs=0.01)
    assert granularity == "unstructured" or small < 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_target_of_time_or_work_is_met(method, tiny_tokenizer, tmp_path):
    """Multiply-accumulates of what compaction leaves, as near as whole heads allow: one in each layer, where layers lose alike."""
    model = model_of()
    dense = macs(model, 16).encoder
    found = fine_pruned(model, tiny_tokenizer, config_for(method, "struct", MacsTarget(macs=0.4, sequence_length=16)), tmp_path)
    assert macs(compact(model), 16).encoder / dense == pytest.approx(found.left)
    assert found.left == pytest.approx(0.4, abs=LARGEST_GROUP)


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        *(pytest.param(method, 20, marks=[pytest.mark.slow] if "global" in method else []) for method in METHODS),
        ("movement", 3),
        ("soft movement", 36),
    ],
)
def test_resumed_equals_uninterrupted(method, steps, tiny_tokenizer, tmp_path, monkeypatch, interrupted_after: Callable[[int], None]):
    """Bit for bit, wherever it was cut: on the ramp, between two readings, in the warm-up, or in the cool-down."""
    monkeypatch.setattr(fine_pruning, "READINGS", 12)
    config = config_for(method, "hybrid")
    whole, cut = model_of(), model_of()
    expected = fine_pruned(whole, tiny_tokenizer, config, tmp_path / "whole")
    interrupted_after(steps)
    with pytest.raises(KeyboardInterrupt):
        fine_pruned(cut, tiny_tokenizer, config, tmp_path / "cut")
    interrupted_after(1000)
    resumed = model_of(seed=9) if steps > TRAIN.save_steps else model_of()
    found = fine_pruned(resumed, tiny_tokenizer, config, tmp_path / "cut")
    assert differing(state(whole), state(resumed)) == []
    assert found.trace == expected.trace


@pytest.mark.parametrize("method", ["magnitude", "movement, global"])
def test_gates_close_a_few_at_each_step(method, monkeypatch):
    """Readings are far between; what is pruned from one step to the next is not much more than the ramp is steep there."""
    monkeypatch.setattr(fine_pruning, "READINGS", 20)
    model = model_of()
    left = left_by_density(model)
    masks = attach(model, GRANULARITIES["unstructured"], method_of(METHODS[method]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for scores in masks.scores:
            scores.copy_(torch.randn(scores.shape, generator=generator))
    pruner = Pruner(masks, Schedule(400, warmup=40, cooldown=120), left, 0.1, {})
    found = [masks.density() for step in range(400) if pruner.before(step) is None]
    steepest = 3 * 0.9 / 240
    assert max(before - after for before, after in pairwise(found)) < 1.2 * steepest
    assert found[-1] == pytest.approx(0.1, rel=0.01)


def test_scores_that_a_penalty_does_not_move_are_pruned_on_the_ramp(monkeypatch):
    """And not all at once when the masks freeze: what a threshold that kept to its schedule would leave is nearly everything."""
    monkeypatch.setattr(fine_pruning, "READINGS", 100)
    model = model_of()
    left = left_by_density(model)
    masks = attach(model, GRANULARITIES["unstructured"], method_of(METHODS["soft movement"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for scores in masks.scores:
            scores.copy_(0.5 * torch.randn(scores.shape, generator=generator))
    pruner = Pruner(masks, Schedule(400, warmup=40, cooldown=120), left, 0.1, {})
    found = [masks.density() for step in range(400) if pruner.before(step) is None]
    assert found[279] == pytest.approx(0.1, abs=0.01)
    assert found[280] == pytest.approx(0.1, abs=0.001)
    assert max(before - after for before, after in pairwise(found)) < 0.1
    masks.close(masks.method.last_level, step=400)
    assert masks.density() > 0.95


def test_values_without_queries_stay_closed_between_readings(monkeypatch):
    """A head whose queries are gone has no values at any step of the ramp, and not only where what is left is read."""
    monkeypatch.setattr(fine_pruning, "READINGS", 4)
    model = model_of()
    left = left_by_density(model)
    masks = attach(model, GRANULARITIES["hybrid"], method_of(METHODS["soft movement"]))
    query, value = (next(each.mask for each in masked_of(masks, 0) if each.part == part) for part in ("query", "value"))
    pruner = Pruner(masks, Schedule(40, warmup=4, cooldown=12), left, 0.5, {})
    with torch.no_grad():
        query.scores.fill_(-9.0)
    for step in range(8, 28):
        pruner.before(step)
        assert (float(query.keep.sum()), float(value.keep.sum())) == (0.0, 0.0)


@pytest.mark.parametrize("steps", [2, 3, 7, 15])
def test_few_steps_leave_a_ramp(steps, tiny_tokenizer, tmp_path):
    """However few there are, warm-up and cool-down leave some of them to prune in."""
    train = TRAIN.model_copy(update={"epochs": steps, "batch_size": 12})
    config = config_for("magnitude", "struct", warmup=0.45, cooldown=0.5, train=train)
    assert fine_pruned(model_of(), tiny_tokenizer, config, tmp_path).left == pytest.approx(0.5, abs=LARGEST_GROUP / 2)


def test_the_penalty_follows_what_is_left(tiny_tokenizer, tmp_path):
    """The trace shows shares, wanted and found; the last reading is the target's."""
    found = fine_pruned(model_of(), tiny_tokenizer, config_for("soft movement", "hybrid"), tmp_path)
    assert [reading.step for reading in found.trace] == sorted(reading.step for reading in found.trace)
    assert len({reading.penalty for reading in found.trace}) > 3
    assert found.trace[-1].wanted == 0.5
    assert found.trace[-1].left == found.left


def test_a_fixed_penalty_is_left_alone(tiny_tokenizer, tmp_path):
    """Without a target the method's own penalty decides, as in the papers."""
    config = FinePruneConfig(
        method=SoftMovementConfig(penalty=300.0), granularity=GRANULARITIES["struct"], train=TRAIN, score_learning_rate=0.3
    )
    found = fine_pruned(model_of(), tiny_tokenizer, config, tmp_path)
    assert {reading.penalty for reading in found.trace} == {300.0}
    assert found.density < 0.9


@pytest.mark.parametrize("method", [SoftMovementConfig(penalty=1e-9), L0Config(penalty=1e-9, initial=6.0)])
def test_a_run_that_prunes_nothing_says_why(method, tiny_tokenizer, tmp_path):
    """A penalty too small for so few steps is an error, not a model that is as large as before."""
    config = FinePruneConfig(method=method, granularity=GRANULARITIES["struct"], train=TRAIN.model_copy(update={"epochs": 2}))
    with pytest.raises(NothingPrunedError, match="pruned nothing in 6 steps"):
        fine_pruned(model_of(), tiny_tokenizer, config, tmp_path)


def test_live_shapes_are_those_of_the_compact_model(tiny_tokenizer, tmp_path):
    """What a target is read from is what compaction leaves."""
    model = model_of()
    fine_pruned(model, tiny_tokenizer, config_for("movement", "struct"), tmp_path)
    assert live_shapes(model) == live_shapes(compact(model))
