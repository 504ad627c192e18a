"""The surgeon's ranking: what removing a group costs once its neighbours were refitted to stand in for it.

Optimal brain surgeon on whole columns of a block's output projection W, as in ZipLM (Kurtic et al., 2023, arXiv:2302.04089): with H the
second moment of the projection's inputs, removing the columns S and refitting the others raises the squared error of the output by
`tr(W_S inv(inv(H)_SS) W_S')`. Error in a direction that no prediction depends on is no loss, so outputs are measured in the metric G of
the loss's gradients: together an estimate of the divergence from the dense model (Kronecker-factored curvature, Martens & Grosse, 2015,
arXiv:1503.05671), in one unit for all blocks, which is what a knapsack needs. Groups leave in turn and are scored anew each time, so
that of two twins only one leaves early.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pruning.importance import Curvature, Importance, projections
from pruning.search import Ranking, Rankings

INPUT_DAMPING = 1e-2
GRADIENT_DAMPING = 1e-2
NEURONS_AT_ONCE = 16


def rank_by_surgeon(model: PreTrainedModel, importance: Importance) -> Rankings:
    """Order and error of removal in each block, with refitting taken into account.

    Args:
        model: The dense model.
        importance: Of this model.
    """
    blocks = [
        _no_groups() if linear is None else _rank_block(linear.weight.detach().double().cpu(), groups, curvature)
        for (linear, groups), curvature in zip(projections(model), importance.curvature, strict=True)
    ]
    return Rankings(attention=tuple(blocks[::2]), feed_forward=tuple(blocks[1::2]))


def _rank_block(weight: Tensor, groups: int, curvature: Curvature) -> Ranking:
    """Take out all groups of `weight`, `[hidden, columns]`, the cheapest first."""
    size = weight.shape[1] // groups
    removal = _Removal(weight, size, curvature)
    at_once = NEURONS_AT_ONCE if size == 1 else 1
    order: list[int] = []
    rises: list[float] = []
    while removal.alive:
        chosen = removal.cheapest(at_once)
        order += chosen
        rises += [removal.take(chosen) / len(chosen)] * len(chosen)
    errors = np.concatenate([[0.0], np.cumsum(np.maximum(rises, 0.0))])[::-1]
    return Ranking(order=np.array(order, dtype=np.int64), errors=errors)


class _Removal:
    """State of one block's surgery: the refitted weights in the metric of the loss, and the inverse of what is left of H."""

    def __init__(self, weight: Tensor, size: int, curvature: Curvature) -> None:
        self.size = size
        self.alive = list(range(weight.shape[1] // size))
        metric = _root(_damped(curvature.gradients.double(), GRADIENT_DAMPING))
        self.weight = torch.cat([metric @ weight, weight.new_zeros(len(weight), 1)], dim=1)
        self.inverse = torch.linalg.inv(_damped(curvature.inputs.double(), INPUT_DAMPING))

    def cheapest(self, count: int) -> list[int]:
        """The groups whose removal, each alone, would cost least; the cheapest first."""
        scores = self._scores()
        return [self.alive[place] for place in scores.argsort(stable=True)[:count].tolist()]

    def take(self, groups: list[int]) -> float:
        """Remove these groups, refit the others, and return the rise of the error."""
        columns = self._columns(groups).flatten()
        lost = self.weight[:, columns]
        pull = torch.linalg.solve(self.inverse[columns][:, columns], torch.cat([self.inverse[columns], lost.T], dim=1))
        towards, repaired = pull[:, : len(self.inverse)], pull[:, len(self.inverse) :]
        self.weight.addmm_(lost, towards, alpha=-1)
        self.inverse.addmm_(self.inverse[:, columns], towards, alpha=-1)
        self.alive = [group for group in self.alive if group not in groups]
        return float((lost * repaired.T).sum())

    def _scores(self) -> Tensor:
        """Cost of removing each living group alone, float64 `[alive]`."""
        columns = self._columns(self.alive)  # [alive, size]
        lost = self.weight[:, columns].permute(1, 2, 0)  # [alive, size, hidden]
        within = self.inverse[columns[:, :, None], columns[:, None, :]]  # [alive, size, size]
        scores: Tensor = (lost * torch.linalg.solve(within, lost)).sum(dim=(1, 2))
        return scores

    def _columns(self, groups: list[int]) -> Tensor:
        return torch.tensor(groups)[:, None] * self.size + torch.arange(self.size)


def _damped(matrix: Tensor, damping: float) -> Tensor:
    """Ridge relative to the mean of the diagonal."""
    ridge = damping * matrix.diagonal().mean().clamp_min(torch.finfo(matrix.dtype).tiny)
    return matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype)


def _root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def _no_groups() -> Ranking:
    return Ranking(order=np.zeros(0, dtype=np.int64), errors=np.zeros(1))
