"""BERT and RoBERTa: the same encoder under two names.

A layer is `attention.self.{query,key,value}`, `attention.output.dense`, `intermediate.dense`, `output.dense`. The self-attention
module views its projections by `num_attention_heads` and `all_head_size`, in the eager and in the SDPA implementation alike, so
both follow whatever the layer has left.
"""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning.families.base import AttentionBlock, Constant, EncoderLayer, FeedForwardBlock
from pruning.families.editing import keep_layers


class BertFamily:
    """Where the linears of BERT-like encoders are."""

    width_field = "intermediate_size"

    def __init__(self, name: str) -> None:
        """Take the family's name, the `model_type` of its config."""
        self.name = name

    def layers(self, model: PreTrainedModel) -> list[EncoderLayer]:
        """See `Family`."""
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        names = [f"{prefix}encoder.layer.{index}" for index in range(len(_layers(model)))]
        return [
            EncoderLayer(_attention(layer, f"{name}.attention"), _feed_forward(layer, name))
            for name, layer in zip(names, _layers(model), strict=True)
        ]

    def set_attention(self, model: PreTrainedModel, layer: int, block: AttentionBlock) -> None:
        """See `Family`."""
        attention = _layers(model)[layer].attention
        attention.self.query, attention.self.key, attention.self.value = block.query, block.key, block.value
        attention.self.num_attention_heads = block.heads
        attention.self.all_head_size = block.heads * block.head_size
        attention.output.dense = block.output

    def set_feed_forward(self, model: PreTrainedModel, layer: int, up: nn.Linear, down: nn.Linear) -> None:
        """See `Family`."""
        target = _layers(model)[layer]
        target.intermediate.dense, target.output.dense = up, down

    def remove_attention(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """See `Family`."""
        attention = _layers(model)[layer].attention
        attention.self, attention.output.dense = NoAttention(), Constant(bias)

    def remove_feed_forward(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """See `Family`."""
        target = _layers(model)[layer]
        target.intermediate, target.output.dense = nn.Identity(), Constant(bias)

    def drop_layers(self, model: PreTrainedModel, layers: Collection[int]) -> None:
        """See `Family`."""
        model.base_model.encoder.layer = keep_layers(model, _layers(model), layers)


class NoAttention(nn.Module):
    """Stands where the self-attention was: hands its input on to the output projection's constant."""

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        """Return the input, float `[batch, sequence, hidden]`, and no attention probabilities."""
        return hidden_states, None


def _layers(model: PreTrainedModel) -> Any:  # noqa: ANN401 - the library's modules carry no types
    return model.base_model.encoder.layer


def _attention(layer: Any, name: str) -> AttentionBlock | None:  # noqa: ANN401
    attention = layer.attention.self
    if isinstance(attention, NoAttention):
        return None
    return AttentionBlock(
        name, attention.query, attention.key, attention.value, layer.attention.output.dense, attention.attention_head_size
    )


def _feed_forward(layer: Any, name: str) -> FeedForwardBlock | None:  # noqa: ANN401
    if isinstance(layer.output.dense, Constant):
        return None
    return FeedForwardBlock(name, layer.intermediate.dense, layer.output.dense, layer.intermediate.intermediate_act_fn)
