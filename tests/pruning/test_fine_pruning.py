"""Fine-pruning: the target is met, what is interrupted ends as if it had not been, and a run that prunes nothing says so."""

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizerFast, PreTrainedModel

from pruning import bench, fine_pruning
from pruning.compaction import compact
from pruning.config import (
    DensityTarget,
    FinePruneConfig,
    Granularity,
    L0Config,
    MacsTarget,
    ParametersTarget,
    SoftMovementConfig,
    SpeedupTarget,
    Target,
    TrainConfig,
)
from pruning.errors import NothingPrunedError, UnreachableTargetError
from pruning.fine_pruning import FinePruning, Pruner, fine_prune
from pruning.latency import Condition, LatencyTable, predict_ms
from pruning.masking import Masked, Masks, attach
from pruning.methods import method_of
from pruning.schedule import Schedule
from pruning.structure import dense_structure, macs, parameters, shapes
from pruning.targets import check_reachable, goal_of, left_by, left_by_density, live_shapes
from pruning.tasks import task_named
from tests.pruning.helpers import tiny_model
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.training_helpers import differing, features_of, state

TASK = task_named("text-classification")
TRAIN = TrainConfig(epochs=14, batch_size=4, learning_rate=1e-3, precision="fp32", save_steps=7, dropout=0.1)
HALF = DensityTarget(density=0.5)
TWICE = SpeedupTarget(speedup=2.0, precision="int8", sequence_length=16)
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


def many_headed() -> PreTrainedModel:
    """Where a head of each layer is so little that every target can be met as nearly as is promised."""
    return tiny_model("bert", TASK.name, layers=2, hidden=64, heads=16, intermediate=64)


def masked_of(masks: Masks, layer: int) -> list[Masked]:
    """The masks of one layer."""
    return [each for each in masks.masked if each.layer == layer]


@pytest.mark.parametrize(
    ("method", "granularity"),
    [*product(METHODS, ["unstructured", "hybrid", "struct"]), ("movement", "block"), ("soft movement", "block")],
)
def test_the_density_asked_for_is_met(method, granularity, tiny_tokenizer, tmp_path):
    """Within 5 %; what was pruned is zero, and of whole groups nothing else is left."""
    model = many_headed()
    dense = parameters(model).encoder
    found = fine_pruned(model, tiny_tokenizer, config_for(method, granularity), tmp_path)
    assert found.left == found.density == pytest.approx(0.5, rel=0.05)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    small = parameters(compact(model)).encoder / dense
    if granularity == "struct":
        assert small == pytest.approx(found.left, abs=0.01)
    assert granularity in ("unstructured", "block") or small < 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_target_of_work_is_met(method, tiny_tokenizer, tmp_path):
    """Multiply-accumulates of what compaction leaves, within 5 %."""
    model = many_headed()
    dense = macs(model, 16).encoder
    found = fine_pruned(model, tiny_tokenizer, config_for(method, "struct", MacsTarget(macs=0.4, sequence_length=16)), tmp_path)
    assert macs(compact(model), 16).encoder / dense == pytest.approx(found.left)
    assert found.left == pytest.approx(0.4, rel=0.05)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LatencyTable:
    """Latencies with nothing to measure: three fifths of what heads and neurons take is the feed-forward's."""
    condition = Condition(precision=TWICE.precision, sequence_length=TWICE.sequence_length, runtime=TWICE.runtime)
    heads, neurons = {0: 0.1, 1: 0.2, 16: 2.0}, {0: 0.1, 4: 0.3, 64: 3.0}
    identity = bench.identity_of(many_headed(), TASK.name, condition)
    known = LatencyTable(identity=identity, fixed_ms=0.5, attention_ms=heads, feed_forward_ms=neurons)
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bench, "measure_table", lambda model, task, condition, *, seconds: known)
    return known


@pytest.mark.parametrize(
    ("method", "granularity"),
    [("magnitude", "struct"), ("movement", "hybrid"), ("soft movement", "hybrid"), ("soft movement", "block"), ("l0", "hybrid")],
)
def test_a_target_of_time_is_met(method, granularity, table, tiny_tokenizer, tmp_path):
    """A speed-up is that of the compact model's shapes, by the latency table, within 5 %."""
    model = many_headed()
    dense = predict_ms(table, shapes(model))
    found = fine_pruned(model, tiny_tokenizer, config_for(method, granularity, TWICE), tmp_path)
    assert predict_ms(table, shapes(compact(model))) / dense == pytest.approx(found.left)
    assert found.left == pytest.approx(1 / 2, rel=0.05)


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


@pytest.mark.parametrize(
    ("method", "goal", "shares"),
    [("soft movement", None, (0, 7 / 8, 1)), ("l0", None, (1, 1, 1)), ("soft movement", 0.5, (0, 7 / 8, 1)), ("l0", 0.5, (0, 7 / 8, 1))],
)
def test_a_penalty_grows_with_the_ramp_but_for_a_fixed_one_without_a_threshold(method, goal, shares):
    """As in the papers: soft movement's grows as its threshold does, L0's is constant; steered ones grow with what is to go."""
    model = model_of()
    left = left_by_density(model)
    masks = attach(model, GRANULARITIES["struct"], method_of(METHODS[method]))
    pruner = Pruner(masks, Schedule(400, warmup=100, cooldown=100), left, goal, {})
    for step, share in zip((99, 200, 299), shares, strict=True):
        pruner.before(step)
        penalty = pruner.penalty()
        assert penalty is not None
        assert (penalty / masks.penalty({})).item() == pytest.approx(share * pruner.penalty_weight, rel=1e-3)


@pytest.mark.parametrize("method", [SoftMovementConfig(penalty=1e-9), L0Config(penalty=1e-9, initial=6.0)])
def test_a_penalty_that_prunes_nothing_is_named(method, tiny_tokenizer, tmp_path):
    """A penalty too small for so few steps is an error, not a model that is as large as before."""
    config = FinePruneConfig(method=method, granularity=GRANULARITIES["struct"], train=TRAIN.model_copy(update={"epochs": 2}))
    with pytest.raises(NothingPrunedError, match=r"pruned nothing in 6 steps: a penalty of 1e-09 .* raise the penalty"):
        fine_pruned(model_of(), tiny_tokenizer, config, tmp_path)


@pytest.mark.parametrize("method", ["magnitude", "movement", "soft movement"])
def test_groups_too_large_for_a_target_are_named(method, tiny_tokenizer, tmp_path):
    """Where the nearest to a target is the whole model, no penalty is to blame, and a finer granularity helps."""
    granularity = Granularity(attention="head", feed_forward=None)
    config = FinePruneConfig(method=METHODS[method], granularity=granularity, targets=(DensityTarget(density=0.99),), train=TRAIN)
    with pytest.raises(NothingPrunedError, match=r"groups are so large .* finer `granularity`"):
        fine_pruned(model_of(), tiny_tokenizer, config, tmp_path)


@pytest.mark.parametrize(
    ("target", "least"),
    [
        (DensityTarget(density=0.2), lambda _: 4 / 6),
        (MacsTarget(macs=0.2, sequence_length=16), lambda _: (4 * 64 + 2 * 16) / (6 * 64 + 2 * 16)),
        (TWICE.model_copy(update={"speedup": 5.0}), lambda _: 4.7 / 10.5),
        (ParametersTarget(parameters=0.2), lambda model: 1 - 2 * 64 * (2 * 64 + 1) / parameters(model).total),
    ],
    ids=lambda each: getattr(each, "label", ""),
)
@pytest.mark.parametrize("method", METHODS)
def test_a_target_that_no_gate_reaches_is_refused(method, target, least, table):
    """Where attention has no gates: the line says what is left with all others closed, and on the masks nothing has changed."""
    model = many_headed()
    left, expected = left_by(target, model, TASK.name), 100 * least(model)
    masks = attach(model, GRANULARITIES["feed-forward alone"], method_of(METHODS[method]))
    with pytest.raises(UnreachableTargetError, match=rf"^the target is out of reach: 20 % .* gives {expected:.3g} % is"):
        check_reachable(masks, left, goal_of(target))
    assert masks.density() == left(masks) == 1.0
    check_reachable(masks, left, 0.9)


def test_what_is_protected_cannot_go(tiny_tokenizer):
    """With every gate protected nothing is out of reach but everything."""
    model = model_of()
    left = left_by_density(model)
    masks = attach(model, GRANULARITIES["struct"], method_of(METHODS["magnitude"]), protected=dense_structure(model))
    with pytest.raises(UnreachableTargetError, match="gives 100 % is"):
        check_reachable(masks, left, 0.9)


def test_live_shapes_are_those_of_the_compact_model(tiny_tokenizer, tmp_path):
    """What a target is read from is what compaction leaves."""
    model = model_of()
    fine_pruned(model, tiny_tokenizer, config_for("movement", "struct"), tmp_path)
    assert live_shapes(model) == live_shapes(compact(model))
