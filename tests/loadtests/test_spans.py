"""The simplest way to find a span."""

import numpy as np
import pytest

from loadtests.peers.spans import ANSWER_TOKENS, best_span, softmax


def _by_hand(starts: np.ndarray, ends: np.ndarray, inside: list[bool]) -> tuple[int, int]:
    pairs = [
        (first, last)
        for first in range(len(starts))
        for last in range(first, min(first + ANSWER_TOKENS, len(ends)))
        if inside[first] and inside[last]
    ]
    return max(pairs, key=lambda pair: starts[pair[0]] + ends[pair[1]])


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_is_the_one_that_trying_all_finds(seed):
    """It lies in the context, does not end before it starts and is not too long."""
    random = np.random.default_rng(seed)
    starts, ends = random.normal(size=(2, 80)).astype(np.float32)
    inside = [10 <= index < 75 for index in range(80)]
    first, last, score = best_span(starts, ends, inside)
    assert (first, last) == _by_hand(starts, ends, inside)
    assert 0 < score <= 1


def test_softmax_sums_to_one_and_takes_any_logits():
    """Neither large logits nor ones of minus infinity break it."""
    found = softmax(np.array([1000.0, 999.0, -np.inf], dtype=np.float32))
    assert found.sum() == pytest.approx(1.0)
    assert found[2] == 0.0
