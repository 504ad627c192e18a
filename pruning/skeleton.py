"""Models of a family in any shape, with random weights: what latency is measured on, where only shapes matter.

Exporting one model per size would take minutes. So one model is exported whose layers have all the sizes, its graph is cut at the
residual stream into blocks, and blocks are chained again in any order and number. A chain has the very nodes that the export of a
model of that shape has, so the runtime fuses and computes the same.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import onnx
import torch
from torch import nn
from transformers import PreTrainedModel

from pruning import onnx_graph
from pruning.errors import UnsupportedModelError
from pruning.families import AttentionBlock, EncoderLayer, Family, family_of
from service.artifact import LayerShape

SMALL_VOCABULARY = 1024
_NORMS = ("LayerNormalization", "SkipLayerNormalization")
_SHARED_ELEMENTS = 16


class Block(NamedTuple):
    """One attention or feed-forward block, by what is left of it: heads or neurons; 0 is a removed block."""

    kind: Literal["attention", "feed_forward"]
    size: int


def blocks_of(layers: Iterable[LayerShape]) -> list[Block]:
    """The blocks of these layers in the order of the residual stream."""
    return [block for layer in layers for block in (Block("attention", layer.heads), Block("feed_forward", layer.intermediate))]


@torch.no_grad()
def random_model(model: PreTrainedModel, layers: Sequence[LayerShape], *, seed: int = 0) -> PreTrainedModel:
    """A model of the same class, width and head size with layers of these shapes, random weights, and a small vocabulary.

    Biases and norms are random too: where parameters are equal, an exporter would share them between layers. The random numbers of
    the caller are left alone.
    """
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    config.vocab_size = min(config.vocab_size, SMALL_VOCABULARY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        skeleton: PreTrainedModel = type(model)(config)
        family = family_of(skeleton)
        for index, (layer, shape) in enumerate(zip(family.layers(skeleton), layers, strict=True)):
            _resize(family, skeleton, index, layer, shape)
        for parameter in skeleton.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return skeleton.eval()


@dataclass(frozen=True)
class BlockLibrary:
    """Blocks cut out of one graph, to be chained.

    Attributes:
        source: the graph they were cut from.
        shared: nodes that are there once whatever is chained: embeddings, attention mask, constants.
        blocks: nodes of each block, with the value of the residual stream that it reads and the one that it gives.
        head: nodes from the last value of the residual stream to the outputs.
        first: the residual stream's value behind the embeddings.
        last: the residual stream's value that the head reads.
    """

    source: onnx.ModelProto
    shared: tuple[onnx.NodeProto, ...]
    blocks: Mapping[Block, "_Cut"]
    head: tuple[onnx.NodeProto, ...]
    first: str
    last: str

    def chain(self, blocks: Sequence[Block]) -> onnx.ModelProto:
        """The graph of embeddings, these blocks, and head. A block may come several times; each has weights of its own in memory."""
        weights = onnx_graph.initializers(self.source)
        nodes, own, value = list(self.shared), dict[str, onnx.TensorProto](), self.first
        for position, block in enumerate(blocks):
            cut = self.blocks[block]
            names = {cut.reads: value} | _renamed(cut, weights, f"{position}.{block.kind}.{block.size}/")
            nodes += _rewired(cut.nodes, names)
            own |= {new: weights[old] for old, new in names.items() if old in weights}
            value = names[cut.gives]
        nodes += _rewired(self.head, {self.last: value})
        live = _at(nodes, _ancestors(nodes, set(onnx_graph.output_names(self.source))))
        graph = onnx.GraphProto(name="chain", node=live, input=self.source.graph.input, output=self.source.graph.output)
        _add_weights(graph, weights, own)
        return onnx.helper.make_model(graph, opset_imports=self.source.opset_import, ir_version=self.source.ir_version)


@dataclass(frozen=True)
class _Cut:
    nodes: tuple[onnx.NodeProto, ...]
    reads: str
    gives: str


def cut_blocks(proto: onnx.ModelProto, layers: Sequence[LayerShape]) -> BlockLibrary:
    """Cut the graph of an encoder whose layers have these shapes at its residual stream.

    The residual stream of a post-norm encoder is what its layer normalisations give: one behind the embeddings and one behind each
    block. Of blocks of one size the first is taken.
    """
    nodes, kinds = list(proto.graph.node), blocks_of(layers)
    stream = [node.output[0] for node in nodes if node.op_type in _NORMS]
    if len(stream) != len(kinds) + 1:
        raise UnsupportedModelError(
            f"the graph has {len(stream)} layer normalisations where an encoder of {len(layers)} layers with a norm behind the "
            f"embeddings and each block has {len(kinds) + 1}: this family cannot be cut into blocks"
        )
    spans = list(pairwise(stream))
    needed = [_ancestors(nodes, {gives}, stop={reads}) for reads, gives in spans]
    inside = [_descendants(nodes, reads) for reads, _ in spans]
    head = _descendants(nodes, stream[-1])
    around_head = _ancestors(nodes, set(onnx_graph.output_names(proto)), stop={stream[-1]}) - head
    shared = _ancestors(nodes, {stream[0]}).union(around_head, *(n - i for n, i in zip(needed, inside, strict=True)))
    cuts = [_Cut(_at(nodes, (n & i) - shared), *span) for n, i, span in zip(needed, inside, spans, strict=True)]
    return BlockLibrary(
        source=proto,
        shared=_at(nodes, shared),
        blocks=dict(reversed(list(zip(kinds, cuts, strict=True)))),
        head=_at(nodes, head),
        first=stream[0],
        last=stream[-1],
    )


def _resize(family: Family, model: PreTrainedModel, index: int, layer: EncoderLayer, shape: LayerShape) -> None:
    """Give a dense layer of `model` this shape, with new weights."""
    hidden = model.config.hidden_size
    if layer.attention is None or layer.feed_forward is None:
        raise ValueError(f"layer {index} of a new {type(model).__name__} has a block missing")
    if shape.heads:
        width = shape.heads * layer.attention.head_size
        query, key, value = (nn.Linear(hidden, width) for _ in range(3))
        block = AttentionBlock(layer.attention.name, query, key, value, nn.Linear(width, hidden), layer.attention.head_size)
        family.set_attention(model, index, block)
    else:
        family.remove_attention(model, index, torch.zeros(hidden))
    if shape.intermediate:
        family.set_feed_forward(model, index, nn.Linear(hidden, shape.intermediate), nn.Linear(shape.intermediate, hidden))
    else:
        family.remove_feed_forward(model, index, torch.zeros(hidden))


def _ancestors(nodes: Sequence[onnx.NodeProto], values: set[str], *, stop: Collection[str] = ()) -> set[int]:
    """Positions of the nodes that these values need, not looking behind the values in `stop`."""
    wanted, found = values.difference(stop), set()
    for position, node in reversed(list(enumerate(nodes))):
        if wanted.intersection(node.output):
            found.add(position)
            wanted.update(set(node.input).difference(stop))
    return found


def _descendants(nodes: Sequence[onnx.NodeProto], value: str) -> set[int]:
    """Positions of the nodes that depend on this value."""
    reached, found = {value}, set()
    for position, node in enumerate(nodes):
        if reached.intersection(node.input):
            found.add(position)
            reached.update(node.output)
    return found


def _at(nodes: Sequence[onnx.NodeProto], positions: set[int]) -> tuple[onnx.NodeProto, ...]:
    return tuple(nodes[position] for position in sorted(positions))


def _renamed(cut: _Cut, weights: onnx_graph.Initializers, prefix: str) -> dict[str, str]:
    """New names for what a block computes and for its weights; small constants stay shared."""
    computed = {value for node in cut.nodes for value in node.output if value}
    read = {value for node in cut.nodes for value in node.input if value in weights}
    large = {name for name in read if _elements(weights[name]) > _SHARED_ELEMENTS}
    return {name: prefix + name for name in computed | large}


def _rewired(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> list[onnx.NodeProto]:
    """Copies of the nodes that read and give the values of these new names."""
    copies = []
    for node in nodes:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.input[:] = [names.get(value, value) for value in node.input]
        copied.output[:] = [names.get(value, value) for value in node.output]
        copied.name = names.get(node.output[0], node.output[0])
        copies.append(copied)
    return copies


def _add_weights(graph: onnx.GraphProto, weights: onnx_graph.Initializers, own: Mapping[str, onnx.TensorProto]) -> None:
    """Add the initializers that the graph's nodes read: the blocks' own under their new names, the others as they are."""
    read = dict.fromkeys(value for node in graph.node for value in node.input)
    for name in read:
        source = own.get(name) or weights.get(name)
        if source is not None:
            graph.initializer.add().CopyFrom(source)
            graph.initializer[-1].name = name


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
