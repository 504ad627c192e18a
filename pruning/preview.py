"""A preview of reconstruction: what a structure will be worth once it is refitted, in the time of a few small solves.

A search that scores merely masked models prefers structures that need no repair to those that repair well. The importance pass has
summed, on the dense model, the Gram matrix of what enters each block's output projection; with it, the least-squares weights of any set
of survivors follow in closed form (the layer-wise problem of ZipLM, Kurtic et al., 2023, arXiv:2302.04089).
`pruning/reconstruction.py` then does it properly for the one structure that is chosen, with the pruned model's own hidden states.
"""

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning.importance import Importance, projections
from pruning.structure import Structure

DAMPING = 1e-2
CACHED_BLOCKS = 256


class Preview:
    """Refits any structure of one dense model approximately, each block as if the others were whole."""

    def __init__(self, model: PreTrainedModel, importance: Importance) -> None:
        """Take the Gram matrices that belong to this model.

        Args:
            model: The dense model. Its weights are not to change while this object is used, other than by `refitted`.
            importance: Of this model.
        """
        self.projections = projections(model)
        self.grams = [block.inputs for block in importance.curvature]
        self.solved = functools.lru_cache(CACHED_BLOCKS)(self._solve)

    @contextmanager
    def refitted(self, structure: Structure) -> Iterator[None]:
        """Inside, the model holds zeros for what `structure` removes and refitted survivors; afterwards it is as it was."""
        kept = [groups for layer in structure for groups in (layer.heads, layer.neurons)]
        with ExitStack() as stack, torch.no_grad():
            for block, ((linear, groups), stays) in enumerate(zip(self.projections, kept, strict=True)):
                if linear is not None and len(stays) < groups:
                    stack.callback(_put, linear, linear.weight.clone(), linear.bias.clone())
                    _put(linear, *self.solved(block, stays))
            yield

    def _solve(self, block: int, stays: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Weight `[hidden, columns]` and bias `[hidden]` of one block with only these groups left."""
        linear, groups = self.projections[block]
        assert linear is not None
        kept = torch.zeros(groups, dtype=torch.bool, device=linear.weight.device)
        kept[list(stays)] = True
        columns = kept.repeat_interleave(linear.in_features // groups)
        survivors = torch.cat([columns, columns.new_ones(1)])
        gram = self.grams[block].to(linear.weight.device).double()
        within, lost = gram[survivors][:, survivors], gram[survivors][:, ~survivors] @ linear.weight[:, ~columns].T.double()
        ridge = DAMPING * gram.diagonal()[:-1].mean().clamp_min(torch.finfo(gram.dtype).tiny)
        change = torch.cholesky_solve(lost, torch.linalg.cholesky(within + torch.diag(ridge.expand(len(within)))))
        weight = linear.weight * columns
        weight[:, columns] += change[:-1].T.to(weight.dtype)
        return weight, linear.bias + change[-1].to(weight.dtype)


def _put(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight.data.copy_(weight)
    linear.bias.data.copy_(bias)
