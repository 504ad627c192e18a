"""What every method of fine-pruning is made of: a mask on a weight, and the rule by which its gates close.

A *mask* is the parametrization of one weight (`torch.nn.utils.parametrize`): each group of the weight is multiplied by a gate. A *method*
says what ranks the groups, which gates are open at a given *level*, and what is added to the loss. Methods never name a model family.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pruning.granularity import Grid

Steers = Literal["level", "penalty"]


class Mask(nn.Module):
    """Gates of one weight.

    Attributes:
        grid: which weights share a gate.
        members: weights that live and die with one group, those of other linears that follow it included.
        scores: what is learned, fp32 `[groups down, groups across]`; None for methods that learn nothing.
        keep: 1 for an open gate and 0 for a closed one, fp32, of the same shape.
        protected: whether a gate may never close, bool of the same shape; None where all may.
    """

    keep: Tensor
    protected: Tensor | None

    def __init__(self, grid: Grid, weight: Tensor, *, initial: float | None, members: int | None = None) -> None:
        """All gates open.

        Args:
            grid: which weights share a gate.
            weight: `[out, in]`.
            initial: what the scores are at first; None for no scores.
            members: see the attribute; the weights of a group alone without it.
        """
        super().__init__()
        shape = grid.shape(weight)
        self.grid, self.members = grid, grid.size if members is None else members
        self.scores = None if initial is None else nn.Parameter(torch.full(shape, initial, device=weight.device))
        self.register_buffer("keep", torch.ones(shape, device=weight.device))
        self.register_buffer("protected", None, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The masked weight, `[out, in]`."""
        return self.grid.gated(weight, self.value().to(weight.dtype))

    def value(self) -> Tensor:
        """The gate, or 1 where it may never close."""
        return self.gate() if self.protected is None else torch.where(self.protected, 1.0, self.gate())

    def gate(self) -> Tensor:
        """What groups are multiplied by. To the scores the gradient passes straight through (Bengio et al., 2013, arXiv:1308.3432)."""
        return self.keep if self.scores is None else _StraightThrough.apply(self.scores, self.keep)  # type: ignore[no-untyped-call]

    @property
    def learned(self) -> Tensor:
        """The scores, of a method that has some."""
        if self.scores is None:
            raise ValueError("this method learns no scores")
        return self.scores

    def open(self, groups: Tensor) -> None:
        """Protect these groups, bool of the gates' shape: their gates are open, and stay so."""
        self.protected = groups
        self.keep[groups] = 1.0

    def mean_of_free(self, values: Tensor) -> Tensor:
        """Mean over the groups whose gates may close, a scalar; 0 where there is none."""
        free = values if self.protected is None else values[~self.protected]
        return free.mean() if free.numel() else free.sum()

    def freeze(self) -> None:
        """From now on the gates stay as they are, and the scores learn nothing more."""
        if self.scores is not None:
            self.scores.requires_grad_(False)


class _StraightThrough(torch.autograd.Function):
    """The gates; the gradient that reaches them is given to the scores."""

    @staticmethod
    def forward(_: object, scores: Tensor, keep: Tensor) -> Tensor:
        del scores
        return keep.clone()

    @staticmethod
    def backward(_: object, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class PruningMethod(Protocol):
    """One method.

    Attributes:
        steers: what moves it towards a target: the `level` itself, or the weight of its `penalty`.
        last_level: the level at the end of the ramp, where the penalty is what is steered.
        lowest_level: the level at which most gates are open; of a density it has no meaning.
        first_penalty: the penalty's weight before it was ever steered.
    """

    steers: Steers
    last_level: float
    lowest_level: float
    first_penalty: float

    def mask(self, grid: Grid, weight: Tensor, *, members: int | None = None) -> Mask:
        """A mask with all gates open; `members` as in `Mask`."""
        ...

    def close(self, masks: Sequence[Mask], magnitudes: Callable[[], Sequence[Tensor]], level: float, *, step: int) -> None:
        """Open and close gates for this level, in place.

        Args:
            masks: all masks of a model.
            magnitudes: mean squares of each mask's groups as if there were no mask, of the gates' shape; for methods that ask.
            level: a density for methods that keep the best, else a threshold.
            step: of the training, for methods that draw.
        """
        ...

    def penalty(self, mask: Mask) -> Tensor:
        """What the loss grows by, between 0 and 1; a scalar."""
        ...

    def outlook(self, mask: Mask) -> Tensor:
        """How far each gate is from closing: 1 where it stays open for long, towards 0 where it is about to; fp32, of the gates' shape."""
        ...


@torch.no_grad()
def keep_best(masks: Sequence[Mask], ranks: Sequence[Tensor], density: float, *, everywhere: bool) -> None:
    """Leave the gates of the best groups open, so that a share `density` of the members stays.

    Args:
        masks: to change, in place.
        ranks: of the groups of each mask; the highest stay, and of equal ones the first.
        density: share of members, 0 to 1.
        everywhere: rank the groups of all masks together, instead of each mask's among themselves.
    """
    if not everywhere:
        for mask, rank in zip(masks, ranks, strict=True):
            mask.keep.copy_(_best(rank, round(density * rank.numel())))
        return
    flat = torch.cat([rank.flatten() for rank in ranks])
    sizes = [mask.members for mask in masks]
    alike = len(set(sizes)) == 1
    keep = _best(flat, int(density * flat.numel() + 0.5 / sizes[0])) if alike else _best_members(flat, masks, density)
    for mask, part in zip(masks, torch.split(keep, [mask.keep.numel() for mask in masks]), strict=True):
        mask.keep.copy_(part.view_as(mask.keep))


def _best_members(rank: Tensor, masks: Sequence[Mask], density: float) -> Tensor:
    """1 for the highest values that have a share `density` of the members between them, else 0; of equal ones the first."""
    members = torch.cat([torch.full_like(mask.keep.flatten(), mask.members, dtype=torch.float64) for mask in masks])
    order = torch.argsort(rank, descending=True, stable=True)
    inside = torch.cumsum(members[order], 0) <= density * float(members.sum()) + 0.5
    keep = torch.zeros_like(rank)
    keep[order[inside]] = 1.0
    return keep


def _best(rank: Tensor, count: int) -> Tensor:
    """1 for the `count` highest values, else 0; of equal ones the first. By selection, as this is done at each step and sorting is slow."""
    if count == 0:
        return torch.zeros_like(rank)
    flat = rank.flatten()
    lowest = _lowest_of_best(flat, count)
    keep = flat >= lowest
    if (spare := int(keep.sum()) - count) > 0:
        equal = torch.nonzero(flat == lowest).flatten()
        keep[equal[len(equal) - spare :]] = False
    return keep.to(rank.dtype).view_as(rank)


def _lowest_of_best(values: Tensor, count: int) -> Tensor:
    """The lowest of the `count` highest values, a scalar; on a CPU by NumPy, whose selection takes a small part of the time of torch's."""
    place = values.numel() - count
    if values.device.type != "cpu":
        return values.kthvalue(place + 1).values
    return torch.from_numpy(np.partition(values.detach().numpy(), place))[place]
