"""A preview of reconstruction: what a structure will be worth once it is refitted, in the time of a few small solves.

A search that scores merely masked models prefers structures that need no repair to those that repair well. One pass over the dense
model sums the Gram matrix of what enters each block's output projection; with it, the least-squares weights of any set of survivors
follow in closed form (the layer-wise problem of ZipLM, Kurtic et al., 2023, arXiv:2302.04089). `pruning/reconstruction.py` then does it
properly for the one structure that is chosen, with the pruned model's own hidden states.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning.families import family_of
from pruning.importance import Batch, inference
from pruning.structure import Structure

DAMPING = 1e-2
CACHED_BLOCKS = 256


class Preview:
    """Refits any structure of one dense model approximately, each block as if the others were whole."""

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch]) -> None:
        """Take the Gram matrices from one forward pass.

        Args:
            model: The dense model. Its weights are not to change while this object is used, other than by `refitted`.
            batches: Calibration inputs, ready for `model(**batch)`; some 20,000 tokens do.
        """
        self.model = model
        self.projections = _projections(model)
        self.grams = _grams(model, [linear for linear, _ in self.projections], batches)
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
        gram = self.grams[block].double()
        within, lost = gram[survivors][:, survivors], gram[survivors][:, ~survivors] @ linear.weight[:, ~columns].T.double()
        ridge = DAMPING * gram.diagonal()[:-1].mean().clamp_min(torch.finfo(gram.dtype).tiny)
        change = torch.cholesky_solve(lost, torch.linalg.cholesky(within + torch.diag(ridge.expand(len(within)))))
        weight = linear.weight * columns
        weight[:, columns] += change[:-1].T.to(weight.dtype)
        return weight, linear.bias + change[-1].to(weight.dtype)


def _projections(model: PreTrainedModel) -> list[tuple[nn.Linear | None, int]]:
    """Output projection and number of groups of every block, attention and feed-forward in turn; None where it was removed."""
    found: list[tuple[nn.Linear | None, int]] = []
    for layer in family_of(model).layers(model):
        found.append((layer.attention.output, layer.attention.heads) if layer.attention else (None, 0))
        found.append((layer.feed_forward.down, layer.feed_forward.neurons) if layer.feed_forward else (None, 0))
    return found


def _grams(model: PreTrainedModel, linears: Sequence[nn.Linear | None], batches: Sequence[Batch]) -> list[Tensor]:
    """Per linear, the mean over real tokens of `[x, 1]' [x, 1]`: float32 `[columns + 1, columns + 1]`."""
    sums = [torch.zeros(0) if linear is None else _square(linear) for linear in linears]
    device, tokens = next(model.parameters()).device, 0
    with inference(model), torch.no_grad():
        for batch in batches:
            real = batch["attention_mask"].bool().to(device)
            with ExitStack() as stack:
                for linear, gram in zip(linears, sums, strict=True):
                    if linear is not None:
                        stack.callback(linear.register_forward_pre_hook(functools.partial(_add_gram, gram, real)).remove)
                model(**{name: tensor.to(device) for name, tensor in batch.items()})
            tokens += int(real.sum())
    return [gram / tokens for gram in sums]


def _square(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.in_features + 1, linear.in_features + 1)


def _add_gram(gram: Tensor, real: Tensor, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """A pre-hook that adds a batch to the sum, in place."""
    hidden = inputs[0][real]
    hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], dim=1)
    gram += hidden.T @ hidden


def _put(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight.data.copy_(weight)
    linear.bias.data.copy_(bias)
