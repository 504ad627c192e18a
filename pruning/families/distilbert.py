"""DistilBERT: a layer is `attention.{q,k,v,out}_lin` and `ffn.{lin1,lin2}`; attention views by `n_heads` and `dim`."""

from collections.abc import Collection
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning.families.base import AttentionBlock, Constant, EncoderLayer, FeedForwardBlock
from pruning.families.editing import keep_layers


class DistilBertFamily:
    """Where the linears of DistilBERT are."""

    name = "distilbert"
    width_field = "hidden_dim"

    def layers(self, model: PreTrainedModel) -> list[EncoderLayer]:
        """See `Family`."""
        prefix = f"{model.base_model_prefix}." if model.base_model is not model else ""
        names = [f"{prefix}transformer.layer.{index}" for index in range(len(_layers(model)))]
        return [
            EncoderLayer(_attention(layer.attention, f"{name}.attention"), _feed_forward(layer.ffn, f"{name}.ffn"))
            for name, layer in zip(names, _layers(model), strict=True)
        ]

    def set_attention(self, model: PreTrainedModel, layer: int, block: AttentionBlock) -> None:
        """See `Family`."""
        attention = _layers(model)[layer].attention
        attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin = block.query, block.key, block.value, block.output
        attention.n_heads = block.heads
        attention.dim = block.heads * block.head_size

    def set_feed_forward(self, model: PreTrainedModel, layer: int, up: nn.Linear, down: nn.Linear) -> None:
        """See `Family`."""
        target = _layers(model)[layer].ffn
        target.lin1, target.lin2 = up, down

    def remove_attention(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """See `Family`."""
        _layers(model)[layer].attention = NoAttention(bias)

    def remove_feed_forward(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """See `Family`."""
        target = _layers(model)[layer].ffn
        target.lin1, target.activation, target.lin2 = nn.Identity(), nn.Identity(), Constant(bias)
        target.chunk_size_feed_forward = 0

    def drop_layers(self, model: PreTrainedModel, layers: Collection[int]) -> None:
        """See `Family`."""
        model.base_model.transformer.layer = keep_layers(model, _layers(model), layers)
        model.base_model.transformer.n_layers = len(_layers(model))


class NoAttention(nn.Module):
    """Stands where the attention was: its output projection's constant, and no attention probabilities."""

    def __init__(self, bias: Tensor) -> None:
        """Take the constant, float `[hidden]`."""
        super().__init__()
        self.out_lin = Constant(bias)

    def forward(self, query: Tensor, *, output_attentions: bool = False, **_: object) -> tuple[Tensor, ...] | tuple[Tensor, None]:
        """Return the constant, float `[hidden]`, in the tuple that a layer expects."""
        constant = self.out_lin(query)
        return (constant, None) if output_attentions else (constant,)


def _layers(model: PreTrainedModel) -> Any:  # noqa: ANN401 - the library's modules carry no types
    return model.base_model.transformer.layer


def _attention(attention: Any, name: str) -> AttentionBlock | None:  # noqa: ANN401
    if isinstance(attention, NoAttention):
        return None
    return AttentionBlock(name, attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, attention.attention_head_size)


def _feed_forward(feed_forward: Any, name: str) -> FeedForwardBlock | None:  # noqa: ANN401
    if isinstance(feed_forward.lin2, Constant):
        return None
    return FeedForwardBlock(name, feed_forward.lin1, feed_forward.lin2, feed_forward.activation)
