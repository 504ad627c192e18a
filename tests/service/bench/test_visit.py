"""Cells take turns, and a visit is made of what happened in its window."""

import numpy as np
import pytest

from service.bench.visit import Cell, interleaved, visit_of
from tests.service.bench.builders import visit


def _cell(name: str) -> Cell:
    return Cell("load", "dense", name, lambda seconds: visit(seconds))


def test_rounds_go_forwards_and_backwards():
    """A-B-C, C-B-A, A-B-C: slow drift falls on all alike."""
    order = []
    interleaved([_cell(name) for name in "abc"], rounds=3, seconds=1.0, before=lambda cell: order.append(cell.layer))
    assert "".join(order) == "abccbaabc"


def test_every_cell_has_a_visit_of_that_length_for_every_round():
    """Samples of one position are of one round."""
    samples = interleaved([_cell("a"), _cell("b")], rounds=5, seconds=0.25, before=lambda cell: None)
    assert {key[2]: [each.requests for each in visits] for key, visits in samples.items()} == {"a": [0.25] * 5, "b": [0.25] * 5}


def test_visit_counts_shares_and_keeps_latencies_of_what_ended_inside():
    """Of three calls one ends inside, one is cut in half by the end of the window, and one was no answer."""
    seen = visit_of([(0.0, 1.0, 1.0), (9.0, 11.0, 8.0), (2.0, 3.0, 0.0)], opened=0.0, shut=10.0, cpu_seconds=2.0, generator_seconds=5.0)
    assert seen.requests == pytest.approx(5.0)
    assert seen.requests_per_second == pytest.approx(0.5)
    assert seen.cpu_ms_per_request == pytest.approx(400.0)
    assert seen.generator_cores == pytest.approx(0.5)
    np.testing.assert_allclose(seen.latencies_ms, [1000.0])


def test_visit_of_nothing_is_nothing():
    """A server that did not answer has a rate of 0 and no latencies."""
    seen = visit_of([], opened=0.0, shut=1.0, cpu_seconds=0.0)
    assert (seen.requests_per_second, len(seen.latencies_ms)) == (0.0, 0)
