"""An encoder-decoder from a pretrained encoder, where there is none of its own kind to start from (Rothe et al., 2020, arXiv:1907.12461).

BERT's layers are BART's: normalised after each block, with the same activation. So the encoder computes what BERT computes, its
token types folded into its positions; the decoder is made of copies of BERT's layers, its cross-attention of their self-attention; and
one embedding table serves both and the language-model head. All that differs is what normalisation adds to a variance: 1e-5 in BART,
1e-12 in most BERTs.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration, BertConfig, PreTrainedModel, PreTrainedTokenizerBase

from pruning.errors import UnsupportedModelError
from pruning.families.bart import layers_to_copy

POSITION_OFFSET = 2
"""Rows of BART's position tables before the first position."""
FINAL_BIAS = "final_logits_bias"
_ATTENTION = {"q_proj": "self.query", "k_proj": "self.key", "v_proj": "self.value", "out_proj": "output.dense"}


def encoder_decoder(
    bert: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, decoder_layers: int, dropout: float = 0.0, attention_dropout: float = 0.0
) -> BartForConditionalGeneration:
    """A BART with BERT's encoder, and a decoder of `decoder_layers` copies of its layers, the first and the last among them.

    Args:
        bert: The base model, without a head.
        tokenizer: BERT's own; decoding starts with [CLS] and ends with [SEP].
        decoder_layers: At most as many as BERT has.
        dropout: Rate for hidden states and activations.
        attention_dropout: Rate for attention probabilities.

    Raises:
        UnsupportedModelError: The model is no BERT with absolute positions.
        ConfigError: It has fewer layers.
    """
    config = bert.config
    if not isinstance(config, BertConfig) or config.position_embedding_type != "absolute":
        raise UnsupportedModelError(f"cannot start from a {config.model_type} model: only from a BERT with absolute positions")
    copied = layers_to_copy(config.num_hidden_layers, decoder_layers)
    model = BartForConditionalGeneration(_bart_config(config, tokenizer, decoder_layers, dropout, attention_dropout))
    model = model.to(bert.dtype)
    model.load_state_dict(_weights(bert.state_dict(), config.num_hidden_layers, copied) | {FINAL_BIAS: model.final_logits_bias})
    model.generation_config.forced_eos_token_id = tokenizer.sep_token_id
    return model.eval()


def _bart_config(
    bert: BertConfig, tokenizer: PreTrainedTokenizerBase, decoder_layers: int, dropout: float, attention_dropout: float
) -> BartConfig:
    ends = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    return BartConfig(
        vocab_size=bert.vocab_size,
        d_model=bert.hidden_size,
        encoder_layers=bert.num_hidden_layers,
        decoder_layers=decoder_layers,
        encoder_attention_heads=bert.num_attention_heads,
        decoder_attention_heads=bert.num_attention_heads,
        encoder_ffn_dim=bert.intermediate_size,
        decoder_ffn_dim=bert.intermediate_size,
        max_position_embeddings=bert.max_position_embeddings,
        activation_function=bert.hidden_act,
        dropout=dropout,
        activation_dropout=dropout,
        attention_dropout=attention_dropout,
        decoder_start_token_id=tokenizer.cls_token_id,
        forced_eos_token_id=None,
        attn_implementation="sdpa",
        **ends,
    )


def _weights(bert: Mapping[str, Tensor], layers: int, copied: Iterable[int]) -> dict[str, Tensor]:
    """BART's weights by name, all of them from BERT's."""
    table = bert["embeddings.word_embeddings.weight"]
    tables = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head")
    found = {f"{name}.weight": table for name in tables}
    for stack in ("model.encoder", "model.decoder"):
        found[f"{stack}.embed_positions.weight"] = _positions(bert)
        found |= _linear(bert, "embeddings.LayerNorm", f"{stack}.layernorm_embedding")
    for layer in range(layers):
        found |= _layer(bert, layer, f"model.encoder.layers.{layer}", attentions=("self_attn",))
    for number, layer in enumerate(copied):
        found |= _layer(bert, layer, f"model.decoder.layers.{number}", attentions=("self_attn", "encoder_attn"))
    return found


def _positions(bert: Mapping[str, Tensor]) -> Tensor:
    """Positions with the first token type in them, behind the rows that BART does not use; `[offset + positions, hidden]`."""
    rows = bert["embeddings.position_embeddings.weight"] + bert["embeddings.token_type_embeddings.weight"][0]
    return torch.cat([rows.new_zeros(POSITION_OFFSET, rows.shape[1]), rows])


def _layer(bert: Mapping[str, Tensor], layer: int, name: str, *, attentions: Iterable[str]) -> dict[str, Tensor]:
    source = f"encoder.layer.{layer}"
    found = _linear(bert, f"{source}.intermediate.dense", f"{name}.fc1") | _linear(bert, f"{source}.output.dense", f"{name}.fc2")
    found |= _linear(bert, f"{source}.output.LayerNorm", f"{name}.final_layer_norm")
    for attention in attentions:
        for ours, theirs in _ATTENTION.items():
            found |= _linear(bert, f"{source}.attention.{theirs}", f"{name}.{attention}.{ours}")
        found |= _linear(bert, f"{source}.attention.output.LayerNorm", f"{name}.{attention}_layer_norm")
    return found


def _linear(bert: Mapping[str, Tensor], source: str, name: str) -> dict[str, Tensor]:
    return {f"{name}.{part}": bert[f"{source}.{part}"] for part in ("weight", "bias")}
