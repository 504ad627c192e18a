"""Importance: what the loss says about removing each head and each neuron, from one backward pass per calibration batch.

Every group gets a gate of one on its way into the block's output projection. The gate is expanded per example, so one backward pass
gives the gradient of each example's own loss, and the empirical Fisher information follows: its diagonal scores groups, its
within-layer block scores sets of them (Kwon et al., 2022, arXiv:2204.09656). `pruning/search.py` reads the result; no weight is
trained or changed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from pruning.families import family_of

Batch = Mapping[str, Tensor]
Losses = Callable[[Any, Batch], Tensor]


@dataclass(frozen=True)
class Importance:
    """Gradients of each example's loss with respect to the gates, one tensor per layer, on the CPU.

    Attributes:
        heads: Per layer, float32 `[examples, heads]`; no columns where the attention was removed.
        neurons: Per layer, float32 `[examples, neurons]`; no columns where the feed-forward was removed.
    """

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]


def diagonal(gradients: Tensor) -> Tensor:
    """Diagonal of the Fisher information: `[examples, groups]` -> float64 `[groups]`, the mean squared gradient of each gate."""
    return gradients.double().square().mean(dim=0)


def full(gradients: Tensor) -> Tensor:
    """Fisher information within a layer: `[examples, groups]` -> float64 `[groups, groups]`, the mean outer product."""
    return gradients.double().T @ gradients.double() / max(len(gradients), 1)


def fisher(model: PreTrainedModel, batches: Sequence[Batch], losses: Losses, *, progress: bool = False) -> Importance:
    """Gradients of every example's loss with respect to a gate of one on every head and neuron.

    Args:
        model: A fine-tuned model; its mode, weights and `requires_grad` flags are as before when this returns.
        batches: Ready for `model(**batch)`, labels included.
        losses: Each example's loss, float `[batch]`, from the model's outputs and the batch.
        progress: Show a progress bar on stderr.
    """
    layers = family_of(model).layers(model)
    blocks = [layer.attention for layer in layers], [layer.feed_forward for layer in layers]
    linears = [block.output if block else None for block in blocks[0]] + [block.down if block else None for block in blocks[1]]
    groups = [block.heads if block else 0 for block in blocks[0]] + [block.neurons if block else 0 for block in blocks[1]]
    device = next(model.parameters()).device
    rows: list[list[Tensor]] = [[] for _ in linears]
    with inference(model):
        for batch in tqdm(batches, desc="importance", unit="batch", disable=not progress):
            here = {name: tensor.to(device) for name, tensor in batch.items()}
            for found, gradient in zip(rows, _gate_gradients(model, here, losses, linears, groups), strict=True):
                found.append(gradient.float().cpu())
    gradients = tuple(torch.cat(found) for found in rows)
    return Importance(heads=gradients[: len(layers)], neurons=gradients[len(layers) :])


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and none of its parameters asks for a gradient; afterwards both are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _gate_gradients(
    model: PreTrainedModel, batch: Batch, losses: Losses, linears: Sequence[nn.Linear | None], groups: Sequence[int]
) -> tuple[Tensor, ...]:
    """Per linear, `[batch, groups]`: the gradient of each example's own loss."""
    examples = len(batch["input_ids"])
    dtype, device = next(model.parameters()).dtype, batch["input_ids"].device
    gates = [torch.ones(examples, count, dtype=dtype, device=device, requires_grad=True) for count in groups]
    with ExitStack() as stack, torch.enable_grad():
        for linear, gate in zip(linears, gates, strict=True):
            if linear is not None:
                stack.callback(linear.register_forward_pre_hook(_multiply(gate)).remove)
        total = losses(model(**batch), batch).sum()
    return torch.autograd.grad(total, gates, materialize_grads=True)


def _multiply(gate: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """A pre-hook that multiplies a linear's input `[batch, sequence, groups * size]` by its example's gate `[batch, groups]`."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = inputs[0]
        columns = gate.repeat_interleave(hidden.shape[-1] // gate.shape[-1], dim=-1)
        return (hidden * columns[:, None, :], *inputs[1:])

    return hook
