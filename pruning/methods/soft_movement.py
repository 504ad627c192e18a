"""Soft movement pruning: what a penalty pushes below a threshold goes (Sanh et al., 2020, arXiv:2005.07683, section 4.2).

A gate is open while the sigmoid of its score exceeds the threshold. The penalty, the mean of the sigmoids, pulls every score down; what
the task needs holds itself up. So how much stays where is decided by all matrices together.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pruning.config import SoftMovementConfig
from pruning.granularity import Grid
from pruning.methods.base import Mask, Steers

MOST = 8.0
"""Scores are kept this near to 0: beyond it the sigmoid has no gradient left, and a group could never come back."""


class SoftMovement:
    """Keep the scores whose sigmoid exceeds a threshold; see `PruningMethod`. The level is the threshold."""

    steers: Steers = "penalty"
    lowest_level = 0.0

    def __init__(self, config: SoftMovementConfig) -> None:
        """Take its hyper-parameters."""
        self.last_level, self.first_penalty = config.threshold, config.penalty

    def mask(self, grid: Grid, weight: Tensor, *, members: int | None = None) -> Mask:
        """See `PruningMethod`; scores begin at 0, well above the threshold."""
        return Mask(grid, weight, initial=0.0, members=members)

    @torch.no_grad()
    def close(self, masks: Sequence[Mask], magnitudes: Callable[[], Sequence[Tensor]], level: float, *, step: int) -> None:
        """See `PruningMethod`."""
        del magnitudes, step
        for mask in masks:
            mask.learned.clamp_(-MOST, MOST)
            mask.keep.copy_(torch.sigmoid(mask.learned) > level)

    def penalty(self, mask: Mask) -> Tensor:
        """Mean sigmoid of the scores."""
        return mask.mean_of_free(torch.sigmoid(mask.learned))

    @torch.no_grad()
    def outlook(self, mask: Mask) -> Tensor:
        """How much of the way from a half, where scores begin, to the last threshold is left."""
        return ((torch.sigmoid(mask.learned) - self.last_level) / (0.5 - self.last_level)).clamp(0.0, 1.0)
