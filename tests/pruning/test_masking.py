"""Masks on models: what learns, what stays, and that baking and compacting change nothing."""

import copy
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from pruning.compaction import compact, live_heads
from pruning.config import BlockSize, Granularity, MagnitudeConfig, MovementConfig
from pruning.errors import ConfigError
from pruning.families import family_of
from pruning.fine_pruning import HIGHEST_THRESHOLD
from pruning.granularity import Grid
from pruning.masking import Masks, attach
from pruning.methods import method_of
from pruning.methods.base import Mask, keep_best
from pruning.steering import solve_level
from pruning.structure import LayerStructure, dense_structure, linears, parameters
from tests.pruning.helpers import FAMILY_NAMES, outputs_of, random_batch, tiny_model
from tests.pruning.method_cases import CASES, GRANULARITIES, METHODS

BEST = [name for name, config in METHODS.items() if config.name in ("magnitude", "movement")]
LEVEL = 0.3


def model_with(method: str, granularity: str, *, family: str = "bert", task: str = "text-classification") -> tuple:
    """A tiny model with masks whose scores, if any, are random."""
    model = tiny_model(family, task, intermediate=32, dtype=torch.float64)
    masks = attach(model, GRANULARITIES[granularity], method_of(METHODS[method]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for scores in masks.scores:
            scores.add_(2 * torch.randn(scores.shape, generator=generator))
    return model, masks


@pytest.mark.parametrize(("method", "granularity"), CASES)
def test_scores_and_open_weights_learn(method, granularity):
    """Every score gets a gradient, closed or not; a weight whose gate is closed gets none."""
    model, masks = model_with(method, granularity)
    masks.close(LEVEL, step=1)
    model.train()
    loss = model(**random_batch(), labels=torch.tensor([0, 1, 0])).loss + masks.penalty({})
    loss.backward()
    assert all(scores.grad is not None and scores.grad.abs().sum() > 0 for scores in masks.scores)
    for each in masks.masked:
        gate = each.mask.grid.expand(each.mask.gate().detach())
        assert each.weight.grad is not None
        assert not each.weight.grad[gate == 0].any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scores_learn_how_the_loss_changes_along_the_weights(granularity):
    """`dL/dW' * W` summed over the group, W' being the masked weight: descent raises the scores of weights that grow (section 4)."""
    model, masks = model_with("movement", granularity)
    plain = tiny_model("bert", "text-classification", intermediate=32, dtype=torch.float64)
    masks.close(LEVEL, step=0)
    names = {module: name for name, module in model.named_modules()}
    for each in masks.masked:
        plain.get_submodule(names[each.linear]).weight.data.copy_(each.linear.weight.detach())
    for each in (model, plain):
        each.eval()
        each(**random_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    for each in masks.masked:
        slope = plain.get_submodule(names[each.linear]).weight.grad
        torch.testing.assert_close(each.mask.learned.grad, each.mask.grid.pool(slope * each.weight).detach(), check_dtype=False)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", BEST)
def test_the_density_asked_for_is_reached(method, granularity):
    """Within one group of each matrix, or of one in all where they are ranked together."""
    _, masks = model_with(method, granularity)
    for density in (0.0, 0.1, 0.5, 1.0):
        masks.close(density, step=0)
        groups = [each.mask.keep.numel() for each in masks.masked]
        slack = 0.5 / min(groups) if "global" not in method else max(each.mask.members for each in masks.masked) / members(masks)
        assert masks.density() == pytest.approx(density, abs=slack + 1e-9)


def members(masks: Masks) -> int:
    """Weights under masks."""
    return sum(each.mask.keep.numel() * each.mask.members for each in masks.masked)


@pytest.mark.parametrize(
    ("method", "granularity", "family"), [(*case, FAMILY_NAMES[number % len(FAMILY_NAMES)]) for number, case in enumerate(CASES)]
)
def test_baked_and_compacted_models_equal_the_masked_one(method, granularity, family):
    """Outputs stay the same to 1e-9 in float64; no parametrization is left."""
    model, masks = model_with(method, granularity, family=family)
    batch = random_batch(family)
    masks.close(LEVEL, step=0)
    masks.freeze()
    masked = outputs_of(model, batch)
    masks.bake()
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    torch.testing.assert_close(outputs_of(model, batch), masked, atol=1e-9, rtol=0)
    torch.testing.assert_close(outputs_of(compact(model), batch), masked, atol=1e-9, rtol=0)


def test_whole_groups_leave_when_the_model_is_compacted():
    """Heads and neurons whose gate is closed are gone: what is left is the density that was asked for."""
    model, masks = model_with("movement", "struct")
    before = parameters(model).encoder
    masks.close(0.5, step=0)
    masks.bake()
    assert parameters(compact(model)).encoder / before == pytest.approx(0.5, abs=0.02)


def test_a_head_without_queries_gives_up_its_values():
    """Uniform attention is not absence: before the masks are frozen, values follow queries and keys."""
    model, masks = model_with("movement", "hybrid")
    block = family_of(model).layers(model)[0].attention
    assert block is not None
    by_name = {each.name.rpartition(".")[2]: each.mask for each in masks.masked[:4]}
    masks.close(1.0, step=0)
    rows_of_head_1 = slice(block.head_size // 4, 2 * block.head_size // 4)
    by_name["query"].keep[rows_of_head_1] = 0
    assert live_heads(block).tolist() == [True] * 4
    masks.freeze()
    assert live_heads(block).tolist() == [True, False, True, True]


@pytest.mark.parametrize("granularity", ["hybrid", "block"])
def test_what_is_open_is_what_compaction_leaves(granularity):
    """No gate of a head that has lost one of its matrices is open, so the share that is read is that of the compact model."""
    model, masks = model_with("movement", granularity)
    dense = parameters(model).encoder
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in masks.masked:
            each.mask.scores.copy_(torch.randn(each.mask.scores.shape, generator=generator))
    masks.close(0.2, step=0)
    masks.freeze()
    assert masks.closed() > sum(int((1 - each.mask.keep).sum()) * each.mask.members for each in masks.masked)
    open_weights = dense - masks.closed()
    masks.bake()
    small = compact(model)
    left = sum(int((linear.weight != 0).sum()) for layer in family_of(small).layers(small) for linear in linears(layer))
    assert left == open_weights if granularity == "hybrid" else left <= open_weights


def test_frozen_scores_learn_nothing():
    """While the weights settle, the gates are what they were."""
    model, masks = model_with("movement", "unstructured")
    masks.close(LEVEL, step=0)
    masks.freeze()
    model(**random_batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert all(scores.grad is None for scores in masks.scores)


def test_l0_draws_the_same_noise_in_every_process():
    """The gates of a step depend on the seed and the step alone."""
    drawn = []
    for step in (3, 3, 4):
        model, masks = model_with("l0", "struct")
        model.train()
        masks.close(0.0, step=step)
        drawn.append(masks.masked[0].mask.gate().detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=30), min_size=1, max_size=4), st.floats(0, 1), st.booleans())
def test_the_best_are_those_that_sorting_finds(ranks: list[list[int]], density: float, everywhere: bool):
    """Of equal ones the first, within each matrix or over all."""
    masks = [Mask(Grid(1, 1), torch.zeros(1, len(each)), initial=None) for each in ranks]
    keep_best(masks, [torch.tensor([each], dtype=torch.float32) for each in ranks], density, everywhere=everywhere)
    found = [mask.keep.flatten().tolist() for mask in masks]
    parts = [list(chain.from_iterable(ranks))] if everywhere else ranks
    expected = []
    for part in parts:
        count = int(density * len(part) + 0.5) if everywhere else round(density * len(part))
        best = sorted(range(len(part)), key=lambda place, part=part: (-part[place], place))[:count]
        expected += [float(place in best) for place in range(len(part))]
    assert list(chain.from_iterable(found)) == expected


def test_global_ranking_counts_members():
    """A head weighs as much as its four matrices: half of the weights stay, not half of the groups."""
    model = tiny_model("bert", "text-classification", intermediate=32)
    masks = attach(model, GRANULARITIES["struct"], method_of(MovementConfig(scope="global")))
    with torch.no_grad():
        for each in masks.masked:
            assert each.mask.scores is not None
            each.mask.scores.fill_(1.0 if each.kind == "attention" else 0.0)
    attention = sum(each.mask.keep.numel() * each.mask.members for each in masks.masked if each.kind == "attention")
    masks.close(attention / members(masks), step=0)
    assert all(bool(each.mask.keep.all()) is (each.kind == "attention") for each in masks.masked)


@torch.no_grad()
def test_magnitude_of_heads_and_neurons_is_that_of_all_their_weights():
    """Those that read much and write little rank above those that do a little of both."""
    model = tiny_model("bert", "text-classification", intermediate=32)
    masks = attach(model, GRANULARITIES["struct"], method_of(MagnitudeConfig()))
    for each in masks.masked:
        each.weight.fill_(0.2)
        for linear, rows in each.followers:
            linear.weight.fill_(0.2)
            linear.weight[-rows.rows :] = 3.0
        each.weight[:, -each.mask.grid.columns :] = 0.1
    masks.close(0.25, step=0)
    assert all(bool(each.mask.keep.flatten()[-1]) for each in masks.masked)


@torch.no_grad()
def test_global_magnitude_does_not_depend_on_the_scale_of_a_matrix():
    """Of two models that differ by a factor in one matrix the same weights stay."""
    found = []
    for factor in (1.0, 30.0):
        model = tiny_model("bert", "text-classification", intermediate=32)
        masks = attach(model, GRANULARITIES["unstructured"], method_of(MagnitudeConfig(scope="global")))
        masks.masked[0].weight.mul_(factor)
        masks.close(0.3, step=0)
        found.append([each.mask.keep.clone() for each in masks.masked])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert masks.density() == pytest.approx(0.3, abs=0.01)


def test_masks_move_to_a_device_whole():
    """Scores, gates and what is protected are where the model is."""
    model = tiny_model("bert", "text-classification", intermediate=32)
    kept = tuple(LayerStructure(heads=(1,), neurons=(0, 5)) for _ in family_of(model).layers(model))
    masks = attach(model, GRANULARITIES["hybrid"], method_of(METHODS["soft movement"]), protected=kept)
    model.to("meta")
    for each in masks.masked:
        tensors = (each.mask.scores, each.mask.keep, each.mask.protected)
        assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}


@pytest.mark.parametrize("granularity", [name for name in GRANULARITIES if name != "feed-forward alone"])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_protected_stays_whole(method, granularity):
    """Whatever the level, no weight of a protected head or neuron is masked, and it is as it was after baking."""
    model = tiny_model("bert", "text-classification", intermediate=32)
    kept = tuple(LayerStructure(heads=(1,), neurons=(0, 5)) for _ in family_of(model).layers(model))
    before = copy.deepcopy(model)
    masks = attach(model, GRANULARITIES[granularity], method_of(METHODS[method]), protected=kept)
    with torch.no_grad():
        for scores in masks.scores:
            scores.fill_(-5.0)
    masks.close(0.05, step=0)
    masks.freeze()
    masks.bake()
    assert density_left(model) < 0.9
    for old, new in zip(family_of(before).layers(before), family_of(model).layers(model), strict=True):
        head = slice(8, 16)
        for part in ("query", "key", "value"):
            assert torch.equal(getattr(new.attention, part).weight[head], getattr(old.attention, part).weight[head])
        assert torch.equal(new.attention.output.weight[:, head], old.attention.output.weight[:, head])
        assert torch.equal(new.feed_forward.up.weight[[0, 5]], old.feed_forward.up.weight[[0, 5]])
        assert torch.equal(new.feed_forward.down.weight[:, [0, 5]], old.feed_forward.down.weight[:, [0, 5]])


def density_left(model: PreTrainedModel) -> float:
    """Share of the linears' weights that are not zero."""
    weights = torch.cat([linear.weight.flatten() for layer in family_of(model).layers(model) for linear in linears(layer)])
    return float((weights != 0).float().mean())


def test_what_cannot_be_masked_is_refused():
    """Sizes that do not divide, and nothing at all."""
    with pytest.raises(ConfigError, match="5x4 do not divide"):
        attach(tiny_model(), Granularity(attention=BlockSize(rows=5, columns=4), feed_forward=None), method_of(MagnitudeConfig()))
    with pytest.raises(ConfigError, match="nothing is masked"):
        attach(tiny_model(), Granularity(attention=None, feed_forward=None), method_of(MagnitudeConfig()))


@pytest.mark.parametrize("lowest", [9.0, -12.0])
def test_saturated_l0_gates_can_still_be_ranked(lowest: float):
    """Scores that all mean an open gate, or a closed one, are told apart by the level, so that a target can be met."""
    model = tiny_model("bert", "text-classification", intermediate=32)
    masks = attach(model, GRANULARITIES["unstructured"], method_of(METHODS["l0"]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for scores in masks.scores:
            scores.copy_(lowest + 3 * torch.rand(scores.shape, generator=generator))

    def left(level: float) -> float:
        masks.close(level, step=0)
        return masks.density()

    method = masks.method
    assert left(solve_level(left, 0.3, low=method.lowest_level, high=HIGHEST_THRESHOLD)) == pytest.approx(0.3, rel=0.01)
    masks.freeze()
    assert all(bool((each.mask.gate()[each.mask.keep > 0] > 0).all()) for each in masks.masked)


@pytest.mark.parametrize("method", METHODS)
def test_gates_on_their_way_are_some_of_those_that_are_open(method: str):
    """Whatever the level that the schedule has just then: what is closed already is awaited no more."""
    _, masks = model_with(method, "struct")
    last = masks.method.last_level
    for level in (0.0, last / 2, last) if masks.method.steers == "penalty" else (1.0, 0.5, 0.1):
        masks.close(level, step=0)
        assert 0.0 <= masks.pending() <= masks.density()
        assert all(float(masks._closing(each.mask).min()) >= 0.0 for each in masks.masked)


@pytest.mark.parametrize("method", ["soft movement", "l0"])
def test_protected_gates_are_neither_pushed_nor_awaited(method: str):
    """However low their scores, none of them is on its way to close, and the penalty passes them over."""
    model = tiny_model("bert", "text-classification", intermediate=32)
    masks = attach(model, GRANULARITIES["struct"], method_of(METHODS[method]), protected=dense_structure(model))
    with torch.no_grad():
        for scores in masks.scores:
            scores.fill_(-7.0)
    masks.close(0.1, step=0)
    assert masks.density() == 1.0
    assert masks.pending() == 0.0
    masks.penalty({}).backward()
    assert all(scores.grad is None or not scores.grad.any() for scores in masks.scores)
