"""Pruning an encoder-decoder with no training: importance, ranking, reconstruction, and the search around them."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from pruning.compaction import compact
from pruning.families import family_of
from pruning.importance import Importance, diagonal, fisher, output_probe, projections, real_tokens
from pruning.preview import Preview
from pruning.reconstruction import layer_modules, reconstruct
from pruning.search import rank
from pruning.structure import LayerStructure, Structure, bake, dense_structure, gated, shapes, shapes_of
from pruning.surgeon import rank_by_surgeon
from pruning.tasks.base import IGNORED
from tests.pruning.helpers import bart_batch, tiny_bart

small_bart = functools.partial(tiny_bart, encoder_layers=2, decoder_layers=2, neurons=(20, 16))


def batch_of(seed: int, *, rows: int = 4) -> dict[str, Tensor]:
    """Sources and targets with padding at their ends, as they are trained on."""
    batch = bart_batch(seed=seed, rows=rows)
    labels = batch["decoder_input_ids"].roll(-1, dims=1)
    for row in range(1, rows):
        labels[row, -row:] = IGNORED
    return batch | {"labels": labels}


def sample(count: int = 12) -> list[dict[str, Tensor]]:
    """Batches enough for a fit."""
    return [batch_of(seed, rows=6) for seed in range(count)]


def losses(outputs: object, batch: dict[str, Tensor]) -> Tensor:
    """Cross entropy of the targets, summed over tokens; float `[batch]`."""
    return torch.nn.functional.cross_entropy(outputs.logits.transpose(1, 2), batch["labels"], reduction="none").sum(-1)


def importance_of(model: PreTrainedModel) -> Importance:
    """From the curvature of the model's own predictions."""
    return fisher(model, sample(), output_probe(lambda outputs: (outputs.logits,)))


def distance(model: PreTrainedModel, dense: PreTrainedModel) -> float:
    """Mean squared difference of the logits at real tokens, on text that no fit has seen."""
    found = []
    with torch.no_grad():
        for batch in [batch_of(seed) for seed in range(1000, 1006)]:
            difference = model(**batch).logits - dense(**batch).logits
            found.append(difference[real_tokens(batch, "decoder")].square().mean())
    return float(np.mean(found))


def half(model: PreTrainedModel) -> Structure:
    """Every second head and neuron."""
    return tuple(LayerStructure(layer.heads[::2], layer.neurons[::2]) for layer in dense_structure(model))


def test_gradients_are_those_of_each_example_alone() -> None:
    """Whatever side a block is on, a batch gives every example the gradient that it has by itself, and padding none."""
    model, batch = small_bart(dtype=torch.float64), batch_of(1)
    alone = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in range(4)]
    together, one_by_one = fisher(model, [batch], losses), fisher(model, alone, losses)
    for left, right in zip(together.heads + together.neurons, one_by_one.heads + one_by_one.neurons, strict=True):
        assert_close(left, right, rtol=1e-5, atol=1e-7)
        assert left.numel() == 0 or left.abs().max() > 1e-6
    for one, two in zip(together.curvature, one_by_one.curvature, strict=True):
        assert_close(one.inputs, two.inputs, rtol=1e-5, atol=1e-7)
        assert_close(one.gradients, two.gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("number", range(6))
def test_gradients_are_the_slope_of_the_loss_in_the_gate(number: int) -> None:
    """In each attention of encoder and decoder, and in the feed-forward where there is one."""
    model, batch, step = small_bart(dtype=torch.float64), batch_of(2), 1e-5
    importance, layer = fisher(model, [batch], losses), family_of(model).layers(model)[number]
    cases = [(importance.heads[number][1, 2], layer.attention.output, slice(16, 24))]
    if layer.feed_forward:
        cases.append((importance.neurons[number][1, 5], layer.feed_forward.down, slice(5, 6)))
    for gradient, linear, columns in cases:
        values = []
        for gate in (1 + step, 1 - step):
            changed = copy.deepcopy(linear.weight.data)
            linear.weight.data[:, columns] *= gate
            with torch.no_grad():
                values.append(losses(model(**batch), batch)[1].item())
            linear.weight.data.copy_(changed)
        assert gradient.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


def test_the_probe_leaves_the_padding_of_targets_alone() -> None:
    """Tokens that are no part of a target get no gradient, and a row's other tokens share its one unit of loss."""
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([[1, 2, 3, IGNORED, IGNORED], [1, 2, 3, 4, 5]])
    (gradient,) = torch.autograd.grad(output_probe(lambda outputs: (outputs,))(logits, {"labels": labels}).sum(), logits)
    assert torch.equal(gradient.any(-1), labels != IGNORED)


def test_the_probe_has_the_curvature_of_the_mean_divergence() -> None:
    """Over many draws, the second moment of a token's gradient is diag(p) - p' p over the number of tokens."""
    logits = torch.tensor([[1.0, -0.5, 0.2], [0.0, 0.3, -1.0]]).expand(40_000, 2, 3).clone().requires_grad_()
    probe = output_probe(lambda outputs: (outputs,))(logits, {"labels": torch.zeros(40_000, 2, dtype=torch.int64)})
    (gradient,) = torch.autograd.grad(probe.sum(), logits)
    first, second = gradient.unbind(1)
    probability = logits[0, 0].softmax(-1).detach()
    assert_close(first.T @ first / 40_000, (torch.diag(probability) - probability.outer(probability)) / 2, atol=5e-3, rtol=0)
    assert_close(first.T @ second / 40_000, torch.zeros(3, 3), atol=5e-3, rtol=0)


def test_every_block_is_ranked() -> None:
    """Heads of the three attentions and neurons of both feed-forwards, and nothing where a layer has no feed-forward."""
    model = small_bart()
    importance = importance_of(model)
    for rankings in (rank(importance), rank_by_surgeon(model, importance)):
        assert [len(ranking.order) for ranking in rankings.attention] == [4] * 6
        assert [len(ranking.order) for ranking in rankings.feed_forward] == [20, 20, 0, 16, 0, 16]
        assert all(np.isfinite(ranking.errors).all() for block in rankings for ranking in block)
        assert all(ranking.errors[0] > 0 for ranking in rankings.attention)


def test_dead_groups_have_no_importance() -> None:
    """A head of cross-attention and neurons whose columns are zero get a gradient of exactly zero."""
    model = small_bart()
    structure = list(dense_structure(model))
    structure[3] = LayerStructure((0, 2), tuple(range(10)))
    bake(model, tuple(structure))
    importance = fisher(model, [batch_of(3)], losses)
    assert diagonal(importance.heads[3]).nonzero().flatten().tolist() == [0, 2]
    assert diagonal(importance.neurons[3]).nonzero().flatten().tolist() == list(range(10))


def test_curvature_sums_over_tokens_and_averages_over_examples() -> None:
    """The second moment of gradients is the mean of what each example has alone, on either side."""
    model, batches = small_bart(), [{name: tensor[:1] for name, tensor in batch_of(seed).items()} for seed in range(8)]
    together, alone = fisher(model, batches, losses).curvature, [fisher(model, [batch], losses).curvature for batch in batches]
    for block in (0, 6):
        assert_close(together[block].gradients, torch.stack([each[block].gradients for each in alone]).mean(0), rtol=1e-4, atol=1e-6)


def test_previews_are_of_every_block_and_leave_the_model() -> None:
    """Refitted in closed form, half a model is nearer to the dense one than it is masked; afterwards weights are as before."""
    model = small_bart()
    dense, structure = copy.deepcopy(model), half(model)
    with gated(model, structure):
        masked = distance(model, dense)
    with Preview(model, importance_of(model)).refitted(structure):
        assert distance(model, dense) < masked
    assert all(torch.equal(left, right) for left, right in zip(model.state_dict().values(), dense.state_dict().values(), strict=True))


def test_layers_are_parts_of_their_modules() -> None:
    """Self-attention and cross-attention of a decoder layer are listed apart, and share its module."""
    model = small_bart()
    encoder, decoder = model.model.encoder.layers, model.model.decoder.layers
    expected = [encoder[0], encoder[1], decoder[0], decoder[0], decoder[1], decoder[1]]
    assert [id(module) for module in layer_modules(model)] == [id(module) for module in expected]
    assert len(projections(model)) == 2 * len(expected)


def test_reconstruction_brings_the_outputs_closer() -> None:
    """With half of everything gone on both sides, and dead groups left at zero, for compaction to find."""
    dense = small_bart()
    masked, refitted = copy.deepcopy(dense), copy.deepcopy(dense)
    bake(masked, half(dense))
    fits = reconstruct(refitted, half(dense), sample())
    assert len(fits) == 10
    assert distance(refitted, dense) < 0.8 * distance(masked, dense)
    assert shapes(compact(refitted)) == shapes_of(half(dense))


@pytest.mark.parametrize("number", range(6))
def test_duplicated_groups_are_recovered(number: int) -> None:
    """In each attention and feed-forward, when what is removed is a copy of what stays, the dense outputs come back."""
    dense = small_bart(dtype=torch.float64)
    layer, structure = family_of(dense).layers(dense)[number], list(dense_structure(dense))
    with torch.no_grad():
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value):
            linear.weight[16:], linear.bias[16:] = linear.weight[:16].clone(), linear.bias[:16].clone()
        if layer.feed_forward:
            layer.feed_forward.up.weight[8:16] = layer.feed_forward.up.weight[:8]
            layer.feed_forward.up.bias[8:16] = layer.feed_forward.up.bias[:8]
    kept = structure[number].neurons
    structure[number] = LayerStructure((0, 1), (*kept[:8], *kept[16:]))
    masked, refitted = copy.deepcopy(dense), copy.deepcopy(dense)
    bake(masked, tuple(structure))
    reconstruct(refitted, tuple(structure), sample())
    assert distance(refitted, dense) < 1e-4 * distance(masked, dense)


def test_a_compact_model_can_be_refitted_again() -> None:
    """Removed blocks, on either side, and whole removed layers are passed through."""
    dense = small_bart()
    structure = list(half(dense))
    structure[0] = structure[2] = LayerStructure((), structure[0].neurons)
    structure[2], structure[3] = LayerStructure((), ()), LayerStructure((), ())
    bake(dense, tuple(structure))
    small = compact(dense)
    second = half(small)
    masked, refitted = copy.deepcopy(small), copy.deepcopy(small)
    bake(masked, second)
    reconstruct(refitted, second, sample())
    assert distance(refitted, small) < distance(masked, small)
