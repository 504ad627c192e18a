"""What is left of a model, as data: which heads and neurons stay, layer by layer, and what that costs.

A `Structure` is what a search or a method decides. `bake` writes it into the weights, `gated` applies it without touching them,
`pruning/compaction.py` then makes the model small. `parameters`, `macs` and `density` count what there is; terms are those of the
artifact's manifest.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning.families import EncoderLayer, family_of
from pruning.families.base import Side
from pruning.families.editing import dense_decoder_layers
from pruning.families.editing import dense_layers as dense_layers_of
from service.artifact import Counts, LayerShape, Macs

PER_TOKEN_HEADS = ("qa_outputs", "lm_head")


@dataclass(frozen=True)
class LayerStructure:
    """Heads and neurons of one layer that stay, as ascending indices in the numbering of the model at hand."""

    heads: tuple[int, ...]
    neurons: tuple[int, ...]


Structure = tuple[LayerStructure, ...]


def dense_structure(model: PreTrainedModel) -> Structure:
    """The structure that removes nothing from the model as it is now."""
    return tuple(LayerStructure(tuple(range(shape.heads)), tuple(range(shape.intermediate))) for shape in shapes(model))


def shapes(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    """Heads and neurons of every layer; 0 for a block that was removed."""
    return tuple(
        LayerShape(
            heads=layer.attention.heads if layer.attention else 0,
            intermediate=layer.feed_forward.neurons if layer.feed_forward else 0,
        )
        for layer in family_of(model).layers(model)
    )


def sides(model: PreTrainedModel) -> tuple[Side, ...]:
    """Where each layer is: in the encoder, or a decoder's self-attention, or its cross-attention and feed-forward."""
    return tuple(layer.side for layer in family_of(model).layers(model))


def shapes_of(structure: Structure) -> tuple[LayerShape, ...]:
    """The shapes that a compact model of this structure has."""
    return tuple(LayerShape(heads=len(layer.heads), intermediate=len(layer.neurons)) for layer in structure)


def bake(model: PreTrainedModel, structure: Structure) -> None:
    """Zero, in place, the columns by which removed heads and neurons reach the residual stream: the *masked* model."""
    with torch.no_grad():
        for linear, gate in _gates(model, structure):
            linear.weight.mul_(gate)


@contextmanager
def gated(model: PreTrainedModel, structure: Structure) -> Iterator[None]:
    """Inside, the model computes what `bake` would make it compute; its weights stay as they are."""
    with ExitStack() as stack:
        for linear, gate in _gates(model, structure):
            handle = linear.register_forward_pre_hook(lambda _, inputs, gate=gate: (inputs[0] * gate, *inputs[1:]))
            stack.callback(handle.remove)
        yield


def parameters(model: PreTrainedModel) -> Counts:
    """Parameters of the model; `encoder` counts the weights of all layers' linears, a decoder's too, without biases."""
    return Counts(
        encoder=sum(_linear_weights(layer) for layer in family_of(model).layers(model)),
        embeddings=sum(weight.numel() for weight in {table.weight for table in embedding_tables(model).values()}),
        total=sum(parameter.numel() for parameter in model.parameters()),
    )


def macs(model: PreTrainedModel, sequence_length: int, target_length: int | None = None) -> Macs:
    """Multiply-accumulates for one row: linears, the attention core, and the head of the task.

    Args:
        model: Of any structure.
        sequence_length: Tokens in the row.
        target_length: Tokens that a decoder is given, all at once; as many as the row has if None.
    """
    target = sequence_length if target_length is None else target_length
    encoder = sum(_layer_macs(layer, sequence_length, target) for layer in family_of(model).layers(model))
    head = _head_macs(model, target if model.config.is_encoder_decoder else sequence_length)
    return Macs(encoder=encoder, embeddings=0, total=encoder + head, sequence_length=sequence_length)


def density(model: PreTrainedModel, dense_layers: int | None = None) -> float:
    """Linear weights left in encoder and decoder, over those of the dense model.

    Args:
        model: Of any structure.
        dense_layers: Layers that the dense model had, without those of a decoder; by default the model knows.
    """
    config, hidden = model.config, model.config.hidden_size
    layers = dense_layers_of(model) if dense_layers is None else dense_layers
    dense: int = layers * (4 * hidden**2 + 2 * hidden * getattr(config, family_of(model).width_field))
    if config.is_encoder_decoder:
        dense += dense_decoder_layers(config) * (8 * hidden**2 + 2 * hidden * config.decoder_ffn_dim)
    return parameters(model).encoder / dense


def embedding_tables(model: PreTrainedModel) -> dict[str, nn.Embedding]:
    """Embedding tables before the first layer, by name; the names of one shared table each stand for it."""
    inside = {id(module) for module in getattr(model.base_model, "embeddings", model.base_model).modules()}
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding) and id(module) in inside}


def _gates(model: PreTrainedModel, structure: Structure) -> Iterator[tuple[nn.Linear, Tensor]]:
    """Each linear that something is removed from, with 1 or 0 for each of its input columns."""
    layers = family_of(model).layers(model)
    if len(layers) != len(structure):
        raise ValueError(f"the structure has {len(structure)} layers, the model {len(layers)}")
    for layer, kept in zip(layers, structure, strict=True):
        if layer.attention:
            yield layer.attention.output, _gate(layer.attention.output, kept.heads, layer.attention.head_size)
        elif kept.heads:
            raise ValueError(f"the structure keeps heads {kept.heads} of an attention that was removed")
        if layer.feed_forward:
            yield layer.feed_forward.down, _gate(layer.feed_forward.down, kept.neurons, 1)
        elif kept.neurons:
            raise ValueError(f"the structure keeps {len(kept.neurons)} neurons of a feed-forward that was removed")


def _gate(linear: nn.Linear, kept: tuple[int, ...], group_size: int) -> Tensor:
    """1 for the input columns of kept groups, else 0; float `[in_features]`."""
    gate = linear.weight.new_zeros(linear.in_features // group_size)
    if kept and not 0 <= min(kept) <= max(kept) < len(gate):
        raise ValueError(f"the structure keeps group {max(kept)} of a block that has {len(gate)}")
    gate[list(kept)] = 1
    return gate.repeat_interleave(group_size)


def linears(layer: EncoderLayer) -> list[nn.Linear]:
    """The linears of a layer that density counts; none of a block that was removed."""
    attention, feed_forward = layer.attention, layer.feed_forward
    found = [attention.query, attention.key, attention.value, attention.output] if attention else []
    return found + ([feed_forward.up, feed_forward.down] if feed_forward else [])


def _linear_weights(layer: EncoderLayer) -> int:
    return sum(linear.weight.numel() for linear in linears(layer))


def _layer_macs(layer: EncoderLayer, source: int, target: int) -> int:
    """Queries come from the layer's own stack, with keys and values unless they are those of a cross-attention."""
    queries = source if layer.side == "encoder" else target
    keys = source if layer.side == "cross" else queries
    total = 0
    if layer.attention:
        weights = layer.attention.output.weight.numel()  # as many as those of queries, of keys, and of values
        total += 2 * weights * (queries + keys) + 2 * queries * keys * layer.attention.output.in_features
    if layer.feed_forward:
        total += queries * (layer.feed_forward.up.weight.numel() + layer.feed_forward.down.weight.numel())
    return total


def _head_macs(model: PreTrainedModel, tokens: int) -> int:
    """Linears outside the layers: heads of spans and of language models read every token, poolers and classifiers read one."""
    inside = {id(linear) for layer in family_of(model).layers(model) for linear in linears(layer)}
    outside = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and id(m) not in inside}
    return sum(m.weight.numel() * (tokens if name in PER_TOKEN_HEADS else 1) for name, m in outside.items())
