"""Tiny random graphs that heed the attention mask, as real ones do: padding changes nothing but the last bits."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.service.builders import onnx_model

INPUTS = ("input_ids", "attention_mask")
VOCABULARY = 30


def attention_model(*, per_token: bool, seed: int = 0) -> onnx.ModelProto:
    """One layer of attention over looked-up vectors, then start and end logits of each token, or logits of three labels."""
    random = np.random.default_rng(seed)
    tables = {"embeddings": random.normal(size=(VOCABULARY, 8)), "head": random.normal(size=(8, 2 if per_token else 3))}
    constants = {"one": np.ones(1), "far": np.full(1, -1e9)}
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["embedded", "turned"], ["scores"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask"], ["hidden"]),
        helper.make_node("Mul", ["hidden", "far"], ["bias"]),
        helper.make_node("Unsqueeze", ["bias", "middle"], ["bias_rows"]),
        helper.make_node("Add", ["scores", "bias_rows"], ["masked"]),
        helper.make_node("Softmax", ["masked"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "embedded"], ["attended"]),
        helper.make_node("MatMul", ["attended", "head"], ["tokens"]),
        *(_span_nodes() if per_token else _label_nodes()),
    ]
    outputs: dict[str, list] = (
        {name: ["batch", "sequence"] for name in ("start_logits", "end_logits")} if per_token else {"logits": ["batch", 3]}
    )
    floats = {name: value.astype(np.float32) for name, value in {**tables, **constants}.items()}
    return onnx_model(nodes, {**floats, "middle": np.array([1]), "last": np.array([2]), "first": np.array(0)}, INPUTS, outputs)


def dynamic_model() -> onnx.ModelProto:
    """Logits whose activations are quantized on the fly."""
    tables = {"embeddings": np.ones((VOCABULARY, 8), dtype=np.float32), "weights": np.ones((8, 3), dtype=np.int8)}
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("ReduceMean", ["embedded"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("DynamicQuantizeLinear", ["pooled"], ["codes", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["codes", "weights", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["logits"], to=TensorProto.FLOAT),
    ]
    return onnx_model(nodes, tables, INPUTS, {"logits": ["batch", 3]})


def feed(length: int, *, batch: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tokens, all attended to."""
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, size=(batch, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _span_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Split", ["tokens"], ["starts", "ends"], axis=-1),
        helper.make_node("Squeeze", ["starts", "last"], ["start_logits"]),
        helper.make_node("Squeeze", ["ends", "last"], ["end_logits"]),
    ]


def _label_nodes() -> list[onnx.NodeProto]:
    return [helper.make_node("Gather", ["tokens", "first"], ["logits"], axis=1)]
