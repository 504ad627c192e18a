"""L0 regularisation with hard-concrete gates (Louizos et al., 2018, arXiv:1712.01312).

While training a gate is drawn anew at each step: 0, 1, or between, by a score that says how likely it is to be open. The penalty is that
likelihood, the mean over the gates. Otherwise a gate has its typical value, which may lie between 0 and 1 and is multiplied into the
weights in the end.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pruning.config import L0Config
from pruning.granularity import Grid
from pruning.methods.base import Mask, Steers

LEAST, MOST = -0.1, 1.1
TEMPERATURE = 2 / 3
MARGIN = 1e-4
SEED_STRIDE = 1_000_003
HIGHEST_RAISE = 20.0
"""Of the scores, at the lowest level."""


class L0Mask(Mask):
    """Gates that are drawn.

    Attributes:
        noise: of this step, the same in each process and for each micro-batch; fp32, uniform.
        raised: by how much typical values are those of higher scores, fp32 scalar; for levels below 0.
        drawn: whether gates are drawn while training.
    """

    noise: Tensor
    raised: Tensor

    def __init__(self, grid: Grid, weight: Tensor, *, initial: float, members: int | None = None) -> None:
        """See `Mask`."""
        super().__init__(grid, weight, initial=initial, members=members)
        self.drawn = True
        self.register_buffer("noise", torch.full_like(self.keep, 0.5), persistent=False)
        self.register_buffer("raised", self.keep.new_zeros(()))

    def gate(self) -> Tensor:
        """Drawn while training; else typical, and 0 where `keep` says so."""
        if self.training and self.drawn:
            logistic = torch.log(self.noise) - torch.log1p(-self.noise)
            return stretched(torch.sigmoid((logistic + self.learned) / TEMPERATURE))
        return self.typical() * self.keep

    def typical(self) -> Tensor:
        """The value of each gate without noise."""
        return stretched(torch.sigmoid(self.learned + self.raised))

    def freeze(self) -> None:
        """See `Mask`: typical values from now on."""
        super().freeze()
        self.drawn = False


class L0:
    """Keep the gates that are likely to be open; see `PruningMethod`.

    The level is what the sigmoid of a score has to exceed: gates whose typical value is 1 can still be told apart by it. Below 0 it raises
    the scores instead, all by as much, so that a penalty that has closed too many gates can be made good for.
    """

    steers: Steers = "penalty"
    last_level, lowest_level = 0.0, -1.0

    def __init__(self, config: L0Config) -> None:
        """Take its hyper-parameters."""
        self.first_penalty = config.penalty
        self._initial, self._seed = config.initial, config.seed

    def mask(self, grid: Grid, weight: Tensor, *, members: int | None = None) -> L0Mask:
        """See `PruningMethod`."""
        return L0Mask(grid, weight, initial=self._initial, members=members)

    @torch.no_grad()
    def close(self, masks: Sequence[Mask], magnitudes: Callable[[], Sequence[Tensor]], level: float, *, step: int) -> None:
        """See `PruningMethod`; draws the noise of the step, too."""
        del magnitudes
        generator = torch.Generator().manual_seed(self._seed * SEED_STRIDE + step)
        for mask in masks:
            if not isinstance(mask, L0Mask):
                raise TypeError(f"L0 opens and closes its own masks, not {type(mask).__name__}")
            mask.raised.fill_(HIGHEST_RAISE * max(0.0, -level))
            likely = mask.learned > (math.log(level / (1 - level)) if level > 0 else -math.inf)
            mask.keep.copy_(likely & (mask.typical() > 0))
            mask.noise.copy_(torch.rand(mask.noise.shape, generator=generator).clamp_(MARGIN, 1 - MARGIN))

    def penalty(self, mask: Mask) -> Tensor:
        """Mean probability that a gate is not 0."""
        return mask.mean_of_free(_open(mask))

    @torch.no_grad()
    def outlook(self, mask: Mask) -> Tensor:
        """The probability that it is not 0."""
        return _open(mask)


def _open(mask: Mask) -> Tensor:
    return torch.sigmoid(mask.learned - TEMPERATURE * math.log(-LEAST / MOST))


def stretched(values: Tensor) -> Tensor:
    """From (0, 1) to (-0.1, 1.1), cut off at 0 and 1, so that both ends are reached."""
    return (values * (MOST - LEAST) + LEAST).clamp(0.0, 1.0)
