"""Training that already computes as 8 bits will (Jacob et al., 2018, arXiv:1712.05877; of BERT, Zafrir et al., 2019, arXiv:1910.06188).

The linear layers' weights and inputs are rounded in the forward pass as the int8 variant's are: the weights to the signed codes of
`quantizers.quantize_weight`, the inputs to unsigned codes between a row's own smallest and largest value, or between fixed ends, which are
then those of the model before training (as Wu et al., 2020, arXiv:2004.09602). Backward, rounding is passed over. Most of what 8 bits
cost comes of a few large inputs that set the scale of all others; the weights learn around that.

A decoder's inputs are rounded as `dynamic_quantization.quantize_rows` does it, each token by itself; those of its language-model head too.
Keys and values of cross-attention are made of the source, once for all tokens, so they are rounded as the encoder is.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from pruning.calibration import Range
from pruning.families import family_of
from pruning.families.base import EncoderLayer
from pruning.structure import linears

Rounding = Callable[[Tensor], Tensor]


@contextmanager
def rounding(model: PreTrainedModel, ranges: Mapping[str, Range] | None = None) -> Iterator[None]:
    """Inside, the layers' linears compute with weights and inputs that are rounded to 8 bits; the weights themselves are not changed.

    So does the language-model head of an encoder-decoder.

    Args:
        model: trained inside.
        ranges: between which the inputs of linears are rounded, by the linear's name in the model; those of others, between each row's
            own extremes.
    """
    names = {module: name for name, module in model.named_modules()}
    fixed = {name: partial(round_between, ends=ends) for name, ends in (ranges or {}).items()}
    with ExitStack() as stack:
        for layer in family_of(model).layers(model):
            for linear in linears(layer):
                stack.enter_context(_rounded(linear, fixed.get(names[linear]) or _inputs_of(layer, linear)))
        if model.config.is_encoder_decoder:
            stack.enter_context(_rounded_head(model.get_output_embeddings()))
        yield


def _inputs_of(layer: EncoderLayer, linear: nn.Linear) -> Rounding:
    """How the inputs of a linear are rounded: all of a request at once, or each token of a decoder by itself."""
    reads_source = layer.attention is not None and (linear is layer.attention.key or linear is layer.attention.value)
    return round_rows if layer.side == "encoder" or (layer.side == "cross" and reads_source) else round_tokens


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
    return _round_to_steps(values, values.amin(inner, keepdim=True).clamp(max=0), values.amax(inner, keepdim=True).clamp(min=0))


def round_between(values: Tensor, ends: Range) -> Tensor:
    """Inputs of a linear layer, float [..., features], rounded to 256 steps between two ends, of which 0 is one; what is beyond is cut."""
    lowest, highest = (values.new_tensor(end) for end in (min(ends[0], 0.0), max(ends[1], 0.0)))
    return _round_to_steps(values, lowest, highest)


def round_tokens(values: Tensor) -> Tensor:
    """Inputs of a decoder's linear layer, float [..., features], rounded to 127 steps either side of 0, up to each token's largest."""
    largest = values.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    return torch.round(values / largest * 127) / 127 * largest


def _round_to_steps(values: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
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


def _round_inputs(_: nn.Module, inputs: tuple[Tensor, ...], *, rounded: Rounding) -> tuple[Tensor]:
    return (_StraightThrough.apply(inputs[0], rounded),)  # type: ignore[no-untyped-call]


def _through_rounded_table(head: nn.Linear, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
    weight = _StraightThrough.apply(head.weight, round_weight)  # type: ignore[no-untyped-call]
    return nn.functional.linear(inputs[0], weight, head.bias)


@contextmanager
def _rounded_head(head: nn.Linear) -> Iterator[None]:
    """The head multiplies by a rounded copy of its weight, which may be the embeddings' table and so has no parametrization."""
    hooks = head.register_forward_pre_hook(partial(_round_inputs, rounded=round_tokens)), head.register_forward_hook(_through_rounded_table)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _rounded(linear: nn.Linear, inputs_rounded: Rounding) -> Iterator[None]:
    rounded, alone = _RoundedWeight(), not parametrize.is_parametrized(linear, "weight")
    parametrize.register_parametrization(linear, "weight", rounded, unsafe=True)
    hook = linear.register_forward_pre_hook(partial(_round_inputs, rounded=inputs_rounded))
    try:
        yield
    finally:
        hook.remove()
        rounded.active = False
        if alone:  # else who registered the first one bakes them all
            parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)
