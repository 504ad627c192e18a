"""Movement pruning: what moves towards zero goes (Sanh et al., 2020, arXiv:2005.07683, section 4).

The score of a group adds up `-dL/dW * W`: it grows while training makes the weights larger. The best share of the scores stays.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from pruning.config import MovementConfig
from pruning.granularity import Grid
from pruning.methods.base import Mask, Steers, keep_best


class Movement:
    """Keep the highest scores, *hard* movement pruning; see `PruningMethod`. The level is the density."""

    steers: Steers = "level"
    last_level = lowest_level = first_penalty = 0.0

    def __init__(self, config: MovementConfig) -> None:
        """Take its hyper-parameters."""
        self._everywhere = config.scope == "global"

    def mask(self, grid: Grid, weight: Tensor, *, members: int | None = None) -> Mask:
        """See `PruningMethod`; scores begin at 0."""
        return Mask(grid, weight, initial=0.0, members=members)

    def close(self, masks: Sequence[Mask], magnitudes: Callable[[], Sequence[Tensor]], level: float, *, step: int) -> None:
        """See `PruningMethod`."""
        del magnitudes, step
        keep_best(masks, [mask.learned.detach() for mask in masks], level, everywhere=self._everywhere)

    def penalty(self, mask: Mask) -> Tensor:
        """None."""
        return mask.keep.new_zeros(())

    def outlook(self, mask: Mask) -> Tensor:
        """The gates themselves: the level alone decides."""
        return mask.keep
