"""What an overload did, from its traffic."""

import time

import pytest

from service.bench import overload
from service.bench.overload import Overload, OverloadedLoad, goodput, overload_lines, recovery, watched
from tests.service.bench.builders import traffic


def _result(**changes: object) -> OverloadedLoad:
    fields = {
        "load": "qa, 384 tokens",
        "variant": "dense",
        "capacity": 30.0,
        "rate": 90.0,
        "seconds": 60.0,
        "statuses": {200: 1700, 503: 3700},
        "goodput_share": 0.95,
        "answered_p99_ms": 5000.0,
        "shed_p99_ms": 4.0,
        "lag_p99_ms": 1.0,
        "quiet_p50_ms": 40.0,
        "recovery_seconds": 2.5,
        "rss_start_mb": 200.0,
        "rss_peak_mb": 210.0,
        "rss_end_mb": 205.0,
    }
    return OverloadedLoad(**{**fields, **changes})


def test_goodput_is_answers_in_time():
    """Refusals are none, and neither is what was answered after the overload was over."""
    rows = [(100.0, 101.0, 200), (100.0, 101.0, 503), (101.0, 109.9, 200), (105.0, 111.0, 200)]
    assert goodput(traffic(rows, opened=100.0), 10.0) == pytest.approx(0.2)


def test_recovery_is_the_first_half_second_that_is_normal():
    """Slow answers, then a refusal among quick ones, then quick ones alone."""
    slow = [(10.1, 11.0, 200), (10.2, 11.0, 200)]
    refused = [(10.6, 10.61, 200), (10.7, 10.71, 503)]
    quick = [(11.1, 11.11, 200), (11.2, 11.21, 200)]
    assert recovery(traffic(slow + refused + quick), after=10.0, normal_ms=20.0) == 1.0
    assert recovery(traffic(slow + refused), after=10.0, normal_ms=20.0) is None
    assert recovery(traffic(quick), after=11.0, normal_ms=20.0) == 0.0


@pytest.mark.parametrize(
    ("statuses", "passed"), [({200: 1}, True), ({200: 1, 503: 5, 504: 2}, True), ({200: 1, 500: 1}, False), ({0: 1}, False)]
)
def test_only_some_answers_are_allowed(statuses, passed):
    """A refusal is an answer; a failure or a lost connection is none."""
    assert _result(statuses=statuses).passed is passed


def test_lines_say_what_happened():
    """Counts, shares, latencies, recovery and memory; a lost connection has a name."""
    text = "\n".join(overload_lines(Overload((_result(), _result(statuses={0: 3}, recovery_seconds=None)))))
    for part in (
        "pass  only 200, 503 and 504: 200: 1700, 503: 3700",
        "95.0 %",
        "4.0 ms refused",
        "after 2.5 s",
        "FAIL",
        "lost: 3",
        "not in",
    ):
        assert part in text


def test_memory_is_watched_while_it_is_used(monkeypatch):
    """The peak between start and end is seen."""

    class Growing:
        pids = (1,)

    sizes = iter([100, *[500] * 1000])
    monkeypatch.setattr(overload, "resident_bytes", lambda pids: next(sizes))
    monkeypatch.setattr(overload, "_WATCH_SECONDS", 0.005)
    with watched(Growing()) as memory:  # type: ignore[arg-type]
        time.sleep(0.05)
    assert (memory.samples[0], max(memory.samples)) == (100, 500)
    assert len(memory.samples) > 3
