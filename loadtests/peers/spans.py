"""Scores and spans, as simply as one would write them for a server that brings no tasks."""

import numpy as np
from numpy.typing import NDArray

ANSWER_TOKENS = 30

FloatArray = NDArray[np.float32]


def best_span(starts: FloatArray, ends: FloatArray, inside: list[bool]) -> tuple[int, int, float]:
    """First and last token of the most probable span of the context, and its probability."""
    outside = ~np.array(inside)
    starts, ends = (softmax(np.where(outside, -np.inf, logits)) for logits in (starts, ends))
    spans = np.tril(np.triu(np.outer(starts, ends)), ANSWER_TOKENS - 1)
    first, last = np.unravel_index(spans.argmax(), spans.shape)
    return int(first), int(last), float(spans[first, last])


def softmax(logits: FloatArray) -> FloatArray:
    """[n] -> [n], with a sum of 1."""
    exponentials = np.exp(logits - logits.max())
    return np.asarray(exponentials / exponentials.sum())
