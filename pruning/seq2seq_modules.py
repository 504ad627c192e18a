"""BART as modules of our own over the model's weights, of which `pruning.seq2seq_export` makes graphs.

transformers' decoder takes one position for all rows, so a request cannot join while others are at their tenth token. Here every row has
a position, a mask and a cache of its own. The beams of a request share its cross-attention keys and values: queries are gathered by
request, so nothing is copied per beam, and requests of different numbers of beams go together. The decoder gives the keys and values of
the new tokens alone: a graph that appended them to the cache would copy all of it at each step, for 6 layers of 12 heads of 64 and 142
tokens 5 MB per row. The caller keeps the cache.

Heads may differ in every attention, and an attention or a feed-forward that was removed is the constant that it left.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from pruning.families.base import Constant

KeysAndValues = tuple[Tensor, Tensor]


class Encoder(nn.Module):
    """The encoder, and the projections of its states that cross-attention reads. Attributes are named as the model's."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        """States [requests, source, hidden], then keys and values [requests, heads, source, head_size] of each cross-attention."""
        encoder = self.model.encoder
        positions = encoder.embed_positions.weight[encoder.embed_positions.offset :][: input_ids.shape[1]]
        states = encoder.layernorm_embedding(encoder.embed_tokens(input_ids) + positions)
        bias = _bias(attention_mask)[:, None, None]
        for layer in encoder.layers:
            states = layer.self_attn_layer_norm(states + _attend(Attention(layer.self_attn), states, bias))
            states = layer.final_layer_norm(states + _feed_forward(layer, states))
        cross = [Attention(layer.encoder_attn) for layer in self.model.decoder.layers]
        pairs = [attention.keys_and_values(states) for attention in cross if attention.exists]
        return states, *(tensor for pair in pairs for tensor in pair)


class Decoder(nn.Module):
    """The decoder and the language-model head, over caches that the caller keeps. Attributes are named as the model's."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model.model
        self.lm_head = model.lm_head
        self.register_buffer("final_logits_bias", model.final_logits_bias[0])

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_mask: Tensor,
        encoder_attention_mask: Tensor,
        request_queries: Tensor,
        query_slots: Tensor,
        *caches: Tensor,
    ) -> tuple[Tensor, ...]:
        """Logits [rows, vocabulary] of the last new tokens, then keys and values [rows, heads, new, head_size] of the new ones."""
        decoder, cache, new = self.model.decoder, iter(caches), list[Tensor]()
        attentions = [Attention(layer.self_attn) for layer in decoder.layers]
        pasts = [(next(cache), next(cache)) if attention.exists else None for attention in attentions]
        bias, cross_bias = _causal_bias(attention_mask, position_ids), _bias(encoder_attention_mask)[:, None, None, None]
        positions = F.embedding(position_ids + decoder.embed_positions.offset, decoder.embed_positions.weight)
        states = decoder.layernorm_embedding(decoder.embed_tokens(input_ids) + positions)
        for layer, attention, past in zip(decoder.layers, attentions, pasts, strict=True):
            context = attention.constant if past is None else _attend_to_past(attention, states, past, bias, new)
            states = layer.self_attn_layer_norm(states + context)
            cross = Attention(layer.encoder_attn)
            if cross.exists:
                context = _attend_to_source(cross, states, (next(cache), next(cache)), cross_bias, request_queries, query_slots)
            else:
                context = cross.constant
            states = layer.encoder_attn_layer_norm(states + context)
            states = layer.final_layer_norm(states + _feed_forward(layer, states))
        return F.linear(states[:, -1], self.lm_head.weight, cast(Tensor, self.final_logits_bias)), *new


class Attention:
    """An attention of the model, or the constant that it left."""

    def __init__(self, module: Any) -> None:  # noqa: ANN401 - the library's modules carry no types
        self._module = module
        self.exists = not isinstance(module.out_proj, Constant)

    @property
    def constant(self) -> Tensor:
        """Float [hidden]."""
        return cast(Tensor, self._module.out_proj.bias)

    @property
    def head_size(self) -> int:
        """Columns of one head."""
        return int(self._module.head_dim)

    @property
    def heads(self) -> int:
        """Heads that it has left."""
        return int(self._module.q_proj.out_features) // self.head_size

    @property
    def width(self) -> int:
        """Columns of all heads."""
        return self.heads * self.head_size

    def query(self, states: Tensor) -> Tensor:
        """[rows, new, hidden] -> [rows, new, width], scaled."""
        return cast(Tensor, self._module.q_proj(states) * self.head_size**-0.5)

    def keys_and_values(self, states: Tensor) -> KeysAndValues:
        """[rows, new, hidden] -> two of [rows, heads, new, head_size]."""
        return self.split(self._module.k_proj(states)), self.split(self._module.v_proj(states))

    def output(self, context: Tensor) -> Tensor:
        """[rows, new, width] -> [rows, new, hidden]."""
        return cast(Tensor, self._module.out_proj(context))

    def split(self, states: Tensor) -> Tensor:
        """[rows, new, width] -> [rows, heads, new, head_size]."""
        return states.reshape(states.shape[0], states.shape[1], self.heads, self.head_size).transpose(1, 2)

    def join(self, context: Tensor) -> Tensor:
        """[rows, heads, new, head_size] -> [rows, new, width]."""
        swapped = context.transpose(1, 2)
        return swapped.reshape(swapped.shape[0], swapped.shape[1], self.width)


def _attend(attention: Attention, states: Tensor, bias: Tensor) -> Tensor:
    """Self-attention of the encoder, [requests, source, hidden], or the constant."""
    if not attention.exists:
        return attention.constant
    keys, values = attention.keys_and_values(states)
    weights = F.softmax(attention.split(attention.query(states)) @ keys.transpose(2, 3) + bias, dim=-1)
    return attention.output(attention.join(weights @ values))


def _attend_to_past(attention: Attention, states: Tensor, past: KeysAndValues, bias: Tensor, new: list[Tensor]) -> Tensor:
    """Self-attention over cache and new tokens, [rows, new, hidden]; the new keys and values are appended to `new`.

    Scores are put together instead of caches, and the sum over values is taken in two parts: the cache is read and never copied.
    """
    query, (keys, values) = attention.split(attention.query(states)), attention.keys_and_values(states)
    new += [keys, values]
    scores = torch.cat([query @ past[0].transpose(2, 3), query @ keys.transpose(2, 3)], dim=-1)
    weights = F.softmax(scores + bias, dim=-1)  # [rows, heads, new, past + new]
    length = past[0].shape[2]
    return attention.output(attention.join(weights[..., :length] @ past[1] + weights[..., length:] @ values))


def _attend_to_source(
    attention: Attention, states: Tensor, cross: KeysAndValues, bias: Tensor, request_queries: Tensor, query_slots: Tensor
) -> Tensor:
    """Cross-attention, [rows, new, hidden]: the queries of a request over its one set of keys and values.

    Each query is a product of its own. As rows of one product, a single one would be rounded otherwise than several, and what a request
    gets would depend on how many beams others have.
    """
    query = attention.split(F.embedding(request_queries, attention.query(states).reshape(-1, attention.width)))
    keys, values = (tensor[:, :, None] for tensor in cross)
    weights = F.softmax(query[:, :, :, None] @ keys.transpose(3, 4) + bias, dim=-1)  # [requests, heads, queries, 1, source]
    context = (weights @ values).transpose(1, 2).reshape(-1, attention.width)
    return attention.output(F.embedding(query_slots, context))


def _feed_forward(layer: Any, states: Tensor) -> Tensor:  # noqa: ANN401
    if isinstance(layer.fc2, Constant):
        return cast(Tensor, layer.fc2.bias)
    return cast(Tensor, layer.fc2(layer.activation_fn(layer.fc1(states))))


def _bias(mask: Tensor) -> Tensor:
    """What is added to scores: 0 where the mask is, else the lowest finite number, so that nothing becomes NaN where no mask is."""
    return torch.where(mask.bool(), torch.tensor(0.0), torch.tensor(torch.finfo(torch.float32).min))


def _causal_bias(attention_mask: Tensor, position_ids: Tensor) -> Tensor:
    """[rows, past + new] and [rows, new] -> [rows, 1, new, past + new]."""
    past = attention_mask.shape[1] - position_ids.shape[1]
    key_positions = torch.cat([torch.zeros_like(attention_mask[:, :past]), position_ids], dim=1)
    causal = key_positions[:, None, :] <= position_ids[:, :, None]  # [rows, new, past + new]
    return _bias(causal & attention_mask[:, None, :].bool())[:, None]
