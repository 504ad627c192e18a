"""An encoder-decoder that is made of an encoder computes what that computes."""

import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, BertModel, BertTokenizerFast

from pruning.errors import ConfigError, UnsupportedModelError
from pruning.warm_start import encoder_decoder
from tests.pruning.helpers import tiny_model

BART_EPSILON = 1e-5


def tiny_bert(*, layers: int = 4) -> BertModel:
    """A random BERT whose every parameter is random, float64, with what BART's normalisation adds to a variance."""
    model = tiny_model("bert", layers=layers, dtype=torch.float64).base_model
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = BART_EPSILON
    return model


def test_the_encoder_is_the_encoder(tiny_tokenizer: BertTokenizerFast):
    """Hidden states of the encoder are BERT's at every layer, for padded rows."""
    bert = tiny_bert()
    model = encoder_decoder(bert, tiny_tokenizer, decoder_layers=2)
    ids = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])

    theirs = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    ours = model.get_encoder()(ids, attention_mask=mask, output_hidden_states=True).hidden_states

    for one, other in zip(ours, theirs, strict=True):
        assert_close(one[mask.bool()], other[mask.bool()], atol=1e-12, rtol=1e-12)


def test_the_decoder_is_made_of_its_layers(tiny_tokenizer: BertTokenizerFast):
    """The decoder's layers are copies, cross-attention of self-attention, the last of the last; one table serves all three."""
    bert = tiny_bert()
    model = encoder_decoder(bert, tiny_tokenizer, decoder_layers=2)
    last, source = model.model.decoder.layers[-1], bert.encoder.layer[-1]

    assert_close(last.self_attn.k_proj.weight, source.attention.self.key.weight)
    assert_close(last.encoder_attn.out_proj.weight, source.attention.output.dense.weight)
    assert_close(last.fc2.weight, source.output.dense.weight)
    assert model.lm_head.weight is model.model.shared.weight is model.model.encoder.embed_tokens.weight
    assert last.encoder_attn.k_proj.weight.data_ptr() != last.self_attn.k_proj.weight.data_ptr()


def test_it_decodes_with_the_tokens_of_its_tokenizer(tiny_tokenizer: BertTokenizerFast):
    """Generation starts with [CLS] and ends with [SEP]; both are BERT's."""
    model = encoder_decoder(tiny_bert(), tiny_tokenizer, decoder_layers=1).float()

    found = model.generate(torch.randint(5, 60, (1, 9)), max_new_tokens=5, num_beams=1)[0].tolist()

    assert found[0] == tiny_tokenizer.cls_token_id
    assert found[-1] == tiny_tokenizer.sep_token_id


def test_what_it_cannot_start_from_is_refused(tiny_tokenizer: BertTokenizerFast):
    """Another family, other positions, or too few layers: one line each."""
    relative = BertModel(BertConfig(**{**tiny_bert().config.to_dict(), "position_embedding_type": "relative_key"}))
    for model in (tiny_model("roberta").base_model, relative):
        with pytest.raises(UnsupportedModelError):
            encoder_decoder(model, tiny_tokenizer, decoder_layers=1)
    with pytest.raises(ConfigError):
        encoder_decoder(tiny_bert(layers=2), tiny_tokenizer, decoder_layers=3)
