"""BART: a compact encoder-decoder computes, and generates, what the masked one did."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BartForCausalLM, BartModel, PreTrainedModel

from pruning.compaction import compact, live_structure
from pruning.errors import ConfigError, UnsupportedModelError
from pruning.families import family_of
from pruning.families.bart import layers_to_copy, layers_to_drop
from pruning.structure import (
    LayerStructure,
    bake,
    dense_structure,
    density,
    embedding_tables,
    gated,
    linears,
    macs,
    parameters,
    shapes,
    shapes_of,
)
from tests.pruning.helpers import bart_batch, kill_randomly, random_batch, random_structure, tiny_bart

EXACT = {"atol": 1e-9, "rtol": 0.0}
SIDES = ["encoder", "encoder", "decoder", "cross", "decoder", "cross", "decoder", "cross"]


def logits(model: PreTrainedModel, **options: int) -> Tensor:
    """What the model predicts for each token of the target."""
    with torch.no_grad():
        return model(**bart_batch(**options)).logits


GENERATION = {"min_new_tokens": 4, "max_new_tokens": 12, "no_repeat_ngram_size": 1}
"""Random models repeat themselves; forbidden to, they show at each step what they would say next."""


def generated(model: PreTrainedModel, *, beams: int, seed: int = 0, **options: object) -> list[list[int]]:
    """Tokens for a batch of inputs with padding."""
    return model.generate(**random_batch("roberta", seed=seed), num_beams=beams, **GENERATION, **options).tolist()


def test_layers_are_those_of_the_encoder_and_two_for_each_of_the_decoder():
    """Self-attention has no feed-forward behind it, cross-attention has; sizes are those of the config."""
    layers = family_of(model := tiny_bart()).layers(model)
    assert [layer.side for layer in layers] == SIDES
    assert [layer.attention.heads for layer in layers] == [4] * 8
    assert [layer.feed_forward and layer.feed_forward.neurons for layer in layers] == [37, 37, None, 29, None, 29, None, 29]


def test_every_linear_of_the_stacks_is_in_one_layer():
    """Ten linears in a decoder layer, six in an encoder layer, none twice."""
    model = tiny_bart()
    found = [linear for layer in family_of(model).layers(model) for linear in linears(layer)]
    inside = [module for name, module in model.named_modules() if ".layers." in name and isinstance(module, nn.Linear)]
    assert len(found) == 2 * 6 + 3 * 10
    assert {id(linear) for linear in found} == {id(linear) for linear in inside}


@pytest.mark.parametrize("bare", [False, True])
def test_a_block_is_named_after_its_place(bare: bool):
    """The module of a block's name contains the block's linears, in a model with a head and without."""
    model = tiny_bart().model if bare else tiny_bart()
    for layer in family_of(model).layers(model):
        assert model.get_submodule(layer.attention.name) is not None
        assert any(module is layer.attention.query for module in model.get_submodule(layer.attention.name).modules())
        if layer.feed_forward:
            assert any(module is layer.feed_forward.down for module in model.get_submodule(layer.feed_forward.name).modules())


@pytest.mark.parametrize("number", range(8))
def test_query_key_and_value_are_not_mixed_up(number: int):
    """A zero value projection silences the attention; a zero query or key does not."""
    for part, silent in (("query", False), ("key", False), ("value", True)):
        model = tiny_bart()
        attention = family_of(model).layers(model)[number].attention
        attention.output.bias.data.zero_()
        attention.value.bias.data.zero_()
        getattr(attention, part).weight.data.zero_()
        heard = []
        attention.output.register_forward_hook(lambda _, __, output, heard=heard: heard.append(output.abs().max().item()))
        logits(model)
        assert (heard[0] == 0) == silent


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["eager", "sdpa"]), st.integers(0, 2**16))
def test_compact_model_equals_masked_model(attention: str, seed: int):
    """Whatever groups are dead, on whichever side, unequal in every attention, the logits are those of the masked model."""
    masked = tiny_bart(seed=seed, dtype=torch.float64, attention=attention)
    structure = kill_randomly(np.random.default_rng(seed), masked)
    small = compact(masked)
    assert shapes(small) == shapes_of(structure)
    torch.testing.assert_close(logits(small, seed=seed), logits(masked, seed=seed), **EXACT)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("seed", range(4))
def test_compact_model_generates_the_same_tokens(seed: int, beams: int):
    """Greedy and by beams, with the cache and without, a compact model decodes what the masked one does."""
    masked = tiny_bart(seed=seed, dtype=torch.float64)
    kill_randomly(np.random.default_rng(seed), masked)
    small = compact(masked)
    expected = generated(masked, beams=beams, seed=seed)
    assert generated(small, beams=beams, seed=seed) == expected
    assert generated(small, beams=beams, seed=seed, use_cache=False) == expected


@pytest.mark.parametrize(("attention", "beams"), [("eager", 1), ("sdpa", 4)])
@pytest.mark.parametrize("removed", [{2}, {3}, {2, 4, 6}, {3, 5, 7}, {2, 3}, set(range(8))], ids=str)
def test_removed_attention_generates_with_the_cache(removed: set[int], attention: str, beams: int):
    """Without the first self-attention, all of them, or the cross-attention, positions go on being counted."""
    masked = tiny_bart(dtype=torch.float64, attention=attention)
    for number, layer in enumerate(family_of(masked).layers(masked)):
        if number in removed:
            layer.attention.value.weight.data.zero_()
    small = compact(masked)
    assert [layer.attention is None for layer in family_of(small).layers(small)] == [number in removed for number in range(8)]
    expected = generated(masked, beams=beams)
    assert generated(small, beams=beams) == expected
    assert generated(small, beams=beams, use_cache=False) == expected


@pytest.mark.parametrize("removed", [[2], [2, 4, 6], [2, 3, 4, 5, 6, 7]], ids=str)
def test_tokens_one_by_one_give_the_logits_of_all_at_once(removed: list[int]):
    """Who decodes with the cache alone, and says nothing of positions, has them read from the cache."""
    model, batch = tiny_bart(dtype=torch.float64), bart_batch()
    for number in removed:
        family_of(model).remove_attention(model, number, torch.full((32,), 0.5, dtype=torch.float64))
    tokens, cache, steps = batch.pop("decoder_input_ids"), None, []
    for position in range(tokens.shape[1]):
        with torch.no_grad():
            outputs = model(**batch, decoder_input_ids=tokens[:, position, None], past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        steps.append(outputs.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), logits(model), **EXACT)


def test_removed_attention_generates_with_a_static_cache():
    """A cache of fixed size counts positions too."""
    masked = tiny_bart(dtype=torch.float64)
    family_of(masked).layers(masked)[2].attention.value.weight.data.zero_()
    small = compact(masked)
    assert generated(small, beams=1, cache_implementation="static", disable_compile=True) == generated(masked, beams=1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_everything_can_leave(attention: str):
    """With every block of every layer removed, the constants alone give the masked model's logits, and no linear is left inside."""
    masked = tiny_bart(dtype=torch.float64, attention=attention)
    for layer in family_of(masked).layers(masked):
        layer.attention.value.weight.data.zero_()
        if layer.feed_forward:
            layer.feed_forward.up.weight.data.zero_()
    small = compact(masked)
    assert not any(isinstance(module, nn.Linear) for module in small.model.modules())
    torch.testing.assert_close(logits(small), logits(masked), **EXACT)


def test_zero_query_or_key_is_not_removal():
    """A head that attends uniformly, to the source too, still does something and stays."""
    model = tiny_bart()
    for layer in family_of(model).layers(model):
        layer.attention.query.weight.data[:8] = 0
        layer.attention.key.weight.data[8:16] = 0
    assert shapes(compact(model)) == shapes(model)


def test_compact_model_can_be_pruned_again():
    """Compacting twice gives what the second mask on the first compact model gave."""
    rng = np.random.default_rng(5)
    masked = tiny_bart(dtype=torch.float64)
    kill_randomly(rng, masked)
    once = compact(masked)
    structure = kill_randomly(rng, once)
    twice = compact(once)
    assert shapes(twice) == shapes_of(structure)
    torch.testing.assert_close(logits(twice), logits(once), **EXACT)


def test_structure_is_gated_baked_and_read():
    """Gates and zeros compute the same, and what is alive afterwards is the structure."""
    model = tiny_bart(dtype=torch.float64)
    structure = random_structure(np.random.default_rng(3), model)
    with gated(model, structure):
        through_gates = logits(model)
    bake(model, structure)
    torch.testing.assert_close(logits(model), through_gates, **EXACT)
    assert live_structure(model) == structure


def test_compact_model_trains():
    """Every parameter of a compact model gets a gradient, constants included."""
    masked = tiny_bart()
    dense = dense_structure(masked)
    bake(
        masked,
        (
            dense[0],
            LayerStructure((), ()),
            LayerStructure((), ()),
            LayerStructure((0,), (2, 5)),
            *dense[4:6],
            LayerStructure((1, 3), ()),
            LayerStructure((), ()),
        ),
    )
    small = compact(masked).train()
    small(**random_batch("roberta"), labels=torch.randint(4, 61, (3, 7))).loss.backward()
    assert {name for name, parameter in small.named_parameters() if parameter.grad is None or not parameter.grad.any()} == set()


def test_removed_blocks_give_no_attention_probabilities():
    """With `output_attentions`, a removed attention is None among the others."""
    model = tiny_bart(attention="eager")
    family_of(model).remove_attention(model, 2, torch.zeros(32))
    family_of(model).remove_attention(model, 5, torch.zeros(32))
    outputs = model(**bart_batch(), output_attentions=True)
    assert [probabilities is None for probabilities in outputs.decoder_attentions] == [True, False, False]
    assert [probabilities is None for probabilities in outputs.cross_attentions] == [False, True, False]


def test_dropped_layers_are_skipped():
    """A model without an encoder layer and a decoder layer computes what the others do, and generates with its cache."""
    masked = tiny_bart(dtype=torch.float64)
    kill_randomly(np.random.default_rng(2), masked)
    small = compact(masked, drop_layers=[0, 4, 5])
    reference = copy.deepcopy(masked)
    reference.model.encoder.layers = nn.ModuleList([reference.model.encoder.layers[1]])
    reference.model.decoder.layers = nn.ModuleList([reference.model.decoder.layers[index] for index in (0, 2)])
    torch.testing.assert_close(logits(small), logits(reference), **EXACT)
    assert generated(small, beams=4) == generated(reference, beams=4, use_cache=False)
    assert (small.config.encoder_layers, small.config.num_hidden_layers, small.config.decoder_layers) == (1, 1, 2)
    assert (masked.config.encoder_layers, masked.config.decoder_layers) == (2, 3)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], "half of decoder layer 1: it is layers 4 and 5"),
        ([0, 1], "all 2 layers of the encoder"),
        (range(2, 8), "all 3 layers of the decoder"),
        ([8], "layer 8: the model has layers 0 to 7"),
    ],
)
def test_layers_that_cannot_be_dropped_are_named(layers: list[int], message: str):
    """Half a decoder layer, a whole side, and unknown layers are refused."""
    with pytest.raises(ConfigError, match=message):
        compact(tiny_bart(), drop_layers=layers)


def test_shallower_models_copy_the_layers_of_the_tables():
    """Published tables where there are any; else the first, the last, and some between."""
    assert layers_to_copy(12, 6) == (0, 2, 4, 7, 9, 11)
    assert layers_to_copy(6, 3) == (0, 2, 5)
    assert layers_to_copy(8, 8) == tuple(range(8))
    for layers in range(1, 13):
        for kept in range(1, layers + 1):
            chosen = layers_to_copy(layers, kept)
            assert len(set(chosen)) == kept
            assert chosen[0] == 0
            assert kept == 1 or chosen[-1] == layers - 1


def test_layers_to_drop_leave_as_many_as_asked_for():
    """Encoder and decoder are counted apart; a side that is not named stays whole."""
    model = tiny_bart(encoder_layers=4, decoder_layers=6, heads=2)
    small = compact(model, drop_layers=layers_to_drop(model, decoder_layers=3))
    assert (small.config.encoder_layers, small.config.decoder_layers) == (4, 3)
    expected = [model.model.decoder.layers[index].fc1.weight for index in (0, 2, 5)]
    assert all(torch.equal(layer.fc1.weight, weight) for layer, weight in zip(small.model.decoder.layers, expected, strict=True))
    with pytest.raises(ConfigError, match="keep 5 of 4"):
        layers_to_drop(model, encoder_layers=5)


def test_counts_leave_tables_and_the_language_model_head_out():
    """`encoder` counts the linears of both stacks; a shared table counts once, in the total too."""
    model = tiny_bart()
    counts = parameters(model)
    in_layers = [p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2]
    assert counts.encoder == sum(p.numel() for p in in_layers) == 2 * (4 * 32**2 + 2 * 32 * 37) + 3 * (8 * 32**2 + 2 * 32 * 29)
    assert counts.embeddings == 61 * 32 + 2 * 42 * 32
    assert counts.total == sum(p.numel() for p in model.parameters())
    assert "model.encoder.embed_positions" in embedding_tables(model)


def test_density_counts_encoder_and_decoder():
    """Dense is 1; blocks and layers that left count as removed."""
    model = tiny_bart()
    assert density(model) == 1
    dense, cross = parameters(model).encoder, 4 * 32**2
    bake(model, (*dense_structure(model)[:3], LayerStructure((), tuple(range(29))), *dense_structure(model)[4:]))
    assert density(compact(model)) == pytest.approx(1 - cross / dense)
    layer = 8 * 32**2 + 2 * 32 * 29
    assert density(compact(model, drop_layers=[0, 6, 7])) == pytest.approx(1 - (cross + layer + 4 * 32**2 + 2 * 32 * 37) / dense)


def test_macs_go_by_the_lengths_of_source_and_target():
    """Cross-attention reads keys and values of the source once; the head reads each token of the target."""
    counted = macs(tiny_bart(encoder_layers=1, decoder_layers=1), 10, 6)
    encoder = 10 * (4 * 32**2 + 2 * 32 * 37) + 2 * 10 * 10 * 32
    self_attention = 6 * 4 * 32**2 + 2 * 6 * 6 * 32
    cross = (2 * 6 + 2 * 10) * 32**2 + 2 * 6 * 10 * 32
    assert counted.encoder == encoder + self_attention + cross + 6 * 2 * 32 * 29
    assert counted.total - counted.encoder == 6 * 32 * 61


def test_bare_model_is_compacted_too():
    """A model without a head is its own base model."""
    masked = tiny_bart(dtype=torch.float64)
    kill_randomly(np.random.default_rng(4), masked)
    small = compact(masked.model)
    assert isinstance(small, BartModel)
    assert shapes(small) == shapes(compact(masked))


def test_decoder_alone_is_refused():
    """A decoder without its encoder is not this family."""
    with pytest.raises(UnsupportedModelError, match="decoder"):
        family_of(BartForCausalLM(tiny_bart().config))
