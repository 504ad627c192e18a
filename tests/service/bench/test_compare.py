"""Figures and comparisons of cells that were visited in the same rounds."""

import math

import numpy as np
import pytest

from service.bench.compare import ADDED_CPU, ADDED_P50, BEST_TUNED, EFFICIENCY, ENGINE_EFFICIENCY, OVER, comparisons, row_of
from service.bench.layers import HTTP_ONE, RAW_ONE
from tests.service.bench.builders import load_of, samples, visit

LOAD = "sentiment, 32 tokens"


def _compared(cells: dict, cores: int = 2) -> dict[str, float]:
    return {each.name: each.interval.value for each in comparisons(LOAD, "dense", samples(**cells), cores=cores)}


def test_a_row_has_medians_of_visits_and_percentiles_of_all_requests():
    """Three visits: rates by their median, latencies pooled, tokens by the load, wrong answers added up."""
    visits = [visit(10.0, latency_ms=1.0), visit(30.0, latency_ms=2.0, generator=0.5, failed=2), visit(20.0, latency_ms=3.0, failed=1)]
    row = row_of((LOAD, "dense", "http"), visits, load_of(texts=8), cores=2)
    assert (row.requests_per_second, row.tokens_per_second) == (20.0, 20.0 * 8 * 32)
    assert (row.p50_ms, row.cpu_ms_per_request, row.failed) == (2.0, pytest.approx(1.0), 3)
    assert row.generator_share == 0.0


def test_a_row_without_latencies_says_so():
    """No request ended in any window: not a number, rather than 0."""
    row = row_of((LOAD, "dense", "http"), [visit(0.1, latencies_ms=np.array([]))], load_of(), cores=2)
    assert math.isnan(row.p50_ms)


def test_efficiency_is_taken_within_rounds():
    """The machine halves its speed between rounds; the efficiency does not notice."""
    found = _compared({"raw": [visit(100.0), visit(50.0)], "http": [visit(90.0), visit(45.0)], "engine": [visit(95.0), visit(47.5)]})
    assert found[EFFICIENCY] == pytest.approx(0.9)
    assert found[ENGINE_EFFICIENCY] == pytest.approx(0.95)


def test_efficiency_leaves_the_generator_out():
    """A tenth of the machine made the load: nine tenths of the raw session is then all that could be had."""
    found = _compared({"raw": [visit(100.0)], "http": [visit(90.0, generator=0.2)]})
    assert found[EFFICIENCY] == pytest.approx(1.0)


def test_added_costs_are_differences():
    """CPU per request above the raw session's, and one client's median above one caller's."""
    cells = {"raw": [visit(100.0, cpu_ms=2.0)], "http": [visit(90.0, cpu_ms=2.3)]}
    found = _compared({**cells, RAW_ONE: [visit(1.0, latency_ms=3.0)], HTTP_ONE: [visit(1.0, latency_ms=3.75)]})
    assert found[ADDED_CPU] == pytest.approx(0.3)
    assert found[ADDED_P50] == pytest.approx(0.75)


def test_the_best_tuned_peer_is_the_one_that_comes_nearest():
    """A default set-up that comes nearer still does not count as tuned."""
    cells = {"http": [visit(90.0)], "x (default)": [visit(80.0)], "x (workers)": [visit(45.0)], "y (threads)": [visit(60.0)]}
    found = _compared(cells)
    assert found[OVER + "x (workers)"] == pytest.approx(2.0)
    assert found[OVER + "x (default)"] == pytest.approx(1.125)
    assert found[OVER + BEST_TUNED] == pytest.approx(1.5)


def test_what_was_not_measured_is_not_compared():
    """Without peers and without single clients there is nothing to say of them; other variants and loads are not mixed in."""
    assert set(_compared({"raw": [visit(1.0)], "http": [visit(1.0)]})) == {EFFICIENCY, ADDED_CPU}
    assert comparisons("another load", "dense", samples(raw=[visit(1.0)], http=[visit(1.0)]), cores=2) == []
