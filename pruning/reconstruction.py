"""Reconstruction: after groups were chosen, what is left of each block is refitted to the dense model by least squares.

Layer by layer, attention before feed-forward, the surviving columns and the bias of the block's output projection are solved for so
that, fed with the *pruned* model's own hidden states, the block brings the residual stream back to where the dense model has it
before the norm. Kwon et al. (2022, arXiv:2204.09656) tune one scale per group this way; solving for the weights themselves follows
K-prune (Park et al., 2024, arXiv:2308.03449) and ZipLM (Kurtic et al., 2023, arXiv:2302.04089). No gradient, no labels.

A decoder comes after its encoder, is given the targets, and reads what the pruned encoder, refitted already, makes of the sources.
"""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from pruning.errors import UnsupportedModelError
from pruning.families import EncoderLayer, family_of
from pruning.importance import Batch, inference, real_tokens
from pruning.structure import LayerStructure, Structure, bake, dense_structure, linears

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT_EVERY = 8
FIT_TOKENS = 131_072  # tokens that a fit is made from, drawn evenly: a feed-forward's normal equations cost as much as its forward pass


@dataclass(frozen=True)
class BlockFit:
    """What reconstruction did to one block, measured on the examples held out from the fit.

    Attributes:
        name: The block, as the family names it.
        error_before: Mean squared distance from the dense residual stream with the removed columns merely zeroed.
        error_after: The same with the weights that the model now holds.
        damping: Ridge strength that was chosen; None where the old weights were no worse and stayed.
    """

    name: str
    error_before: float
    error_after: float
    damping: float | None


def reconstruct(
    model: PreTrainedModel, structure: Structure, batches: Sequence[Batch], *, bf16: bool = False, progress: bool = False
) -> tuple[BlockFit, ...]:
    """Zero what `structure` removes and refit what it leaves, in place, against the model as it comes in.

    Args:
        model: The dense model; afterwards the masked one, with zero columns for removed groups and refitted survivors.
        structure: What stays.
        batches: Calibration inputs, ready for `model(**batch)`; every eighth is held out to choose the damping and to refuse a fit
            that does not generalise, so give two or more.
        bf16: Run both models' layers in bf16 mixed precision; sums and solutions stay in full precision.
        progress: Show a progress bar on stderr.

    The blocks' norms come after the residual addition, as in all families of `families/`. Memory: two hidden states for each token.
    """
    if len(batches) < 2:
        raise ValueError(f"{len(batches)} calibration batch was given, two or more batches are needed: one of them is held out")
    if structure == dense_structure(model):
        return ()
    teacher = copy.deepcopy(model)
    bake(model, structure)
    fits: list[BlockFit] = []
    with inference(model), inference(teacher), torch.no_grad():
        streams = _Stream(model, batches, bf16=bf16), _Stream(teacher, batches, bf16=bf16)
        for index, stays in enumerate(tqdm(structure, desc="reconstruction", unit="layer", disable=not progress)):
            if streams[0].begins_decoder(index):
                for stream in streams:
                    stream.enter_decoder(index)
            fits += _refit_layer(*streams, index, stays)
    return tuple(fits)


def _refit_layer(student: "_Stream", teacher: "_Stream", index: int, stays: LayerStructure) -> list[BlockFit]:
    """Refit the attention, then the feed-forward behind it, and carry both streams on to the next layer."""
    attention, feed_forward = student.blocks[index].attention, student.blocks[index].feed_forward
    fits = []
    if attention:
        columns = [head * attention.head_size + column for head in stays.heads for column in range(attention.head_size)]
        looks = zip(student.attention(index), teacher.attention(index), strict=True)
        fits.append(_refit(attention.name, attention.output, columns, looks))
    ends = student.ends_module(index)
    if feed_forward:
        looks = zip(student.feed_forward(index), teacher.feed_forward(index, advance=ends), strict=True)
        fits.append(_refit(feed_forward.name, feed_forward.down, stays.neurons, looks))
    elif ends:
        teacher.advance(index)
    if ends:
        student.advance(index)
    return fits


def _refit(name: str, linear: nn.Linear, columns: Sequence[int], looks: Iterable[tuple["_Look", "_Look"]]) -> BlockFit:
    """Solve for `columns` of the linear's weight and for its bias; keep the solution if it holds on the batches left out."""
    fitted, held_out = _LeastSquares(linear, columns), _LeastSquares(linear, columns)
    for number, (student, teacher) in enumerate(looks):
        target = held_out if number % HELD_OUT_EVERY == 1 else fitted
        target.add(student.inputs, teacher.output + teacher.residual - student.output - student.residual)
    changes = {damping: fitted.solve(damping) for damping in DAMPINGS}
    damping = min(changes, key=lambda candidate: held_out.error(changes[candidate]))
    before, after = held_out.error(torch.zeros_like(changes[damping])), held_out.error(changes[damping])
    if not after < before:
        return BlockFit(name, before, before, None)
    change = changes[damping].to(linear.weight.dtype)
    linear.weight[:, list(columns)] += change[:-1].T
    linear.bias.add_(change[-1])
    return BlockFit(name, before, after, damping)


class _LeastSquares:
    """Normal equations of `[inputs, 1] @ change = missing`, summed over batches in float64; memory does not grow with tokens.

    The unknown is the *change* of the surviving columns and the bias, so that ridge pulls towards the weights at hand.
    """

    def __init__(self, linear: nn.Linear, columns: Sequence[int]) -> None:
        self.columns = torch.tensor(columns, dtype=torch.long, device=linear.weight.device)
        unknowns = len(columns) + 1
        zeros = linear.weight.new_zeros
        self.gram = zeros(unknowns, unknowns, dtype=torch.float64)
        self.cross = zeros(unknowns, linear.out_features, dtype=torch.float64)
        self.energy, self.tokens = 0.0, 0

    def add(self, inputs: Tensor, missing: Tensor) -> None:
        """Take in a batch: inputs `[tokens, columns]`, and what the block's output lacks, `[tokens, hidden]`."""
        survivors = torch.cat([inputs[:, self.columns], inputs.new_ones(len(inputs), 1)], dim=1)
        self.gram += survivors.T @ survivors
        self.cross += survivors.T @ missing
        self.energy += float(missing.double().square().sum())
        self.tokens += len(inputs)

    def solve(self, damping: float) -> Tensor:
        """The change, float64 `[columns + 1, hidden]`; `damping` is relative to the mean of the diagonal."""
        ridge = damping * self.gram.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        change: Tensor = torch.linalg.solve(self.gram + torch.diag(ridge.expand(len(self.gram))), self.cross)
        return change

    def error(self, change: Tensor) -> float:
        """Mean over tokens of the squared distance that is left after this change."""
        gained = (change * (2 * self.cross - self.gram @ change)).sum()
        return (self.energy - float(gained)) / max(self.tokens, 1)


@dataclass(frozen=True)
class _Look:
    """What goes through one block, for the real tokens of one batch that are fitted to.

    Attributes:
        inputs: What enters the output projection, `[tokens, columns]`.
        output: What leaves it, `[tokens, hidden]`.
        residual: What is added to that, `[tokens, hidden]`.
    """

    inputs: Tensor
    output: Tensor
    residual: Tensor


class _Reached(Exception):  # noqa: N818 - control flow, not an error: the forward pass has come as far as it is needed
    """Ends a forward pass early."""


class _Stream:
    """One model's hidden states at the entrance of one layer, for all batches; layers are called one at a time.

    The layers are those that the family lists, of which two may be parts of one module; the states are at the entrance of that.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], *, bf16: bool = False) -> None:
        self.model, self.batches, self.bf16 = model, batches, bf16
        self.blocks = family_of(model).layers(model)
        self.modules = layer_modules(model)
        self.encoded: list[Tensor] | None = None
        self._enter(0)

    def begins_decoder(self, index: int) -> bool:
        """Whether the layer is the first of the decoder."""
        return self.encoded is None and self.blocks[index].side != "encoder"

    def enter_decoder(self, index: int) -> None:
        """From the end of the encoder to the entrance of the decoder, whose first layer this is."""
        self.encoded = self.hidden
        self._enter(index)

    def ends_module(self, index: int) -> bool:
        """Whether the module that the layer is part of ends with it."""
        return index + 1 == len(self.modules) or self.modules[index + 1] is not self.modules[index]

    def attention(self, index: int) -> Iterator[_Look]:
        """What goes through the layer's attention, batch by batch."""
        block = self.blocks[index].attention
        assert block
        return (self._look(index, number, block.output, block.query) for number in range(len(self.batches)))

    def feed_forward(self, index: int, *, advance: bool = False) -> Iterator[_Look]:
        """What goes through the layer's feed-forward, batch by batch; each batch moves on to the next layer if asked to."""
        block = self.blocks[index].feed_forward
        assert block
        return (self._look(index, number, block.down, block.up, advance=advance) for number in range(len(self.batches)))

    def advance(self, index: int) -> None:
        """Replace the hidden states by what the layer makes of them."""
        for number in range(len(self.batches)):
            self.hidden[number] = self._call(index, number)

    def _look(self, index: int, number: int, projection: nn.Linear, entrance: nn.Linear, *, advance: bool = False) -> _Look:
        """Run one layer up to `projection`, or to its end; in a post-norm block the residual is what enters it, at `entrance`."""
        seen: dict[str, Tensor] = {}

        def note_residual(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen["residual"] = inputs[0]

        def note_projection(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["inputs"], seen["output"] = inputs[0], output
            if not advance:
                raise _Reached

        with ExitStack() as stack:
            stack.callback(entrance.register_forward_pre_hook(note_residual).remove)
            stack.callback(projection.register_forward_hook(note_projection).remove)
            stack.enter_context(suppress(_Reached))
            hidden = self._call(index, number)
            if advance:
                self.hidden[number] = hidden
        real = self.real[number].to(seen["inputs"].device)
        return _Look(**{name: tensor.flatten(0, 1)[real].to(projection.weight.dtype) for name, tensor in seen.items()})

    def _enter(self, index: int) -> None:
        """Take the states at the entrance of a stack, whose first layer this is, and draw the tokens that are fitted to."""
        self.first = self.modules[index]
        masks = [real_tokens(batch, self.blocks[index].side) for batch in self.batches]
        every = math.ceil(sum(int(mask.sum()) for mask in masks) / FIT_TOKENS)
        self.real = [mask.flatten().nonzero().flatten()[::every] for mask in masks]
        self.hidden = [self._entrance(number)[0] for number in range(len(self.batches))]

    def _call(self, index: int, number: int) -> Tensor:
        """One module's output for one batch, `[batch, sequence, hidden]`."""
        _, others, keywords = self._entrance(number)
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.modules[index](self.hidden[number], *others, **keywords)
        return output if isinstance(output, Tensor) else output[0]

    def _entrance(self, number: int) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """What a stack's first layer is called with: the embeddings, then whatever else (masks, sources), which every layer gets alike.

        Made anew each time: that costs one embedding, where the attention masks of all batches would fill the memory.
        """
        caught: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

        def catch(_: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            caught.append((inputs[0], inputs[1:], keywords))
            raise _Reached

        device = next(self.model.parameters()).device
        with ExitStack() as stack:
            stack.callback(self.first.register_forward_pre_hook(catch, with_kwargs=True).remove)
            stack.enter_context(suppress(_Reached))
            self.model(**{name: tensor.to(device) for name, tensor in self.batches[number].items()}, **self._generating(number))
        return caught[0]

    def _generating(self, number: int) -> dict[str, Any]:
        """What the forward of an encoder-decoder takes beside its batch: no cache, and the encoder's states once there are some."""
        if not self.model.config.is_encoder_decoder:
            return {}
        encoded = {} if self.encoded is None else {"encoder_outputs": BaseModelOutput(last_hidden_state=self.encoded[number])}
        return {"use_cache": False, **encoded}


def layer_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The module that each layer of the family is part of; the two layers that a decoder's are listed as share theirs."""
    layers = family_of(model).layers(model)
    encoder = [[layer] for layer in layers if layer.side == "encoder"]
    decoder = [layer for layer in layers if layer.side != "encoder"]
    if not decoder:
        return list(_module_list(model, encoder))
    pairs = [decoder[at : at + 2] for at in range(0, len(decoder), 2)]
    of_decoder = _module_list(model.get_decoder(), pairs)
    return [*_module_list(model.get_encoder(), encoder), *(module for module in of_decoder for _ in ("decoder", "cross"))]


def _module_list(stack: nn.Module, layers: Sequence[Sequence[EncoderLayer]]) -> nn.ModuleList:
    """The one list in `stack` whose entries own the linears of these layers in order."""
    owned = [{id(linear) for layer in parts for linear in linears(layer)} for parts in layers]
    for candidate in stack.modules():
        if isinstance(candidate, nn.ModuleList) and len(candidate) == len(layers):
            inside = [{id(module) for module in entry.modules()} for entry in candidate]
            if all(linears_of <= modules for linears_of, modules in zip(owned, inside, strict=True)):
                return candidate
    raise UnsupportedModelError(f"{type(stack).__name__} keeps its layers in no ModuleList, so they cannot be refitted one by one")
