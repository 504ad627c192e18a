"""A compact model computes what the masked one did."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pruning.compaction import compact
from pruning.errors import ConfigError
from pruning.families import family_of
from pruning.structure import LayerStructure, bake, dense_structure, shapes, shapes_of
from tests.pruning.helpers import FAMILY_NAMES, TASK_NAMES, ModelFactory, kill_randomly, outputs_of, random_batch, tiny_model

EXACT = {"atol": 1e-9, "rtol": 0.0}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FAMILY_NAMES), st.sampled_from(TASK_NAMES), st.sampled_from(["eager", "sdpa"]), st.integers(0, 2**16))
def test_compact_model_equals_masked_model(family: str, task: str, attention: str, seed: int):
    """Whatever groups are dead, on whichever side, padding included, the logits are those of the masked model."""
    masked = tiny_model(family, task, seed=seed, dtype=torch.float64, attention=attention)
    structure = kill_randomly(np.random.default_rng(seed), masked)
    small = compact(masked)
    assert shapes(small) == shapes_of(structure)
    batch = random_batch(family, seed=seed)
    torch.testing.assert_close(outputs_of(small, batch), outputs_of(masked, batch), **EXACT)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_everything_can_leave(family: str, task: str, attention: str):
    """With every block of every layer removed, the constants alone give the masked model's logits."""
    masked = tiny_model(family, task, dtype=torch.float64, attention=attention)
    for layer in family_of(masked).layers(masked):
        layer.attention.value.weight.data.zero_()
        layer.feed_forward.up.weight.data.zero_()
    small = compact(masked)
    assert all(shape.heads == shape.intermediate == 0 for shape in shapes(small))
    batch = random_batch(family)
    torch.testing.assert_close(outputs_of(small, batch), outputs_of(masked, batch), **EXACT)


def test_head_dead_column_by_column_leaves(tiny_model: ModelFactory, family: str):
    """A head whose columns are dead some by V and some by O is dead."""
    masked = tiny_model(family, dtype=torch.float64)
    attention = family_of(masked).layers(masked)[0].attention
    attention.value.weight.data[0:5] = 0
    attention.output.weight.data[:, 5:8] = 0
    small = compact(masked)
    assert shapes(small)[0].heads == 3
    batch = random_batch(family)
    torch.testing.assert_close(outputs_of(small, batch), outputs_of(masked, batch), **EXACT)


@pytest.mark.parametrize("part", ["query", "key"])
def test_zero_query_or_key_is_not_removal(tiny_model: ModelFactory, family: str, part: str):
    """A head that attends uniformly still does something, and stays."""
    model = tiny_model(family)
    getattr(family_of(model).layers(model)[0].attention, part).weight.data.zero_()
    assert shapes(compact(model)) == shapes(model)


def test_head_with_a_single_live_column_stays(tiny_model: ModelFactory):
    """One column of a head that reaches the output is enough to keep the head."""
    model = tiny_model()
    family_of(model).layers(model)[0].attention.output.weight.data[:, 1:8] = 0
    assert shapes(compact(model))[0].heads == 4


def test_original_is_left_alone(tiny_model: ModelFactory, family: str):
    """Compaction returns a new model; the masked one keeps its weights, its shapes and its config."""
    masked = tiny_model(family)
    kill_randomly(np.random.default_rng(1), masked)
    before, shapes_before, config_before = copy.deepcopy(masked.state_dict()), shapes(masked), masked.config.to_dict()
    compact(masked, drop_layers=[0])
    assert shapes(masked) == shapes_before
    assert masked.config.to_dict() == config_before
    assert all(torch.equal(before[name], tensor) for name, tensor in masked.state_dict().items())


def test_dense_model_is_already_compact(tiny_model: ModelFactory, family: str):
    """With nothing dead, every weight stays as it is."""
    model = tiny_model(family)
    small = compact(model)
    assert small.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(small.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_compact_model_can_be_pruned_again(family: str, task: str):
    """Compacting twice gives what the second mask on the first compact model gave."""
    rng = np.random.default_rng(5)
    masked = tiny_model(family, task, dtype=torch.float64)
    kill_randomly(rng, masked)
    once = compact(masked)
    structure = kill_randomly(rng, once)
    twice = compact(once)
    assert shapes(twice) == shapes_of(structure)
    batch = random_batch(family)
    torch.testing.assert_close(outputs_of(twice, batch), outputs_of(once, batch), **EXACT)


def test_dropped_layers_are_skipped(tiny_model: ModelFactory, family: str, task: str):
    """Dropping layers 0 and 2 gives a model of layer 1 alone, masked groups included."""
    masked = tiny_model(family, task, dtype=torch.float64)
    kill_randomly(np.random.default_rng(2), masked)
    small = compact(masked, drop_layers={0, 2})
    reference = copy.deepcopy(masked)
    stack = reference.base_model.encoder if hasattr(reference.base_model, "encoder") else reference.base_model.transformer
    stack.layer = nn.ModuleList([stack.layer[1]])
    batch = random_batch(family)
    torch.testing.assert_close(outputs_of(small, batch), outputs_of(reference, batch), **EXACT)
    assert small.config.num_hidden_layers == 1


@pytest.mark.parametrize(("layers", "message"), [([3], "layer 3: the model has layers 0 to 2"), ([0, 1, 2], "all 3 layers")])
def test_layers_that_cannot_be_dropped_are_named(tiny_model: ModelFactory, layers: list[int], message: str):
    """Unknown layers, and all of them, are refused."""
    with pytest.raises(ConfigError, match=message):
        compact(tiny_model(), drop_layers=layers)


def test_removed_blocks_hold_no_linear(tiny_model: ModelFactory, family: str):
    """No matrix product is left of removed blocks."""
    model = tiny_model(family)
    bake(model, (LayerStructure((), ()),) * 3)
    layers = compact(model).base_model.get_submodule("transformer" if family == "distilbert" else "encoder")
    assert not any(isinstance(module, nn.Linear) for module in layers.modules())


def test_compact_model_trains(family: str, task: str):
    """Every parameter of a compact model gets a gradient, constants included."""
    masked = tiny_model(family, task)
    everything = dense_structure(masked)[0]
    bake(masked, (LayerStructure((), everything.neurons), LayerStructure((1, 3), ()), LayerStructure((0,), (2, 5, 9))))
    small = compact(masked).train()
    outputs = small(**random_batch(family))
    sum((value**2).sum() for value in outputs.values()).backward()
    silent = {name for name, parameter in small.named_parameters() if parameter.grad is None or not parameter.grad.any()}
    assert silent == set()


def test_compact_model_can_be_copied(tiny_model: ModelFactory, family: str):
    """A deep copy computes the same and shares nothing."""
    masked = tiny_model(family)
    bake(masked, (LayerStructure((), (1,)), LayerStructure((2,), ()), LayerStructure((0, 1), (3,))))
    small = compact(masked)
    twin = copy.deepcopy(small)
    batch = random_batch(family)
    before = outputs_of(small, batch)
    assert torch.equal(outputs_of(twin, batch), before)
    for parameter in twin.parameters():
        parameter.data.zero_()
    assert torch.equal(outputs_of(small, batch), before)


def test_frozen_parameters_stay_frozen(tiny_model: ModelFactory):
    """What does not require a gradient in the masked model does not in the compact one."""
    model = tiny_model()
    block = family_of(model).layers(model)[0].feed_forward
    block.up.weight.requires_grad_(False)
    bake(model, (LayerStructure((0, 1), (0, 1)),) * 3)
    small = compact(model)
    block = family_of(small).layers(small)[0].feed_forward
    assert not block.up.weight.requires_grad
    assert block.down.weight.requires_grad


def test_mode_is_kept(tiny_model: ModelFactory):
    """A model in evaluation mode is compacted to one in evaluation mode, in every module."""
    model = tiny_model()
    bake(model, (LayerStructure((), ()),) * 3)
    assert not any(module.training for module in compact(model).modules())
    assert all(module.training for module in compact(model.train()).modules())
