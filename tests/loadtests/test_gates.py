"""Promises and verdicts."""

from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.compare import bound_of, bound_of_ratio
from loadtests.errors import LoadTestError
from loadtests.gates import CAPACITY, GATES, RATE, Gate, Ratio, parse_gate, require_planned, shipped_gates, verdicts
from loadtests.statistics import Interval


def ratio(value: float, *, of: str = RATE) -> Ratio:
    """Of compact over dense."""
    return Ratio("qa", "compact", "dense", of, Interval(value, value - 1, value + 1))


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        (Gate("qa", "compact", "dense", 3.5), True),
        (Gate("qa", "compact", "dense", 4.5), False),
        (Gate("qa", "compact", "dense", 3.5, lengths="384"), True),
        (Gate("qa", "compact", "dense", 3.5, lengths="32"), None),
        (Gate("classify", "compact", "dense", 3.5), None),
        (Gate("qa", "other", "dense", 3.5), None),
    ],
)
def test_a_promise_is_kept_broken_or_not_measured(gate, passed):
    """The value decides; another task, subject or length is not what was promised; capacity is not the rate."""
    (verdict,) = verdicts([gate], [ratio(9.0, of=CAPACITY), ratio(4.0)], {"qa": "384"}, [])
    assert verdict.passed is passed
    assert str(gate) in verdict.line
    assert verdict.declared is (gate.lengths != "32")


@pytest.mark.parametrize(
    ("least", "bound", "passed"),
    [(3.5, "at most", None), (4.5, "at most", False), (3.5, "at least", True), (4.5, "at least", None), (3.5, "about", None)],
)
def test_a_rate_at_the_end_of_what_was_visited_decides_only_what_it_can(least, bound, passed):
    """A ratio that is at most so much passes nothing, and one that is at least so much misses nothing."""
    (verdict,) = verdicts([Gate("qa", "compact", "dense", least)], [replace(ratio(4.0), bound=bound)], {}, [])
    assert verdict.passed is passed
    assert f"{bound} 4.00x" in verdict.line


@pytest.mark.parametrize(
    ("above", "below", "found"),
    [
        ("", "", ""),
        ("", "at least", "at most"),
        ("", "at most", "at least"),
        ("at least", "", "at least"),
        ("at least", "at least", "about"),
    ],
)
def test_a_bound_of_the_baseline_is_turned(above, below, found):
    """The dense model's rate at the top of what was visited makes the ratio too high."""
    assert bound_of_ratio(above, below) == found
    assert [bound_of((1.0, 2.0), rate) for rate in (1.0, 1.5, 2.0)] == ["at most", "", "at least"]


@pytest.mark.parametrize(("isa", "passed"), [(["avx2"], None), (["avx2", "avx512_vnni"], False)])
def test_a_gate_for_some_processors_is_decided_on_them_alone(isa, passed):
    """Elsewhere it is not declared, and a reader sees what for and what was measured."""
    gate = Gate("qa", "compact", "dense", 5.0, processors=("amx_int8", "avx512_vnni"))
    (verdict,) = verdicts([gate], [ratio(4.0)], {}, isa)
    assert verdict.passed is passed
    assert verdict.declared is (passed is not None)
    assert f"declared for amx_int8 or avx512_vnni; this machine has {', '.join(isa)}" in verdict.line
    assert "4.00x" in verdict.line


def test_gates_are_of_the_models_that_ship():
    """Not of other people's, of a service that runs already, or of variants that are not asked for."""
    ours, labels = {"qa": "qa", "classify": "sentiment"}, ["dense", "compact-int8", "compact@openvino"]
    assert set(shipped_gates(Path("models"), ours, labels)) == set(GATES)
    assert {gate.task for gate in shipped_gates(Path("models"), {**ours, "qa": "mine"}, labels)} == {"classify"}
    assert {gate.subject for gate in shipped_gates(Path("models"), ours, labels[:2])} == {"compact-int8"}
    assert shipped_gates(Path("runs/mine"), ours, labels) == shipped_gates(None, {}, labels) == ()


@pytest.mark.parametrize("text", ["classify:compact/dense>=2", "qa:tiny/dense>=2", "qa:dense/compact>=2", "qa:dense/dense>=1"])
def test_a_gate_of_what_is_not_compared_is_refused(text):
    """Its task, its subject or its baseline; where nothing is known yet, it is not."""
    require_planned([parse_gate("qa:compact/dense>=2")], {"qa": ["dense", "compact"]})
    require_planned([parse_gate(text)], {})
    with pytest.raises(LoadTestError, match="qa: compact over dense"):
        require_planned([parse_gate(text)], {"qa": ["dense", "compact"]})


def test_a_gate_is_typed():
    """Task, variants and ratio."""
    assert parse_gate("qa: compact@openvino/dense >= 5") == Gate("qa", "compact@openvino", "dense", 5.0)


@pytest.mark.parametrize("text", ["", "qa", "qa:a>=2", "qa:a/b=2", "qa:a/b>=fast"])
def test_a_gate_that_is_none_is_refused(text):
    """One line says what was expected."""
    with pytest.raises(LoadTestError, match="expected"):
        parse_gate(text)
