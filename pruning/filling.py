"""What becomes of the zeros inside heads and neurons that stay: they cost nothing in a compact model, so they may as well be used.

*Filled* models (Lagunas et al., 2021, arXiv:2109.04838, section 4) train them again, at the same speed. Otherwise they are held at zero.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from pruning.families import family_of
from pruning.granularity import Grid
from pruning.methods.base import Mask
from pruning.structure import linears

NOISE = 0.01
"""Standard deviation of a revived weight, relative to those of its matrix: where all members of a group are 0 there is no gradient."""


@torch.no_grad()
def revive(model: PreTrainedModel, *, seed: int) -> int:
    """Give each zero weight of the layers a small random value, in place; returns how many there were."""
    generator, revived = torch.Generator().manual_seed(seed), 0
    for linear in _linears(model):
        zero = linear.weight == 0
        alive = linear.weight[~zero]
        if zero.any() and alive.numel() > 1:
            noise = torch.randn(linear.weight.shape, generator=generator).to(linear.weight) * (NOISE * float(alive.std()))
            linear.weight[zero] = noise[zero]
            revived += int(zero.sum())
    return revived


@contextmanager
def zeros_held(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the zero weights of the layers stay zero, however the model is trained."""
    held = []
    for linear in _linears(model):
        zero = linear.weight.detach() == 0
        if zero.any():
            mask = Mask(Grid(1, 1), linear.weight, initial=None)
            mask.keep.copy_(~zero)
            parametrize.register_parametrization(linear, "weight", mask, unsafe=True)
            held.append(linear)
    try:
        yield
    finally:
        for linear in held:
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)


def _linears(model: PreTrainedModel) -> Iterator[nn.Linear]:
    for layer in family_of(model).layers(model):
        yield from linears(layer)
