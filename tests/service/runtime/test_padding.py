"""Padding reaches the next allowed length, is not attended to, and is cut off again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.padding import bucket_for, cut_outputs, pad_feed, step_up
from tests.service.runtime.graphs import feed


@given(st.integers(1, 2000), st.integers(1, 64))
def test_step_is_the_next_multiple(length, step):
    """The length fits, and one step less would not hold it."""
    padded = step_up(length, step)
    assert padded % step == 0
    assert padded - step < length <= padded


@given(st.integers(1, 2000), st.lists(st.integers(1, 1024), min_size=1, max_size=8, unique=True).map(sorted))
def test_bucket_is_the_smallest_that_fits(length, buckets):
    """No smaller bucket holds the length; beyond the last the length is kept."""
    fitting = [bucket for bucket in buckets if bucket >= length]
    assert bucket_for(length, buckets) == (min(fitting) if fitting else length)


def test_padding_is_zeros_that_are_not_attended_to():
    """Every input gets zeros at its end, the mask too."""
    padded = pad_feed(feed(3, batch=2), 5)
    assert padded["attention_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert padded["input_ids"][:, 3:].tolist() == [[0, 0]] * 2


def test_only_outputs_of_tokens_are_cut():
    """Logits of labels keep their width, however short the row."""
    outputs = {"logits": np.zeros((1, 3)), "start_logits": np.zeros((1, 16))}
    cut = cut_outputs(outputs, ["start_logits"], 2)
    assert {name: values.shape for name, values in cut.items()} == {"logits": (1, 3), "start_logits": (1, 2)}
