"""Magnitude pruning: what is small goes (Han et al., 2015, arXiv:1506.02626; gradually, Zhu and Gupta, 2017, arXiv:1710.01878).

A group ranks by its mean square, so that groups of different sizes can be compared: a head or a neuron by that of all its weights. Where
groups of the whole model are ranked together, each matrix counts in units of its own mean, so that none goes for being small alone. A
weight that is masked gets no gradient, but keeps its value, and comes back when others have become smaller.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from pruning.config import MagnitudeConfig
from pruning.granularity import Grid
from pruning.methods.base import Mask, Steers, keep_best

TINY = 1e-30


class Magnitude:
    """Keep the largest weights; see `PruningMethod`. The level is the density."""

    steers: Steers = "level"
    last_level = lowest_level = first_penalty = 0.0

    def __init__(self, config: MagnitudeConfig) -> None:
        """Take its hyper-parameters."""
        self._everywhere = config.scope == "global"

    def mask(self, grid: Grid, weight: Tensor, *, members: int | None = None) -> Mask:
        """See `PruningMethod`."""
        return Mask(grid, weight, initial=None, members=members)

    def close(self, masks: Sequence[Mask], magnitudes: Callable[[], Sequence[Tensor]], level: float, *, step: int) -> None:
        """See `PruningMethod`."""
        del step
        ranks = magnitudes()
        if self._everywhere:
            ranks = [rank / rank.mean().clamp_min(TINY) for rank in ranks]
        keep_best(masks, ranks, level, everywhere=self._everywhere)

    def penalty(self, mask: Mask) -> Tensor:
        """None."""
        return mask.keep.new_zeros(())

    def outlook(self, mask: Mask) -> Tensor:
        """The gates themselves: the level alone decides."""
        return mask.keep
