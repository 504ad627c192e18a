"""Masks on a model: which weights get one, at which granularity, and what becomes of them in the end.

A mask is a parametrization of a linear's weight, so every model that holds the linear trains through it and no module is replaced. Groups
that die together (a head; a neuron) have one gate, at the columns by which they reach the residual stream; their other weights follow when
the masks are baked in. Attention that loses its queries or keys is uniform, not absent (see `pruning.compaction`): so a head that has
lost either gives up its values too. What compaction will remove because its partner is gone counts as pruned while the model trains.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from pruning.config import BlockSize, Granularity
from pruning.errors import ConfigError
from pruning.families import AttentionBlock, EncoderLayer, family_of
from pruning.granularity import Grid
from pruning.methods.base import Mask, PruningMethod
from pruning.structure import LayerStructure, Structure

Kind = Literal["attention", "feed_forward", "decoder_attention", "decoder_feed_forward"]
_OUTWARD = ("output", "heads", "down", "neurons")
"""Parts whose columns are the heads or neurons: they project back into the residual stream."""


@dataclass(frozen=True)
class Masked:
    """One mask in its place.

    Attributes:
        kind: of the block that the linear is part of; a decoder's cross-attention is attention of the decoder.
        name: of the block and the linear.
        layer: that the block is part of, counted from 0.
        part: query, key, value, output, heads; up, down, neurons.
        linear: whose weight is masked.
        mask: its parametrization.
        followers: linears whose rows live and die with the mask's columns, with the rows that each group has.
    """

    kind: Kind
    name: str
    layer: int
    part: str
    linear: nn.Linear
    mask: Mask
    followers: tuple[tuple[nn.Linear, Grid], ...] = ()

    @property
    def weight(self) -> Tensor:
        """The weight as if there were no mask, `[out, in]`."""
        original: Tensor = self.linear.parametrizations.weight.original  # type: ignore[union-attr, assignment]
        return original

    def magnitudes(self) -> Tensor:
        """Mean square of each group's weights as if there were no mask, those that follow it included, fp32 of the gates' shape."""
        squares = self.mask.grid.pool(self.weight.float() ** 2)
        for linear, rows in self.followers:
            squares = squares + rows.pool(linear.weight.float() ** 2).T
        return squares / self.mask.members


class Masks:
    """All masks of a model, and the method that opens and closes them."""

    def __init__(self, method: PruningMethod, masked: Sequence[Masked], idle: Sequence["_Idle"]) -> None:
        """Use `attach`."""
        self.method, self.masked = method, tuple(masked)
        self._idle = tuple(idle)

    @property
    def scores(self) -> list[nn.Parameter]:
        """What is learned beside the weights."""
        return [each.mask.scores for each in self.masked if each.mask.scores is not None]

    @torch.no_grad()
    def close(self, level: float, *, step: int) -> None:
        """Open and close gates for this level of the method."""
        self.method.close([each.mask for each in self.masked], lambda: [each.magnitudes() for each in self.masked], level, step=step)
        for each in self.masked:
            if each.mask.protected is not None:
                each.mask.keep[each.mask.protected] = 1.0

    def penalty(self, weights: Mapping[Kind, float]) -> Tensor:
        """What the loss grows by: for each kind of block its weight times the mean over its matrices, divided by the number of kinds."""
        kinds = {each.kind for each in self.masked}
        parts = [
            weights.get(kind, 1.0) * torch.stack([self.method.penalty(each.mask) for each in self.masked if each.kind == kind]).mean()
            for kind in sorted(kinds)
        ]
        return torch.stack(parts).sum() / len(parts)

    @torch.no_grad()
    def density(self) -> float:
        """Share of the masked weights whose gate is open."""
        left = sum(float(each.mask.keep.sum()) * each.mask.members for each in self.masked)
        return left / sum(each.mask.keep.numel() * each.mask.members for each in self.masked)

    @torch.no_grad()
    def pending(self) -> float:
        """Share of the masked weights whose gates are on their way to close, each by how far it has come."""
        on_the_way = sum(float(self._closing(each.mask).sum()) * each.mask.members for each in self.masked)
        return on_the_way / sum(each.mask.keep.numel() * each.mask.members for each in self.masked)

    def _closing(self, mask: Mask) -> Tensor:
        far = (mask.keep - self.method.outlook(mask)).clamp_min(0.0)  # what is closed already is on its way no more
        return far if mask.protected is None else far.masked_fill(mask.protected, 0.0)

    @torch.no_grad()
    def closed(self) -> int:
        """Weights whose gate is closed, followers included, and those that compaction will remove because their partners are gone."""
        with self._as_compacted():
            return sum(round(float((1 - each.mask.keep).sum()) * each.mask.members) for each in self.masked)

    def freeze(self) -> None:
        """Heads without queries or keys give up their values, and from now on the gates stay as they are."""
        self.close_idle_values()
        for each in self.masked:
            each.mask.freeze()

    @torch.no_grad()
    def close_idle_values(self) -> None:
        """Close the values of heads whose queries or keys are gone."""
        with self.at_rest():
            for each in self._idle:
                if isinstance(each, _Heads):
                    each.close_values()

    @contextmanager
    def all_closed(self) -> Iterator[None]:
        """Inside, every gate is closed that may close."""
        before = [each.mask.keep.clone() for each in self.masked]
        for each in self.masked:
            each.mask.keep.zero_()
            if each.mask.protected is not None:
                each.mask.keep[each.mask.protected] = 1.0
        try:
            with self.at_rest():
                yield
        finally:
            for each, keep in zip(self.masked, before, strict=True):
                each.mask.keep.copy_(keep)

    @contextmanager
    def _as_compacted(self) -> Iterator[None]:
        """Inside, gates are closed whose groups compaction will remove because their partners are gone."""
        before = [(mask, mask.keep.clone()) for each in self._idle for mask in each.masks.values()]
        with self.at_rest():
            for each in self._idle:
                each.close()
        try:
            yield
        finally:
            for mask, keep in before:
                mask.keep.copy_(keep)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Inside, weights are masked as they will be in the end, and not as a method draws them while training."""
        training = [each.mask.training for each in self.masked]
        for each in self.masked:
            each.mask.eval()
        try:
            yield
        finally:
            for each, mode in zip(self.masked, training, strict=True):
                each.mask.train(mode)

    @torch.no_grad()
    def bake(self) -> None:
        """Multiply the gates into the weights, let the followers follow, and take the masks off."""
        for each in self.masked:
            each.mask.eval()
            gate = each.mask.value()
            parametrize.remove_parametrizations(each.linear, "weight", leave_parametrized=True)
            for linear, rows in each.followers:
                linear.weight.mul_(rows.expand((gate != 0).to(linear.weight.dtype).T))


class _Idle(Protocol):
    """Masks whose groups may be of no use although their gates are open."""

    masks: Mapping[str, Mask]

    def close(self) -> None:
        """Close those gates."""


@dataclass
class _Heads:
    """The four masks of one attention, where each of its matrices has its own, by part."""

    block: AttentionBlock
    masks: Mapping[str, Mask]

    def close_values(self) -> None:
        """Those of heads whose queries or keys are gone."""
        self._close(~(self._used("query") & self._used("key")), parts=("value",))

    def close(self) -> None:
        """A head that has lost all of one matrix is of no use: without queries or keys it only takes means, else it gives nothing."""
        used = self._used("query") & self._used("key") & self._used("value") & self._used("output")
        self._close(~used, parts=tuple(self.masks))

    def _used(self, part: str) -> Tensor:
        """Whether there is any weight of each head in a matrix, bool `[heads]`."""
        weight: Tensor = getattr(self.block, part).weight
        return (weight.T if part == "output" else weight).reshape(self.block.heads, -1).any(1)

    def _close(self, heads: Tensor, *, parts: tuple[str, ...]) -> None:
        for part in parts:
            _close(self.masks[part], heads.repeat_interleave(self.block.head_size), across=part == "output")


@dataclass
class _Neurons:
    """The two masks of one feed-forward."""

    down: nn.Linear
    masks: Mapping[str, Mask]

    def close(self) -> None:
        """A neuron that gives nothing needs to read nothing."""
        _close(self.masks["up"], ~self.down.weight.any(0), across=False)


def _close(mask: Mask, idle: Tensor, *, across: bool) -> None:
    """Close the gates of groups that lie in idle rows alone, or columns; those that are protected stay."""
    whole = idle.view(-1, mask.grid.columns if across else mask.grid.rows).all(1)
    groups = (whole[None, :] if across else whole[:, None]).expand_as(mask.keep)
    mask.keep[groups if mask.protected is None else groups & ~mask.protected] = 0.0


def attach(model: PreTrainedModel, granularity: Granularity, method: PruningMethod, *, protected: Structure | None = None) -> Masks:
    """Put masks on the linears of a model's layers, all gates open.

    Args:
        model: of any structure.
        granularity: what has a gate.
        method: makes the masks.
        protected: heads and neurons that may not be pruned; None for none.

    Raises:
        ConfigError: a granularity does not fit the weights, or nothing is masked.
    """
    masked: list[Masked] = []
    idle: list[_Idle] = []
    for number, layer in enumerate(family_of(model).layers(model)):
        of_attention = list(_attention(number, layer, granularity, method))
        of_feed_forward = list(_feed_forward(number, layer, granularity, method))
        of_layer = [*of_attention, *of_feed_forward]
        masked += of_layer
        if protected is not None:
            _protect(of_layer, layer, protected[number])
        if layer.attention and len(of_attention) > 1:
            idle.append(_Heads(layer.attention, {each.part: each.mask for each in of_attention}))
        if layer.feed_forward and len(of_feed_forward) > 1:
            idle.append(_Neurons(layer.feed_forward.down, {each.part: each.mask for each in of_feed_forward}))
    if not masked:
        raise ConfigError("nothing is masked: give `granularity` for attention or feed-forward, and a model that has layers left")
    for each in masked:
        parametrize.register_parametrization(each.linear, "weight", each.mask, unsafe=True)
    return Masks(method, masked, idle)


def _protect(of_layer: Sequence[Masked], layer: EncoderLayer, kept: LayerStructure) -> None:
    """Protect every group that holds a weight of these heads and neurons."""
    for each in of_layer:
        of_neurons = each.part in ("up", "down", "neurons")
        size = layer.attention.head_size if layer.attention and not of_neurons else 1
        inside = torch.zeros_like(each.linear.weight)
        for group in kept.neurons if of_neurons else kept.heads:
            members = slice(group * size, (group + 1) * size)
            if each.part in _OUTWARD:
                inside[:, members] = 1.0
            else:
                inside[members] = 1.0
        each.mask.open(each.mask.grid.pool(inside) > 0)


def _attention(number: int, layer: EncoderLayer, granularity: Granularity, method: PruningMethod) -> Iterator[Masked]:
    block, groups = layer.attention, granularity.attention
    if block is None or groups is None:
        return
    kind: Kind = "attention" if layer.side == "encoder" else "decoder_attention"
    if groups == "head":
        size, hidden = block.head_size, block.output.out_features
        mask = method.mask(Grid(hidden, size), block.output.weight, members=4 * size * hidden)
        followers = tuple((linear, Grid(size, hidden)) for linear in (block.query, block.key, block.value))
        yield Masked(kind, f"{block.name}.heads", number, "heads", block.output, mask, followers)
        return
    for part in ("query", "key", "value", "output"):
        linear = getattr(block, part)
        grid = _grid(groups, linear.weight, inward=part not in _OUTWARD)
        yield Masked(kind, f"{block.name}.{part}", number, part, linear, method.mask(grid, linear.weight, members=None))


def _feed_forward(number: int, layer: EncoderLayer, granularity: Granularity, method: PruningMethod) -> Iterator[Masked]:
    block, groups = layer.feed_forward, granularity.feed_forward
    if block is None or groups is None:
        return
    kind: Kind = "feed_forward" if layer.side == "encoder" else "decoder_feed_forward"
    if groups == "neuron":
        hidden = block.down.out_features
        mask = method.mask(Grid(hidden, 1), block.down.weight, members=2 * hidden)
        yield Masked(kind, f"{block.name}.neurons", number, "neurons", block.down, mask, ((block.up, Grid(1, hidden)),))
        return
    for part in ("up", "down"):
        linear = getattr(block, part)
        grid = _grid(groups, linear.weight, inward=part not in _OUTWARD)
        yield Masked(kind, f"{block.name}.{part}", number, part, linear, method.mask(grid, linear.weight, members=None))


def _grid(groups: str | BlockSize, weight: Tensor, *, inward: bool) -> Grid:
    out, inputs = weight.shape
    if isinstance(groups, BlockSize):
        return Grid(groups.rows, groups.columns) if inward else Grid(groups.columns, groups.rows)
    return {"element": Grid(1, 1), "row": Grid(1, inputs), "column": Grid(out, 1)}[groups]
