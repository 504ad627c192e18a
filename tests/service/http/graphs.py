"""Graphs that are honest about batches: one that a neighbour never changes, and one that it always does."""

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.service.builders import onnx_model

INPUTS = ("input_ids", "attention_mask")


def masked_mean(vocabulary: int, labels: int, seed: int = 0) -> ModelProto:
    """Logits are the mean of a looked-up vector over the tokens that are attended to, so that padding changes nothing."""
    nodes = [*_embedded_mean(), helper.make_node("MatMul", ["mean", "head"], ["logits"])]
    return onnx_model(nodes, _tables(vocabulary, labels, seed), INPUTS, {"logits": ["batch", labels]})


def scaled_by_call(vocabulary: int, labels: int, seed: int = 0) -> ModelProto:
    """The same, divided by the largest value of the whole call, as a dynamic quantization scale is: no row is as it is alone."""
    nodes = [
        *_embedded_mean(),
        helper.make_node("MatMul", ["mean", "head"], ["raw"]),
        helper.make_node("Abs", ["raw"], ["sizes"]),
        helper.make_node("ReduceMax", ["sizes"], ["scale"], keepdims=0),
        helper.make_node("Div", ["raw", "scale"], ["logits"]),
    ]
    return onnx_model(nodes, _tables(vocabulary, labels, seed), INPUTS, {"logits": ["batch", labels]})


def _embedded_mean() -> list:
    return [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["embedded"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["embedded", "column"], ["attended"]),
        helper.make_node("ReduceSum", ["attended", "tokens"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "tokens"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
    ]


def _tables(vocabulary: int, labels: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    embeddings, head = random.normal(size=(vocabulary, 8)), random.normal(size=(8, labels))
    axes = {"last": np.array([2], dtype=np.int64), "tokens": np.array([1], dtype=np.int64)}
    return {"embeddings": embeddings.astype(np.float32), "head": head.astype(np.float32), **axes}
