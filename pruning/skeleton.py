"""Models of a family in any shape, with random weights: what latency is measured on, where only shapes matter.

Exporting one model per size would take minutes. So one model is exported whose layers have all the sizes, its graph is cut at the
residual stream into blocks, and blocks are chained again in any order and number. A chain has the very nodes that the export of a
model of that shape has, so the runtime fuses and computes the same.
"""

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
from pruning.vocabulary import input_vocabulary
from service.artifact import LayerShape

SMALL_VOCABULARY = 1024
_NORMS = ("LayerNormalization", "SkipLayerNormalization")
_SHARED_ELEMENTS = 16


class Block(NamedTuple):
    """One attention or feed-forward block, by what is left of it: heads or neurons; 0 is a removed block.

    "source" is the part of a cross-attention that an encoder's graph has: its keys and values.
    """

    kind: Literal["attention", "feed_forward", "source", "self_attention", "cross_attention"]
    size: int


def blocks_of(layers: Iterable[LayerShape]) -> list[Block]:
    """The blocks of these layers in the order of the residual stream."""
    return [block for layer in layers for block in (Block("attention", layer.heads), Block("feed_forward", layer.intermediate))]


@torch.no_grad()
def random_model(
    model: PreTrainedModel, layers: Sequence[LayerShape], *, decoder_layers: int = 0, vocabulary: int = SMALL_VOCABULARY, seed: int = 0
) -> PreTrainedModel:
    """A model of the same class, width and head size with layers of these shapes, random weights, and a small vocabulary.

    Biases and norms are random too: where parameters are equal, an exporter would share them between layers. The random numbers of
    the caller are left alone.

    Args:
        model: of any structure; its weights are not looked at.
        layers: as its family lists them.
        decoder_layers: of an encoder-decoder, whose two entries each are the last of `layers`.
        vocabulary: the size of the tables, if the model's are not smaller.
        seed: of the weights.
    """
    config = copy.deepcopy(model.config)
    if config.is_encoder_decoder:
        config.decoder_layers, config.tie_word_embeddings = decoder_layers, True
        config.encoder_layers = len(layers) - 2 * decoder_layers
    config.num_hidden_layers = len(layers) - 2 * decoder_layers
    config.vocab_size = min(input_vocabulary(model) or config.vocab_size, vocabulary)
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
        outputs: of the head.
        first: the residual stream's value behind the embeddings.
        last: the residual stream's value that the head reads.
    """

    source: onnx.ModelProto
    shared: tuple[onnx.NodeProto, ...]
    blocks: Mapping[Block, "_Cut"]
    head: tuple[onnx.NodeProto, ...]
    outputs: tuple[onnx.ValueInfoProto, ...]
    first: str
    last: str

    def chain(self, blocks: Sequence[Block]) -> onnx.ModelProto:
        """The graph of embeddings, these blocks, and head. A block may come several times; each has weights of its own in memory.

        Inputs and outputs that belong to a block, such as its cache, are there for each time that it comes, under names of their own.
        """
        weights = onnx_graph.initializers(self.source)
        nodes, own, value = list(self.shared), dict[str, onnx.TensorProto](), self.first
        inputs, outputs = list(self.source.graph.input), list(self.outputs)
        for position, block in enumerate(blocks):
            cut = self.blocks[block]
            names = {cut.reads: value} | _renamed(cut, weights, f"{position}.{block.kind}.{block.size}/")
            nodes += _rewired(cut.nodes, names)
            own |= {new: weights[old] for old, new in names.items() if old in weights}
            inputs += _called(self.source.graph.input, cut.inputs, names)
            outputs += _called(self.source.graph.output, cut.outputs, names)
            value = value if cut.gives is None else names[cut.gives]
        nodes += _rewired(self.head, {self.last: value})
        live = _at(nodes, _ancestors(nodes, {output.name for output in outputs}))
        read = {name for node in live for name in node.input}
        graph = onnx.GraphProto(name="chain", node=live, input=[each for each in inputs if each.name in read], output=outputs)
        _add_weights(graph, weights, own)
        return onnx.helper.make_model(graph, opset_imports=self.source.opset_import, ir_version=self.source.ir_version)


@dataclass(frozen=True)
class _Cut:
    nodes: tuple[onnx.NodeProto, ...]
    reads: str
    gives: str | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


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
    inside = [_descendants(nodes, {reads}) for reads, _ in spans]
    head = _descendants(nodes, {stream[-1]})
    around_head = _ancestors(nodes, set(onnx_graph.output_names(proto)), stop={stream[-1]}) - head
    shared = _ancestors(nodes, {stream[0]}).union(around_head, *(n - i for n, i in zip(needed, inside, strict=True)))
    cuts = [_Cut(_at(nodes, (n & i) - shared), *span) for n, i, span in zip(needed, inside, spans, strict=True)]
    return BlockLibrary(
        source=proto,
        shared=_at(nodes, shared),
        blocks=dict(reversed(list(zip(kinds, cuts, strict=True)))),
        head=_at(nodes, head),
        outputs=tuple(proto.graph.output),
        first=stream[0],
        last=stream[-1],
    )


def cut_encoder(proto: onnx.ModelProto, layers: Sequence[LayerShape], cross_heads: Sequence[int]) -> BlockLibrary:
    """Cut the encoder's graph of a model that generates: its own blocks, and the keys and values of each cross-attention.

    In 8 bits each of those quantizes the encoder's states itself, which the whole graph does once.

    Args:
        proto: as `pruning.seq2seq_export.to_onnx` gives it.
        layers: shapes of the encoder's layers.
        cross_heads: heads of each cross-attention; of those without there is nothing in the graph.
    """
    stream = _stream(proto, 2 * len(layers) + 1)
    spans = [_Span(block, *span) for block, span in zip(blocks_of(layers), pairwise(stream), strict=True)]
    spans += [
        _Span(Block("source", heads), stream[-1], None, outputs=(f"cross_key_{index}", f"cross_value_{index}"))
        for index, heads in enumerate(cross_heads)
        if heads
    ]
    states = onnx.helper.make_tensor_value_info("states", onnx.TensorProto.FLOAT, None)
    head = onnx.helper.make_node("Identity", [stream[-1]], [states.name])
    return _library(proto, spans, stream, head=(head,), outputs=(states,))


def cut_decoder(proto: onnx.ModelProto, layers: Sequence[tuple[int, int, int]]) -> BlockLibrary:
    """Cut the decoder's graph of a model that generates; each self-attention has a cache of its own, and so has each cross-attention.

    Args:
        proto: as `pruning.seq2seq_export.to_onnx` gives it.
        layers: heads of self-attention, heads of cross-attention, and neurons of each layer.
    """
    stream, spans = _stream(proto, 3 * len(layers) + 1), list[_Span]()
    for index, (own, cross, neurons) in enumerate(layers):
        parts = [
            (Block("self_attention", own), "past", "new"),
            (Block("cross_attention", cross), "cross", None),
            (Block("feed_forward", neurons), None, None),
        ]
        for block, reads, gives in parts:
            at = len(spans)
            cache = tuple(f"{reads}_{part}_{index}" for part in ("key", "value")) if reads and block.size else ()
            new = tuple(f"{gives}_{part}_{index}" for part in ("key", "value")) if gives and block.size else ()
            spans.append(_Span(block, stream[at], stream[at + 1], inputs=cache, outputs=new))
    logits = tuple(value for value in proto.graph.output if value.name == "logits")
    nodes = list(proto.graph.node)
    behind, needed = _descendants(nodes, {stream[-1]}), _ancestors(nodes, {"logits"}, stop={stream[-1]})
    return _library(proto, spans, stream, head=_at(nodes, needed & behind), around_head=needed - behind, outputs=logits)


class _Span(NamedTuple):
    """A block between two values of the residual stream, or behind one, with the inputs and outputs of the graph that are its own."""

    block: Block
    reads: str
    gives: str | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def _stream(proto: onnx.ModelProto, count: int) -> list[str]:
    """Values of the residual stream; what layer normalisations give."""
    stream = [node.output[0] for node in proto.graph.node if node.op_type in _NORMS]
    if len(stream) != count:
        raise UnsupportedModelError(
            f"the graph has {len(stream)} layer normalisations, {count} were expected: it cannot be cut into blocks"
        )
    return stream


def _library(
    proto: onnx.ModelProto,
    spans: Sequence[_Span],
    stream: Sequence[str],
    *,
    head: tuple[onnx.NodeProto, ...],
    outputs: tuple[onnx.ValueInfoProto, ...],
    around_head: Collection[int] = (),
) -> BlockLibrary:
    """Blocks are the nodes that depend on the residual stream or on an input of their own; of one size the first is taken."""
    nodes = list(proto.graph.node)
    inside = _descendants(nodes, {*stream, *(name for span in spans for name in span.inputs)})
    needed = [_ancestors(nodes, {*span.outputs, *([span.gives] if span.gives else [])}, stop={span.reads}) for span in spans]
    cuts = {
        span.block: _Cut(_at(nodes, found & inside), span.reads, span.gives, span.inputs, span.outputs)
        for span, found in reversed(list(zip(spans, needed, strict=True)))
    }
    shared = _ancestors(nodes, {stream[0]}).union(around_head, *(found - inside for found in needed))
    return BlockLibrary(proto, _at(nodes, shared), cuts, head, outputs, first=stream[0], last=stream[-1])


def _resize(family: Family, model: PreTrainedModel, index: int, layer: EncoderLayer, shape: LayerShape) -> None:
    """Give a dense layer of `model` this shape, with new weights."""
    hidden = model.config.hidden_size
    if layer.attention is None:
        raise ValueError(f"layer {index} of a new {type(model).__name__} has no attention")
    if shape.heads:
        width = shape.heads * layer.attention.head_size
        query, key, value = (nn.Linear(hidden, width) for _ in range(3))
        block = AttentionBlock(layer.attention.name, query, key, value, nn.Linear(width, hidden), layer.attention.head_size)
        family.set_attention(model, index, block)
    else:
        family.remove_attention(model, index, torch.zeros(hidden))
    if layer.feed_forward is None:
        return
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


def _descendants(nodes: Sequence[onnx.NodeProto], values: Collection[str]) -> set[int]:
    """Positions of the nodes that depend on any of these values."""
    reached, found = set(values), set()
    for position, node in enumerate(nodes):
        if reached.intersection(node.input):
            found.add(position)
            reached.update(node.output)
    return found


def _at(nodes: Sequence[onnx.NodeProto], positions: set[int]) -> tuple[onnx.NodeProto, ...]:
    return tuple(nodes[position] for position in sorted(positions))


def _renamed(cut: _Cut, weights: onnx_graph.Initializers, prefix: str) -> dict[str, str]:
    """New names for what a block computes and for its weights; small constants stay shared."""
    computed = {value for node in cut.nodes for value in node.output if value} | set(cut.inputs)
    read = {value for node in cut.nodes for value in node.input if value in weights}
    large = {name for name in read if _elements(weights[name]) > _SHARED_ELEMENTS}
    return {name: prefix + name for name in computed | large}


def _called(values: Iterable[onnx.ValueInfoProto], chosen: Collection[str], names: Mapping[str, str]) -> Iterator[onnx.ValueInfoProto]:
    """Copies of the chosen inputs or outputs of a graph under these new names."""
    for value in values:
        if value.name in chosen:
            copied = onnx.ValueInfoProto()
            copied.CopyFrom(value)
            copied.name = names[value.name]
            yield copied


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
