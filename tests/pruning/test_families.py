"""Families know where the linears are and take blocks out."""

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from pruning.errors import UnsupportedModelError
from pruning.families import family_of
from tests.pruning.helpers import ModelFactory, outputs_of, random_batch


def test_blocks_hold_the_linears_of_the_model(tiny_model: ModelFactory, family: str):
    """The shapes of a block's linears are those of the config."""
    layers = family_of(model := tiny_model(family)).layers(model)
    assert len(layers) == 3
    attention, feed_forward = layers[1].attention, layers[1].feed_forward
    assert (attention.heads, attention.head_size, feed_forward.neurons) == (4, 8, 37)
    assert feed_forward.up.weight.shape == (37, 32)
    assert {id(attention.query), id(attention.key), id(attention.value), id(attention.output)} <= {id(m) for m in model.modules()}


def test_a_block_is_named_after_its_place(tiny_model: ModelFactory, family: str):
    """The module of a block's name contains the block's linears."""
    model = tiny_model(family)
    for layer in family_of(model).layers(model):
        for block, linear in ((layer.attention, layer.attention.query), (layer.feed_forward, layer.feed_forward.down)):
            assert any(module is linear for module in model.get_submodule(block.name).modules())


def test_query_key_and_value_are_not_mixed_up(tiny_model: ModelFactory, family: str):
    """A zero value projection silences the attention; a zero query or key does not."""
    batch = random_batch(family)
    for part, silent in (("query", False), ("key", False), ("value", True)):
        model = tiny_model(family)
        attention = family_of(model).layers(model)[0].attention
        attention.output.bias.data.zero_()
        attention.value.bias.data.zero_()
        getattr(attention, part).weight.data.zero_()
        heard = []
        attention.output.register_forward_hook(lambda _, __, output, heard=heard: heard.append(output.abs().max().item()))
        outputs_of(model, batch)
        assert (heard[0] == 0) == silent


def test_activation_is_the_one_between_up_and_down(tiny_model: ModelFactory, family: str):
    """`activation(up(x))` is what `down` is given."""
    model = tiny_model(family)
    block = family_of(model).layers(model)[0].feed_forward
    seen = {}
    block.up.register_forward_hook(lambda _, __, output: seen.update(up=output))
    block.down.register_forward_pre_hook(lambda _, inputs: seen.update(down=inputs[0]))
    outputs_of(model, random_batch(family))
    torch.testing.assert_close(block.activation(seen["up"]), seen["down"])


def test_removed_blocks_are_none(tiny_model: ModelFactory, family: str):
    """Blocks that were removed are absent from the layers, and the others stay."""
    known = family_of(model := tiny_model(family))
    known.remove_attention(model, 0, torch.zeros(32))
    known.remove_feed_forward(model, 2, torch.zeros(32))
    layers = known.layers(model)
    assert [layer.attention is None for layer in layers] == [True, False, False]
    assert [layer.feed_forward is None for layer in layers] == [False, False, True]


def test_removed_block_leaves_one_bias(tiny_model: ModelFactory, family: str):
    """Of a removed block the state keeps nothing but a constant."""
    known = family_of(model := tiny_model(family))
    before = set(model.state_dict())
    known.remove_attention(model, 1, torch.zeros(32))
    known.remove_feed_forward(model, 1, torch.zeros(32))
    after = set(model.state_dict())
    assert after < before
    assert len(before - after) == 10


def test_removed_blocks_give_no_attention_probabilities(tiny_model: ModelFactory, family: str):
    """With `output_attentions`, a removed attention is None among the others."""
    model = tiny_model(family, attention="eager")
    family_of(model).remove_attention(model, 1, torch.zeros(32))
    attentions = model(**random_batch(family), output_attentions=True).attentions
    assert [probabilities is None for probabilities in attentions] == [False, True, False]


def test_removed_feed_forward_runs_in_chunks(tiny_model: ModelFactory, family: str):
    """A removed feed-forward gives the same when the config asks for chunks."""
    batch = random_batch(family)
    results = []
    for chunk in (0, 1):
        model = tiny_model(family)
        for module in model.modules():
            if hasattr(module, "chunk_size_feed_forward"):
                module.chunk_size_feed_forward = chunk
        family_of(model).remove_feed_forward(model, 0, torch.ones(32))
        results.append(outputs_of(model.eval(), batch))
    torch.testing.assert_close(results[0], results[1])


def test_dropping_layers_renumbers_the_rest(tiny_model: ModelFactory, family: str):
    """After dropping layer 1 of 3, layer 2 is layer 1 and the config counts 2."""
    model = tiny_model(family)
    last = family_of(model).layers(model)[2].attention.query
    family_of(model).drop_layers(model, [1])
    layers = family_of(model).layers(model)
    assert len(layers) == model.config.num_hidden_layers == 2
    assert layers[1].attention.query is last


def test_unknown_family_is_refused():
    """A model that no family knows is refused with the list of those that are."""
    model = GPT2Model(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=10, n_positions=8))
    with pytest.raises(UnsupportedModelError, match=r"'gpt2' .* bert, distilbert, roberta"):
        family_of(model)


def test_decoder_is_refused():
    """A BERT set up as a decoder is refused: its attention is causal and may be crossed."""
    model = BertModel(
        BertConfig(is_decoder=True, num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=10)
    )
    with pytest.raises(UnsupportedModelError, match="decoder"):
        family_of(model)


def test_bare_encoder_has_layers_too():
    """A model without a head is its own base model, and its blocks' names hold no prefix."""
    model = BertModel(BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=10))
    (layer,) = family_of(model).layers(model)
    assert model.get_submodule(layer.attention.name) is model.encoder.layer[0].attention
