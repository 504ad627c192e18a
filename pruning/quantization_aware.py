"""Training that already computes as 8 bits will (Jacob et al., 2018, arXiv:1712.05877; of BERT, Zafrir et al., 2019, arXiv:1910.06188).

The linear layers' weights and inputs are rounded in the forward pass as the int8 variant's are: the weights to the signed codes of
`quantizers.quantize_weight`, the inputs to unsigned codes between a row's own smallest and largest value. Backward, rounding is passed
over. Most of what 8 bits cost comes of a few large inputs that set the scale of all others; the weights learn around that.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from pruning.families import family_of
from pruning.structure import linears


@contextmanager
def rounding(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the layers' linears compute with weights and inputs that are rounded to 8 bits; the weights themselves are not changed."""
    layers = [linear for layer in family_of(model).layers(model) for linear in linears(layer)]
    with ExitStack() as stack:
        for linear in layers:
            stack.enter_context(_rounded(linear))
        yield


def round_weight(weight: Tensor) -> Tensor:
    """A linear layer's weight, float [outputs, inputs], rounded as `quantizers.quantize_weight` rounds it: the same values, as floats."""
    outputs, inputs = weight.shape
    pairs = nn.functional.pad(weight, (0, inputs % 2)).reshape(outputs, -1, 2)
    largest = torch.maximum(pairs.abs().amax(dim=(1, 2)), pairs.sum(dim=2).abs().amax(dim=1))
    scales = torch.where(largest == 0, 1.0, largest / 127)[:, None]
    return torch.round(weight / scales) * scales


def round_rows(values: Tensor) -> Tensor:
    """Inputs of a linear layer, float [rows, …, features], rounded to 256 steps between each row's extremes, of which 0 is one."""
    inner = tuple(range(1, values.dim()))
    lowest, highest = values.amin(inner, keepdim=True).clamp(max=0), values.amax(inner, keepdim=True).clamp(min=0)
    scales = torch.where(highest == lowest, 1.0, (highest - lowest) / 255)
    zeros = torch.round(-lowest / scales)
    return ((torch.round(values / scales) + zeros).clamp(0, 255) - zeros) * scales


class _StraightThrough(torch.autograd.Function):
    """Another function forward, the identity backward (Bengio et al., 2013, arXiv:1308.3432)."""

    @staticmethod
    def forward(_: Any, values: Tensor, function: Any) -> Tensor:  # noqa: ANN401 - torch's own signature
        return function(values.float()).to(values.dtype)  # type: ignore[no-any-return]

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return gradients[0], None


class _RoundedWeight(nn.Module):
    """Parametrization of a weight; not `active`, it gives the weight as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.active = True

    def forward(self, weight: Tensor) -> Tensor:
        """[outputs, inputs] to the same."""
        return _StraightThrough.apply(weight, round_weight) if self.active else weight  # type: ignore[no-untyped-call]


@contextmanager
def _rounded(linear: nn.Linear) -> Iterator[None]:
    rounded, alone = _RoundedWeight(), not parametrize.is_parametrized(linear, "weight")
    parametrize.register_parametrization(linear, "weight", rounded, unsafe=True)
    hook = linear.register_forward_pre_hook(lambda _, inputs: (_StraightThrough.apply(inputs[0], round_rows),))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        hook.remove()
        rounded.active = False
        if alone:  # else who registered the first one bakes them all
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
