"""Reconstruction: refitting what is left of each block to the dense model."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from pruning.compaction import compact
from pruning.families import family_of
from pruning.reconstruction import layer_modules, reconstruct
from pruning.structure import LayerStructure, Structure, bake, dense_structure, shapes, shapes_of
from tests.pruning.helpers import ModelFactory, outputs_of, random_batch

HALF = (LayerStructure(heads=(0, 2), neurons=tuple(range(0, 37, 2))),) * 3


def sample(family: str, *, batches: int = 16) -> list[dict[str, Tensor]]:
    """Enough random text that a fit has more tokens than unknowns."""
    return [random_batch(family, seed=seed, rows=8) for seed in range(batches)]


def distance(model: PreTrainedModel, dense: PreTrainedModel, family: str) -> float:
    """Mean squared difference of the logits on text that no fit has seen."""
    batches = [random_batch(family, seed=seed, rows=8) for seed in range(1000, 1008)]
    return float(np.mean([(outputs_of(model, batch) - outputs_of(dense, batch)).square().mean() for batch in batches]))


def with_twins(model: PreTrainedModel) -> Structure:
    """Make the second half of the first layer's neurons, and its last two heads, copies of the others; return what may stay."""
    layer = family_of(model).layers(model)[0]
    attention, feed_forward = layer.attention, layer.feed_forward
    with torch.no_grad():
        feed_forward.up.weight[18:36] = feed_forward.up.weight[:18]
        feed_forward.up.bias[18:36] = feed_forward.up.bias[:18]
        for linear in (attention.query, attention.key, attention.value):
            linear.weight[16:] = linear.weight[:16]
            linear.bias[16:] = linear.bias[:16]
    dense = dense_structure(model)
    return (LayerStructure(heads=(0, 1), neurons=(*range(18), 36)), *dense[1:])


def test_reconstruction_brings_the_outputs_closer(tiny_model: ModelFactory, family: str) -> None:
    """With half of everything gone, the refitted model is nearer to the dense one than the masked one is, on fresh text."""
    dense = tiny_model(family)
    masked, refitted = copy.deepcopy(dense), copy.deepcopy(dense)
    bake(masked, HALF)

    reconstruct(refitted, HALF, sample(family))

    assert distance(refitted, dense, family) < 0.8 * distance(masked, dense, family)


def test_removed_groups_are_left_at_zero(tiny_model: ModelFactory, family: str) -> None:
    """Compaction finds afterwards exactly the structure that was asked for, and changes nothing."""
    model = tiny_model(family)

    reconstruct(model, HALF, sample(family))

    compacted = compact(model)
    assert shapes(compacted) == shapes_of(HALF)
    assert_close(outputs_of(compacted, random_batch(family)), outputs_of(model, random_batch(family)), rtol=1e-4, atol=1e-4)


def test_keeping_everything_changes_nothing(tiny_model: ModelFactory, family: str) -> None:
    """A structure that removes nothing leaves every weight bit for bit."""
    model = tiny_model(family)
    before = copy.deepcopy(model.state_dict())

    fits = reconstruct(model, dense_structure(model), sample(family, batches=2))

    assert fits == ()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_blocks_before_the_first_removal_are_not_touched(tiny_model: ModelFactory, family: str) -> None:
    """Where student and teacher still agree there is nothing to repair."""
    model = tiny_model(family)
    dense = dense_structure(model)
    before = family_of(model).layers(model)[0].feed_forward.down.weight.clone()

    fits = reconstruct(model, (*dense[:1], *HALF[1:]), sample(family, batches=4))

    assert [fit.damping for fit in fits[:2]] == [None, None]
    assert torch.equal(family_of(model).layers(model)[0].feed_forward.down.weight, before)


def test_duplicated_groups_are_recovered(tiny_model: ModelFactory, family: str) -> None:
    """When what is removed is a copy of what stays, the dense outputs come back although the copy's weights were other ones."""
    dense = tiny_model(family, dtype=torch.float64)
    structure = with_twins(dense)
    masked, refitted = copy.deepcopy(dense), copy.deepcopy(dense)
    bake(masked, structure)

    reconstruct(refitted, structure, sample(family))

    assert distance(refitted, dense, family) < 1e-4 * distance(masked, dense, family)


def test_no_block_is_made_worse_on_held_out_text(tiny_model: ModelFactory) -> None:
    """With far fewer tokens than unknowns, a fit that does not generalise is refused or damped."""
    model = tiny_model(hidden=64, intermediate=512)
    structure = (LayerStructure(heads=(0, 1, 2), neurons=tuple(range(500))),) * 3

    fits = reconstruct(model, structure, [random_batch(seed=seed, rows=1, length=6) for seed in range(2)])

    assert len(fits) == 6
    assert all(fit.error_after <= fit.error_before for fit in fits)


def test_empty_blocks_keep_the_mean_of_what_they_gave(tiny_model: ModelFactory, family: str) -> None:
    """A block with nothing left is refitted by its bias alone, which beats leaving the bias as it was."""
    dense = tiny_model(family)
    structure = (LayerStructure((), ()), *dense_structure(dense)[1:])
    model = copy.deepcopy(dense)

    fits = reconstruct(model, structure, sample(family))

    assert all(fit.error_after < fit.error_before for fit in fits[:2])
    assert shapes(compact(model))[0] == shapes_of(structure)[0]


def test_a_compact_model_can_be_pruned_again(tiny_model: ModelFactory, family: str) -> None:
    """Layers of which a block was removed before are passed through, and the others refitted."""
    model = tiny_model(family)
    first = (LayerStructure((), tuple(range(20))), LayerStructure((1, 3), ()), dense_structure(model)[2])
    bake(model, first)
    dense = compact(model)
    second = (LayerStructure((), tuple(range(0, 20, 2))), LayerStructure((0,), ()), LayerStructure((0, 1), tuple(range(30))))
    masked, refitted = copy.deepcopy(dense), copy.deepcopy(dense)
    bake(masked, second)

    reconstruct(refitted, second, sample(family))

    assert distance(refitted, dense, family) < distance(masked, dense, family)


def test_layers_run_one_by_one_are_the_model(tiny_model: ModelFactory, family: str) -> None:
    """The modules found are the encoder's own layers, in order."""
    model = tiny_model(family)

    names = [name for module in layer_modules(model) for name, each in model.named_modules() if each is module]

    assert [name.rpartition("layer.")[2] for name in names] == ["0", "1", "2"]


def test_one_batch_is_refused(tiny_model: ModelFactory) -> None:
    """Without a batch to hold out nothing could be checked, so nothing is fitted."""
    with pytest.raises(ValueError, match="two or more batches"):
        reconstruct(tiny_model(), HALF, [random_batch()])
