"""What every model family says: where the linear layers of its blocks are, and how a block shrinks or leaves.

Importance, search, reconstruction and compaction are written against these types alone and never name a family. A family is one
file beside this one and one line in `families/__init__.py`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

Activation = Callable[[Tensor], Tensor]
Side = Literal["encoder", "decoder", "cross"]


@dataclass(frozen=True)
class AttentionBlock:
    """Attention of one layer; the columns of a head are `head * head_size` to `(head + 1) * head_size`.

    Attributes:
        name: Where the block is inside the model, as in `named_modules`.
        query: Linear of weight `[heads * head_size, hidden]`; `key` and `value` alike.
        key: See `query`.
        value: See `query`.
        output: Linear of weight `[hidden, heads * head_size]`. Its input is what gates multiply.
        head_size: Columns of one head.
    """

    name: str
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    head_size: int

    @property
    def heads(self) -> int:
        """Number of heads that the block has now."""
        return self.output.in_features // self.head_size


@dataclass(frozen=True)
class FeedForwardBlock:
    """Feed-forward part of one layer: `down(activation(up(x)))`.

    Attributes:
        name: Where the block is inside the model, as in `named_modules`.
        up: Linear of weight `[neurons, hidden]`.
        down: Linear of weight `[hidden, neurons]`. Its input is what gates multiply.
        activation: The elementwise function between them.
    """

    name: str
    up: nn.Linear
    down: nn.Linear
    activation: Activation

    @property
    def neurons(self) -> int:
        """Number of neurons that the block has now."""
        return self.down.in_features


@dataclass(frozen=True)
class EncoderLayer:
    """An attention and the feed-forward behind it; None stands for a block that was removed, of which only a constant is left.

    A decoder layer is two of these, so that nothing that goes through the layers of a model can forget its cross-attention: the
    self-attention, which never has a feed-forward, and the cross-attention with the feed-forward.

    Attributes:
        attention: See `AttentionBlock`.
        feed_forward: See `FeedForwardBlock`.
        side: "encoder"; "decoder" for the self-attention of a decoder layer, "cross" for its cross-attention and feed-forward.
    """

    attention: AttentionBlock | None
    feed_forward: FeedForwardBlock | None
    side: Side = "encoder"


class Family(Protocol):
    """One model family. Methods that change a model change it in place.

    Attributes:
        name: The family's name, which is the config's `model_type`.
        width_field: The config's field that holds the neurons of a dense feed-forward.
    """

    name: str
    width_field: str

    def layers(self, model: PreTrainedModel) -> list[EncoderLayer]:
        """Blocks of every layer, first layer first; those of an encoder before those of its decoder."""

    def set_attention(self, model: PreTrainedModel, layer: int, block: AttentionBlock) -> None:
        """Put `block`'s linears, of any positive number of heads, in the place of the layer's attention."""

    def set_feed_forward(self, model: PreTrainedModel, layer: int, up: nn.Linear, down: nn.Linear) -> None:
        """Put these linears, of any positive number of neurons, in the place of the layer's feed-forward."""

    def remove_attention(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """Replace the layer's attention by the constant `bias`, float `[hidden]`; the residual and its norm stay."""

    def remove_feed_forward(self, model: PreTrainedModel, layer: int, bias: Tensor) -> None:
        """Replace the layer's feed-forward by the constant `bias`, float `[hidden]`; the residual and its norm stay."""

    def drop_layers(self, model: PreTrainedModel, layers: Collection[int]) -> None:
        """Take whole layers out, residual and norms included; the others move up and the config follows.

        Raises:
            ConfigError: nothing would be left, or half a decoder layer.
        """


class Constant(nn.Module):
    """What is left of a removed block's output projection: its bias, whatever the input.

    *Shape:* `[batch, sequence, hidden]` -> `[hidden]`, which the residual addition broadcasts, so that an exported graph holds one
    addition and no shape arithmetic. While training it is expanded first, for dropout to draw each position on its own.
    """

    def __init__(self, bias: Tensor) -> None:
        """Take the constant, float `[hidden]`."""
        super().__init__()
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the bias."""
        return self.bias.expand_as(hidden_states) if self.training else self.bias
