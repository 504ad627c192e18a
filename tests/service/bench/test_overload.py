"""What an overload did, from its traffic."""

import time

import pytest

from service.bench import overload
from service.bench.overload import Overload, OverloadedLoad, goodput, overload_lines, recovery, watched
from tests.service.bench.builders import traffic


def _result(**changes: object) -> OverloadedLoad:
    fields = {
        "load": "qa, 384 tokens",
        "task": "question-answering",
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


BROKEN = [
    {"statuses": {200: 1, 500: 1}},
    {"statuses": {0: 1}},
    {"goodput_share": 0.89},
    {"shed_p99_ms": 10.0},
    {"recovery_seconds": 5.5},
    {"recovery_seconds": None},
    {"rss_peak_mb": 221.0},
]


@pytest.mark.parametrize("statuses", [{200: 1}, {200: 1, 503: 5, 504: 2}])
def test_kept_promises_pass(statuses):
    """A refusal is an answer, and an overload without refusals has no slow ones."""
    assert _result(statuses=statuses).passed
    assert _result(statuses={200: 1}, shed_p99_ms=float("nan")).passed


@pytest.mark.parametrize("changes", BROKEN)
def test_each_promise_can_be_broken(changes):
    """One is enough for question answering; elsewhere the kinds of answers decide, and the others are shown."""
    broken = _result(**changes)
    elsewhere = _result(task="text-classification", **changes)
    assert list(broken.promises.values()).count(False) == 1
    assert not broken.passed
    assert elsewhere.passed is ("statuses" not in changes)
    assert "FAIL" in "\n".join(overload_lines(Overload((elsewhere,))))


def test_lines_say_what_happened():
    """Counts, shares, latencies, recovery and memory; a lost connection has a name."""
    text = "\n".join(overload_lines(Overload((_result(), _result(statuses={0: 3}, recovery_seconds=None)))))
    for part in (
        "status 200: 1700, 503: 3700",
        "pass  only 200, 503 and 504",
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
