"""BART to two ONNX graphs that decode many requests at once: `encoder.onnx` and `decoder.onnx`, traced from `seq2seq_modules`.

Whatever is made of a model's graphs is checked against torch by `check_parity`.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from transformers import PreTrainedModel

from pruning import onnx_graph
from pruning.attention_node import gather_attention
from pruning.errors import ParityError
from pruning.seq2seq_modules import Attention, Decoder, Encoder
from pruning.tracing import OPSET, PARITY_TOLERANCE, evaluating, quiet
from service.generation import CachedSession, DecoderSession
from service.generation.golden import forced_logits
from service.runtime.base import Array, Session
from service.runtime.onnx import OnnxSession

Feed = Mapping[str, Array]
Dimension = str | int
Shapes = Mapping[str, Sequence[Dimension]]
Cached = Literal["past", "cross", "new"]
Sessions = tuple[Session, CachedSession]

_EXAMPLE_SIZES = {"rows": 5, "new": 2, "past": 3, "past + new": 5, "requests": 4, "queries": 6, "source": 7}


@dataclass(frozen=True)
class Seq2SeqGraphs:
    """The two graphs of a model."""

    encoder: onnx.ModelProto
    decoder: onnx.ModelProto

    def sessions(self) -> Sessions:
        """Both, loaded."""
        return OnnxSession(self.encoder.SerializeToString()), DecoderSession(self.decoder.SerializeToString())


def to_onnx(model: PreTrainedModel) -> Seq2SeqGraphs:
    """Export a `BartForConditionalGeneration`.

    The encoder takes int64 `input_ids` and `attention_mask` [requests, source] and gives fp32 `hidden_states` [requests, source, hidden]
    and, for each decoder layer i that has cross-attention, `cross_key_i` and `cross_value_i` [requests, heads, source, head_size].

    The decoder takes, int64 unless said otherwise:

    - `input_ids`, `position_ids` [rows, new]: the new tokens, and where they are, counted from 0.
    - `attention_mask` [rows, past + new]: the entries of the cache and the new tokens that a row may attend to; a new token sees those
      new ones whose position is not behind its own.
    - `encoder_attention_mask` [requests, source].
    - `request_queries` [requests, queries]: the new tokens of each request, as numbers in the flattened [rows, new]; any number pads.
    - `query_slots` [rows, new]: where each new token stands in the flattened `request_queries`.
    - `past_key_i`, `past_value_i`, fp32 [rows, heads, past, head_size], for each layer i that has self-attention; past may be 0.
    - `cross_key_i`, `cross_value_i`, as the encoder gives them.

    It gives fp32 `logits` [rows, vocabulary] of each row's last new token, then `new_key_i` and `new_value_i` [rows, heads, new,
    head_size]. One initializer is both the table of embeddings and the head, where the model ties them.
    """
    with evaluating(model):
        model.eval()
        return Seq2SeqGraphs(encoder=_export_encoder(model), decoder=_export_decoder(model))


def check_parity(graphs: Seq2SeqGraphs | Sessions, model: PreTrainedModel, batches: Iterable[Feed]) -> float:
    """Decode given targets through the graphs, one token at a time, and compare the logits with those of torch.

    Args:
        graphs: What `to_onnx` gave, or what was made of it; or both sessions.
        model: What they were exported from, in evaluation mode.
        batches: int64 `input_ids` and `attention_mask` [requests, source], `decoder_input_ids` [requests, target].

    Returns:
        The largest absolute difference.

    Raises:
        ParityError: A logit differs by more than `PARITY_TOLERANCE` times the largest of torch's.
    """
    encoder, decoder = graphs.sessions() if isinstance(graphs, Seq2SeqGraphs) else graphs
    return max((_difference(encoder, decoder, model, batch) for batch in batches), default=0.0)


def random_batches(model: PreTrainedModel, *, source: int, target: int, seed: int = 0) -> Iterator[dict[str, Array]]:
    """Random batches for `check_parity`, of one and of three requests, of these lengths; sources but the first end in padding."""
    rng, config = np.random.default_rng(seed), model.config
    for requests in (1, 3):
        ids = rng.integers(0, config.vocab_size, (requests, source))
        mask = np.ones_like(ids)
        for request in range(1, requests):
            end = int(rng.integers(1, source + 1))
            ids[request, end:], mask[request, end:] = config.pad_token_id or 0, 0
        yield {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": rng.integers(0, config.vocab_size, (requests, target))}


def _export_encoder(model: PreTrainedModel) -> onnx.ModelProto:
    inputs: Shapes = {"input_ids": ("requests", "source"), "attention_mask": ("requests", "source")}
    outputs: Shapes = {"hidden_states": ("requests", "source", model.config.d_model), **_caches(model, "cross", "requests", "source")}
    return _export(Encoder(model), inputs, outputs)


def _export_decoder(model: PreTrainedModel) -> onnx.ModelProto:
    inputs: Shapes = {
        "input_ids": ("rows", "new"),
        "position_ids": ("rows", "new"),
        "attention_mask": ("rows", "past + new"),
        "encoder_attention_mask": ("requests", "source"),
        "request_queries": ("requests", "queries"),
        "query_slots": ("rows", "new"),
        **_caches(model, "past", "rows", "past"),
        **_caches(model, "cross", "requests", "source"),
    }
    outputs: Shapes = {"logits": ("rows", model.config.vocab_size), **_caches(model, "new", "rows", "new")}
    return _export(Decoder(model), inputs, outputs)


def _caches(model: PreTrainedModel, kind: Cached, first: str, length: str) -> dict[str, tuple[str, int, str, int]]:
    """Shapes of the tensors of keys and values of this kind by name, in the graph's order."""
    modules = [layer.encoder_attn if kind == "cross" else layer.self_attn for layer in model.model.decoder.layers]
    attentions = [(index, Attention(module)) for index, module in enumerate(modules)]
    return {
        f"{kind}_{part}_{index}": (first, attention.heads, length, attention.head_size)
        for index, attention in attentions
        if attention.exists
        for part in ("key", "value")
    }


def _export(module: nn.Module, inputs: Shapes, outputs: Shapes) -> onnx.ModelProto:
    """Trace, name the weights as the model does, and write shapes constant that depend on the model alone."""
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            tuple(_example(shape) for shape in inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: _dynamic(shape) for name, shape in {**inputs, **outputs}.items()},
            opset_version=OPSET,
            do_constant_folding=False,
            dynamo=False,
        )
        proto = onnx.load(path)
    onnx_graph.lift_constants(proto)
    onnx_graph.inline_identities(proto)
    _declare_inputs(proto, inputs)
    _transpose_weights(proto)
    _fold_constant_unsqueezes(proto)
    onnx_graph.fold_reshapes(proto)
    onnx_graph.share_equal_constants(proto)
    onnx_graph.remove_unused(proto)
    gather_attention(proto)
    return proto


def _example(shape: Sequence[Dimension]) -> Tensor:
    """Tokens and masks have two dimensions, caches four."""
    sizes = [_EXAMPLE_SIZES[size] if isinstance(size, str) else size for size in shape]
    return torch.ones(sizes, dtype=torch.int64 if len(sizes) == 2 else torch.float32)


def _dynamic(shape: Sequence[Dimension]) -> dict[int, str]:
    return {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}


def _declare_inputs(proto: onnx.ModelProto, inputs: Shapes) -> None:
    """Give the graph all of its inputs: the exporter leaves out what nothing reads, a mask without attention."""
    types = {2: onnx.TensorProto.INT64, 4: onnx.TensorProto.FLOAT}
    values = [onnx.helper.make_tensor_value_info(name, types[len(shape)], shape) for name, shape in inputs.items()]
    del proto.graph.input[:]
    proto.graph.input.extend(values)


def _transpose_weights(proto: onnx.ModelProto) -> None:
    """Store the weights of linear layers as the graph multiplies by them, [inputs, outputs], under the names that they have in torch."""
    weights, nodes = onnx_graph.initializers(proto), [node for node in proto.graph.node if node.op_type == "Transpose"]
    transposed = {node.input[0]: weights[node.input[0]] for node in nodes if node.input[0] in weights}
    for name, tensor in transposed.items():  # once each: the exporter lets equal weights be one tensor
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).T), name))
    for node in [node for node in nodes if node.input[0] in transposed]:
        onnx_graph.replace_input(proto, node.output[0], node.input[0])
        proto.graph.node.remove(node)


def _fold_constant_unsqueezes(proto: onnx.ModelProto) -> None:
    """Write what is unsqueezed as a constant where it is one: the numbers in the target shapes of Reshapes."""
    constants = onnx_graph.initializers(proto)
    for node in [n for n in proto.graph.node if n.op_type == "Unsqueeze" and n.input[0] in constants]:
        values, axes = (numpy_helper.to_array(constants[name]) for name in node.input)
        name = onnx_graph.add_initializer(proto, f"{node.output[0]}.constant", np.expand_dims(values, tuple(axes)))
        onnx_graph.replace_input(proto, node.output[0], name)
        proto.graph.node.remove(node)


def _difference(encoder: Session, decoder: CachedSession, model: PreTrainedModel, batch: Feed) -> float:
    """Largest absolute difference of the logits of one batch; `ParityError` beyond the tolerance."""
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(np.asarray(values, np.int64)) for name, values in batch.items()}).logits.numpy()
    found = forced_logits(encoder, decoder, batch)
    difference, largest = float(np.abs(expected - found).max()), float(np.abs(expected).max())
    if not difference <= PARITY_TOLERANCE * largest:
        raise ParityError(
            f"logits of the exported graphs differ from torch by {difference:.2g} on {len(expected)} requests, where torch's largest "
            f"value is {largest:.2g}; this is a defect of the export, not of the model"
        )
    return difference
