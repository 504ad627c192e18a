"""Where the time of requests went."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.breakdown import EDGES_MS, histogram, split_of
from loadtests.request_log import Row, log_of

NAN = float("nan")
GOOD = Row(1.0, 1.01, 1.11, 200, 10, True, 0, "dense", NAN, 20.0, 5.0, 60.0, 90.0)


def test_parts_add_up_to_the_latency():
    """Lag, queue, tokenize, infer, the rest of the service, and what is outside it."""
    split = split_of(log_of([GOOD, GOOD._replace(done_s=1.21)]))
    assert split is not None
    assert split.__dict__ == pytest.approx({"lag": 10.0, "queue": 20.0, "tokenize": 5.0, "infer": 60.0, "post": 5.0, "http": 60.0})
    assert sum(split.__dict__.values()) == pytest.approx(160.0)


def test_a_service_that_does_not_say_has_no_parts():
    """Nor have requests of which none was answered rightly."""
    assert split_of(log_of([GOOD._replace(infer_ms=NAN)])) is None
    assert split_of(log_of([GOOD._replace(status=503, right=False)])) is None
    assert split_of(log_of([])) is None


@given(st.lists(st.floats(1e-6, 1e4), max_size=30))
def test_every_right_answer_is_in_one_bin(seconds):
    """Also one that is faster or slower than all bins."""
    rows = [GOOD._replace(done_s=1.0 + each) for each in seconds]
    counts = histogram(log_of([*rows, GOOD._replace(right=False)]))
    assert sum(counts) == len(rows)
    assert len(counts) == len(EDGES_MS) - 1


def test_bins_are_even_in_the_logarithm():
    """Each is as many times as wide as the one before."""
    steps = np.diff(np.log(EDGES_MS))
    assert steps == pytest.approx(np.full(len(steps), steps[0]), rel=1e-3)
