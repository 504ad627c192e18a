"""Dead groups leave and their biases are folded: a compact model computes what the masked one did.

A head is dead when each of its columns is: a row of V is zero, or the column of O is. What a zero row of V still adds is `b_V`, since
attention rows sum to 1, so `b_O += W_O[:, head] @ b_V[head]`. A zero Q or K is uniform attention, not absence. A neuron is dead
when its row of the up-projection or its column of the down-projection is zero; `b_down += W_down[:, j] * act(b_up[j])`. A block
with nothing left is replaced by its constant. Attention dropout breaks the sum to 1, so the equality is that of evaluation mode.
"""

import copy
from collections.abc import Collection

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning.errors import ConfigError
from pruning.families import AttentionBlock, Family, FeedForwardBlock, family_of
from pruning.structure import LayerStructure, Structure


@torch.no_grad()
def compact(model: PreTrainedModel, *, drop_layers: Collection[int] = ()) -> PreTrainedModel:
    """A smaller copy of `model` with the same outputs; the model itself is left as it is.

    Args:
        model: A masked model: what was removed from it is zero. It may be compact already.
        drop_layers: Layers that leave whole, residual included, in the numbering of `model`. Unlike the rest, this changes outputs.
    """
    family = family_of(model)
    _check_layers(drop_layers, len(family.layers(model)))
    small = copy.deepcopy(model)
    for index, layer in enumerate(family.layers(small)):
        if layer.attention:
            _compact_attention(family, small, index, layer.attention)
        if layer.feed_forward:
            _compact_feed_forward(family, small, index, layer.feed_forward)
    if drop_layers:
        family.drop_layers(small, drop_layers)
    return small.train(model.training)  # what took a removed block's place follows the mode too


def live_heads(block: AttentionBlock) -> Tensor:
    """Whether each head does anything but add a constant; bool `[heads]`."""
    columns = block.value.weight.any(dim=1) & block.output.weight.any(dim=0)
    return columns.view(block.heads, block.head_size).any(dim=1)


def live_neurons(block: FeedForwardBlock) -> Tensor:
    """Whether each neuron does anything but add a constant; bool `[neurons]`."""
    return block.up.weight.any(dim=1) & block.down.weight.any(dim=0)


def live_structure(model: PreTrainedModel) -> Structure:
    """Heads and neurons that compaction leaves, in the numbering of the model as it is."""
    return tuple(
        LayerStructure(
            heads=_indices(live_heads(layer.attention)) if layer.attention else (),
            neurons=_indices(live_neurons(layer.feed_forward)) if layer.feed_forward else (),
        )
        for layer in family_of(model).layers(model)
    )


def _indices(flags: Tensor) -> tuple[int, ...]:
    return tuple(flags.nonzero()[:, 0].tolist())


def select(linear: nn.Linear, *, rows: Tensor | None = None, columns: Tensor | None = None, bias: Tensor | None = None) -> nn.Linear:
    """A linear with those rows and columns only, and that bias if given.

    Args:
        linear: Weight `[out, in]`.
        rows: bool `[out]` or indices; all by default. The bias follows.
        columns: bool `[in]` or indices; all by default.
        bias: float `[rows kept]`, in the place of the linear's own.
    """
    weight = linear.weight if rows is None else linear.weight[rows]
    weight = weight if columns is None else weight[:, columns]
    kept_bias = linear.bias if rows is None else linear.bias[rows]
    selected = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    selected.weight = nn.Parameter(weight.detach().clone(), linear.weight.requires_grad)
    selected.bias = nn.Parameter((kept_bias if bias is None else bias).detach().clone(), linear.bias.requires_grad)
    return selected


def _compact_attention(family: Family, model: PreTrainedModel, layer: int, block: AttentionBlock) -> None:
    live = live_heads(block)
    if live.all():
        return
    kept = live.repeat_interleave(block.head_size)  # [heads] -> [heads * head_size]
    bias = block.output.bias + block.output.weight[:, ~kept] @ block.value.bias[~kept]
    if not live.any():
        family.remove_attention(model, layer, bias)
        return
    query, key, value = (select(linear, rows=kept) for linear in (block.query, block.key, block.value))
    output = select(block.output, columns=kept, bias=bias)
    family.set_attention(model, layer, AttentionBlock(block.name, query, key, value, output, block.head_size))


def _compact_feed_forward(family: Family, model: PreTrainedModel, layer: int, block: FeedForwardBlock) -> None:
    kept = live_neurons(block)
    if kept.all():
        return
    bias = block.down.bias + block.down.weight[:, ~kept] @ block.activation(block.up.bias[~kept])
    if not kept.any():
        family.remove_feed_forward(model, layer, bias)
        return
    family.set_feed_forward(model, layer, select(block.up, rows=kept), select(block.down, columns=kept, bias=bias))


def _check_layers(layers: Collection[int], count: int) -> None:
    unknown = sorted(index for index in layers if not 0 <= index < count)
    if unknown:
        raise ConfigError(f"cannot drop layer {unknown[0]}: the model has layers 0 to {count - 1}")
    if count and len(set(layers)) == count:
        raise ConfigError(f"cannot drop all {count} layers: at least one has to stay")
