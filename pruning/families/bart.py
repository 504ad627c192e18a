"""BART: an encoder and a decoder, whose layers are `self_attn`, `encoder_attn` (the decoder's cross-attention), `fc1` and `fc2`.

Attention views its projections by `head_dim` alone, in the eager and in the SDPA implementation alike, so every attention may have a
number of heads of its own, and so may its cache. How many tokens were decoded is read from the cache of the first decoder layer:
self-attention that was removed still counts them.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, PreTrainedModel

from pruning.errors import ConfigError
from pruning.families.base import AttentionBlock, Constant, EncoderLayer, FeedForwardBlock, Side
from pruning.families.editing import DENSE_DECODER_LAYERS_FIELD, DENSE_LAYERS_FIELD, dense_decoder_layers, dense_layers

LAYERS_TO_COPY = {
    (12, 6): (0, 2, 4, 7, 9, 11),
    (12, 4): (0, 4, 8, 11),
    (12, 3): (0, 6, 11),
    (6, 4): (0, 1, 3, 5),
    (6, 3): (0, 2, 5),
    (6, 2): (0, 5),
}
"""Layers that a shallower model is made of, by how many there are and how many stay (Shleifer & Rush, 2020, arXiv:2010.13002)."""


def layers_to_copy(layers: int, kept: int) -> tuple[int, ...]:
    """Which layers a shallower encoder or decoder is made of: those of `LAYERS_TO_COPY`, else evenly spread with the first and last."""
    if not 1 <= kept <= layers:
        raise ConfigError(f"cannot keep {kept} of {layers} layers; choose 1 to {layers}")
    spread = np.linspace(0, layers - 1, kept).round().astype(int).tolist()
    return LAYERS_TO_COPY.get((layers, kept), tuple(spread))


def layers_to_drop(model: PreTrainedModel, *, encoder_layers: int | None = None, decoder_layers: int | None = None) -> tuple[int, ...]:
    """What `compact` has to drop, in the numbering of `BartFamily.layers`, for a model of that many layers; None for all there are.

    Raises:
        ConfigError: there are not as many.
    """
    encoder, decoder = _stacks(model)
    kept_encoder = layers_to_copy(len(encoder), len(encoder) if encoder_layers is None else encoder_layers)
    kept_decoder = layers_to_copy(len(decoder), len(decoder) if decoder_layers is None else decoder_layers)
    return tuple(
        number
        for number, place in enumerate(_places(model))
        if place.position not in (kept_encoder if place.side == "encoder" else kept_decoder)
    )


class BartFamily:
    """Where the linears of BART are.

    After the encoder's, `layers` lists two for each decoder layer: "decoder", its self-attention, and "cross", its cross-attention and
    feed-forward.
    """

    name = "bart"
    width_field = "encoder_ffn_dim"

    def layers(self, model: PreTrainedModel) -> list[EncoderLayer]:
        """See `Family`."""
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        return [
            EncoderLayer(_attention(place, prefix), None if place.side == "decoder" else _feed_forward(place, prefix), place.side)
            for place in _places(model)
        ]

    def set_attention(self, model: PreTrainedModel, layer: int, block: AttentionBlock) -> None:
        """See `Family`."""
        attention = _places(model)[layer].attention
        attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj = block.query, block.key, block.value, block.output
        attention.num_heads = block.heads

    def set_feed_forward(self, model: PreTrainedModel, layer: int, up: nn.Linear, down: nn.Linear) -> None:
        """See `Family`."""
        target = _places(model)[layer].layer
        target.fc1, target.fc2 = up, down

    def remove_attention(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """See `Family`."""
        place = _places(model)[layer]
        setattr(place.layer, place.attribute, NoAttention(bias, place.position))

    def remove_feed_forward(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """See `Family`."""
        target = _places(model)[layer].layer
        target.fc1, target.activation_fn, target.fc2 = nn.Identity(), nn.Identity(), Constant(bias)

    def drop_layers(self, model: PreTrainedModel, layers: Collection[int]) -> None:
        """See `Family`."""
        places = _places(model)
        dropped = {
            side: {places[number].position for number in layers if places[number].side == side} for side in ("encoder", "decoder", "cross")
        }
        halves = dropped["decoder"] ^ dropped["cross"]
        if halves:
            raise ConfigError(
                f"cannot drop half of decoder layer {min(halves)}: it is layers {_numbers(places, min(halves))} of the model; drop both"
            )
        encoder, decoder = _stacks(model)
        encoder, decoder = _without(encoder, dropped["encoder"], "encoder"), _without(decoder, dropped["decoder"], "decoder")
        config = model.config
        setattr(config, DENSE_LAYERS_FIELD, dense_layers(model))
        setattr(config, DENSE_DECODER_LAYERS_FIELD, dense_decoder_layers(config))
        config.encoder_layers = config.num_hidden_layers = len(encoder)
        config.decoder_layers = len(decoder)
        model.base_model.encoder.layers, model.base_model.decoder.layers = encoder, decoder
        for place in _places(model):
            place.attention.layer_idx = place.position


class NoAttention(nn.Module):
    """Stands where an attention was: its output projection's constant, and no attention probabilities."""

    def __init__(self, bias: Tensor, layer_idx: int) -> None:
        """Take the constant, float `[hidden]`, and the position of the layer in its stack."""
        super().__init__()
        self.out_proj = Constant(bias)
        self.layer_idx = layer_idx

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache_position: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        """Return the constant, float `[hidden]`, and no attention probabilities."""
        if past_key_values is not None and key_value_states is None:
            self._count(hidden_states, past_key_values, cache_position)
        return self.out_proj(hidden_states), None

    def _count(self, hidden_states: Tensor, cache: Cache, position: Tensor | None) -> None:
        """Let the cache of self-attention grow by one number for each token: what is empty, or 0, would not be counted."""
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        batch, length = hidden_states.shape[:2]
        token = torch.ones(batch, 1, length, 1, dtype=hidden_states.dtype, device=hidden_states.device)
        own.update(token, token, self.layer_idx, {"cache_position": position})


class _Place(NamedTuple):
    """Where one entry of `layers` is: the `position`-th layer of its stack, and the attribute of it that is the attention."""

    side: Side
    position: int
    layer: Any
    attribute: str

    @property
    def attention(self) -> Any:  # noqa: ANN401 - the library's modules carry no types
        return getattr(self.layer, self.attribute)

    @property
    def name(self) -> str:
        """Of the layer, inside the base model."""
        return f"{'encoder' if self.side == 'encoder' else 'decoder'}.layers.{self.position}"


def _places(model: PreTrainedModel) -> list[_Place]:
    encoder, decoder = _stacks(model)
    places = [_Place("encoder", index, layer, "self_attn") for index, layer in enumerate(encoder)]
    for index, layer in enumerate(decoder):
        places += [_Place("decoder", index, layer, "self_attn"), _Place("cross", index, layer, "encoder_attn")]
    return places


def _stacks(model: PreTrainedModel) -> tuple[Any, Any]:
    return model.base_model.encoder.layers, model.base_model.decoder.layers


def _attention(place: _Place, prefix: str) -> AttentionBlock | None:
    attention = place.attention
    if isinstance(attention, NoAttention):
        return None
    name = f"{prefix}{place.name}.{place.attribute}"
    return AttentionBlock(name, attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, attention.head_dim)


def _feed_forward(place: _Place, prefix: str) -> FeedForwardBlock | None:
    layer = place.layer
    if isinstance(layer.fc2, Constant):
        return None
    return FeedForwardBlock(f"{prefix}{place.name}", layer.fc1, layer.fc2, layer.activation_fn)


def _numbers(places: list[_Place], index: int) -> str:
    return " and ".join(str(number) for number, place in enumerate(places) if place.side != "encoder" and place.position == index)


def _without(layers: nn.ModuleList, dropped: Collection[int], stack: str) -> nn.ModuleList:
    if len(dropped) == len(layers):
        raise ConfigError(f"cannot drop all {len(layers)} layers of the {stack}: at least one has to stay")
    return nn.ModuleList(layer for index, layer in enumerate(layers) if index not in dropped)
