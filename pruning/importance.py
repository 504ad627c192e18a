"""Importance: what the model's predictions say about removing each head and each neuron, from one backward pass per batch.

Every group gets a gate of one on its way into the block's output projection. The gate is expanded per example, so one backward pass
gives the gradient of each example's own loss, and the Fisher information of the gates follows: its diagonal scores groups, its
within-layer block scores sets of them (Kwon et al., 2022, arXiv:2204.09656). The same pass sums, per block, what goes into the output
projection and which directions of its output matter: the two factors of a Kronecker-factored curvature (Martens & Grosse, 2015,
arXiv:1503.05671), with which `pruning/surgeon.py` prices the removal of a group *after* the others were refitted. No weight changes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from pruning.families import family_of
from pruning.families.base import Side
from pruning.tasks.base import IGNORED

Batch = Mapping[str, Tensor]
Losses = Callable[[Any, Batch], Tensor]

CURVATURE_TOKENS = 65_536  # the inputs' moments of a feed-forward cost as much as its forward pass; this many pin them down


class Curvature(NamedTuple):
    """Second moments over real tokens at one block's output projection.

    Attributes:
        inputs: Mean of `[x, 1]' [x, 1]` over what goes in, float32 `[columns + 1, columns + 1]`; the last column stands for the bias.
        gradients: Sum of `g' g` over an example's tokens, `g` the loss's gradient by what comes out, mean over examples; float32
            `[hidden, hidden]`. A sum, as an encoder and a decoder have unequal numbers of tokens to do harm at.
    """

    inputs: Tensor
    gradients: Tensor


@dataclass(frozen=True)
class Importance:
    """Gradients of each example's loss with respect to the gates, and the curvature of the blocks; all on the CPU.

    Attributes:
        heads: Per layer, float32 `[examples, heads]`; no columns where the attention was removed.
        neurons: Per layer, float32 `[examples, neurons]`; no columns where the feed-forward was removed.
        curvature: Per block, attention and feed-forward in turn; empty matrices where the block was removed.
    """

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    curvature: tuple[Curvature, ...]

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, for a file; `from_tensors` reads it back."""
        lists = {"heads": self.heads, "neurons": self.neurons}
        lists |= {field: tuple(getattr(block, field) for block in self.curvature) for field in Curvature._fields}
        return {f"{name}.{index}": tensor.contiguous() for name, tensors in lists.items() for index, tensor in enumerate(tensors)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Importance":
        """The importance whose `tensors` these are."""

        def listed(name: str) -> tuple[Tensor, ...]:
            return tuple(tensors[f"{name}.{index}"] for index in range(sum(key.startswith(f"{name}.") for key in tensors)))

        pairs = zip(listed("inputs"), listed("gradients"), strict=True)
        return cls(listed("heads"), listed("neurons"), tuple(Curvature(*pair) for pair in pairs))


def diagonal(gradients: Tensor) -> Tensor:
    """Diagonal of the Fisher information: `[examples, groups]` -> float64 `[groups]`, the mean squared gradient of each gate."""
    return gradients.double().square().mean(dim=0)


def full(gradients: Tensor) -> Tensor:
    """Fisher information within a layer: `[examples, groups]` -> float64 `[groups, groups]`, the mean outer product."""
    return gradients.double().T @ gradients.double() / max(len(gradients), 1)


def output_probe(logits: Callable[[Any], Sequence[Tensor]], *, seed: int = 0) -> Losses:
    """Losses whose gradients have, on average, the Fisher information of the model's predictions as their second moment.

    For probabilities p and standard normal noise, `v = sqrt(p) * (noise - sqrt(p) * <sqrt(p), noise>)` has covariance
    `diag(p) - p' p`, the curvature of the divergence from the model as it is; so `<logits, v>` is differentiated. It needs no labels, and
    unlike the loss on training examples that the model knows by heart it does not vanish.

    Args:
        logits: Takes the model's outputs to its logits, over classes `[batch, classes]`, over positions `[batch, sequence]`, or over a
            vocabulary for each token of a target `[batch, target, vocabulary]`, of whose divergences the mean is what counts.
        seed: Of the noise.
    """
    generator = torch.Generator().manual_seed(seed)

    def losses(outputs: ModelOutput, batch: Batch) -> Tensor:
        parts = logits(outputs)
        if parts[0].ndim == 3:
            real = real_tokens(batch, "decoder")
            return (_probe(parts[0].float(), None, generator) * real).sum(dim=-1) / real.sum(dim=-1).clamp_min(1).sqrt()
        padding = ~real_tokens(batch, "encoder") if len(parts) > 1 else None
        return torch.stack([_probe(part.float(), padding, generator) for part in parts]).sum(dim=0)

    return losses


def real_tokens(batch: Batch, side: Side) -> Tensor:
    """Which tokens that go through an encoder, or through a decoder with its cross-attention, are no padding; bool `[batch, tokens]`."""
    if side == "encoder":
        return batch["attention_mask"].bool()
    if "labels" in batch:
        return batch["labels"] != IGNORED
    if "decoder_attention_mask" in batch:
        return batch["decoder_attention_mask"].bool()
    return torch.ones_like(batch["decoder_input_ids"], dtype=torch.bool)


def fisher(model: PreTrainedModel, batches: Sequence[Batch], losses: Losses, *, bf16: bool = False, progress: bool = False) -> Importance:
    """Gradients of every example's loss with respect to a gate of one on every head and neuron, and the blocks' curvature.

    Args:
        model: A fine-tuned model; its mode, weights and `requires_grad` flags are as before when this returns.
        batches: Ready for `model(**batch)`, labels included if the losses need them.
        losses: Each example's loss, float `[batch]`, from the model's outputs and the batch.
        bf16: Run the model in bf16 mixed precision; sums stay in full precision.
        progress: Show a progress bar on stderr.
    """
    watches = _watches(model)
    device = next(model.parameters()).device
    with inference(model):
        for batch in tqdm(batches, desc="importance", unit="batch", disable=not progress):
            _watch_batch(model, {name: tensor.to(device) for name, tensor in batch.items()}, losses, watches, bf16=bf16)
    gates = tuple(torch.cat(watch.gates).float().cpu() for watch in watches)
    return Importance(heads=gates[::2], neurons=gates[1::2], curvature=tuple(watch.curvature() for watch in watches))


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


def projections(model: PreTrainedModel) -> list[tuple[nn.Linear | None, int]]:
    """Output projection and number of groups of every block, attention and feed-forward in turn; None where it was removed."""
    found: list[tuple[nn.Linear | None, int]] = []
    for layer in family_of(model).layers(model):
        found.append((layer.attention.output, layer.attention.heads) if layer.attention else (None, 0))
        found.append((layer.feed_forward.down, layer.feed_forward.neurons) if layer.feed_forward else (None, 0))
    return found


class _Watch:
    """Sums over batches at one block's output projection."""

    def __init__(self, linear: nn.Linear | None, groups: int, side: Side, like: Tensor) -> None:
        self.linear, self.groups, self.side = linear, groups, side
        columns, hidden = (linear.in_features + 1, linear.out_features) if linear else (0, 0)
        self.inputs, self.gradients = like.new_zeros(columns, columns), like.new_zeros(hidden, hidden)
        self.gates: list[Tensor] = []
        self.inputs_seen = self.examples = 0

    def hook(self, gate: Tensor, real: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """A pre-hook that multiplies the input `[batch, sequence, columns]` by its example's gate `[batch, groups]` and sums it up."""

        def multiply(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            hidden = inputs[0]
            if self.inputs_seen < CURVATURE_TOKENS:
                tokens = hidden.detach()[real]
                tokens = torch.cat([tokens, tokens.new_ones(len(tokens), 1)], dim=1)
                self.inputs_seen += len(tokens)
                _add_moments(self.inputs, tokens)
            columns = gate.to(hidden.dtype).repeat_interleave(hidden.shape[-1] // self.groups, dim=-1)
            return (hidden * columns[:, None, :], *inputs[1:])

        return multiply

    def note_gradient(self, real: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        """A forward hook that sums up the output's gradient, `[batch, sequence, hidden]`, when the backward pass gets there."""

        def add(gradient: Tensor) -> None:
            self.examples += len(real)
            _add_moments(self.gradients, gradient[real])

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output.register_hook(add)  # type: ignore[no-untyped-call]  # torch leaves it unannotated

        return hook

    def curvature(self) -> Curvature:
        """Means over the tokens, and over the examples, that the sums have seen."""
        inputs, gradients = self.inputs / max(self.inputs_seen, 1), self.gradients / max(self.examples, 1)
        return Curvature(inputs.float().cpu(), gradients.float().cpu())


def _add_moments(moments: Tensor, tokens: Tensor) -> None:
    """Add `tokens' tokens`, in the precision of the sum."""
    with torch.autocast(moments.device.type, enabled=False):
        tokens = tokens.to(moments.dtype)
        moments.addmm_(tokens.T, tokens)


def _watches(model: PreTrainedModel) -> list[_Watch]:
    like = next(model.parameters()).detach()
    sides = [layer.side for layer in family_of(model).layers(model) for _ in ("attention", "feed_forward")]
    return [_Watch(linear, groups, side, like) for (linear, groups), side in zip(projections(model), sides, strict=True)]


def _watch_batch(model: PreTrainedModel, batch: Batch, losses: Losses, watches: Sequence[_Watch], *, bf16: bool) -> None:
    """One forward and backward pass, seen by all watches."""
    examples = len(batch["input_ids"])
    gates = [watch.inputs.new_ones(examples, watch.groups).requires_grad_() for watch in watches]
    with ExitStack() as stack, torch.enable_grad():
        for watch, gate in zip(watches, gates, strict=True):
            if watch.linear is not None:
                real = real_tokens(batch, watch.side)
                stack.callback(watch.linear.register_forward_pre_hook(watch.hook(gate, real)).remove)
                stack.callback(watch.linear.register_forward_hook(watch.note_gradient(real)).remove)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            outputs = model(**batch)
        total = losses(outputs, batch).sum()
    for watch, gradient in zip(watches, torch.autograd.grad(total, gates, materialize_grads=True), strict=True):
        watch.gates.append(gradient)


def _probe(logits: Tensor, padding: Tensor | None, generator: torch.Generator) -> Tensor:
    """`<logits, v>` of `output_probe` over the last dimension; positions that are padding have no probability."""
    seen = logits.detach() if padding is None else logits.detach().masked_fill(padding, -torch.inf)
    root = seen.softmax(dim=-1).sqrt()
    noise = torch.randn(root.shape, generator=generator).to(root.device)
    direction = root * (noise - root * (root * noise).sum(dim=-1, keepdim=True))
    return (logits * direction).sum(dim=-1)
