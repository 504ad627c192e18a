"""Promises and verdicts."""

import pytest

from loadtests.errors import LoadTestError
from loadtests.gates import CAPACITY, RATE, Gate, Ratio, parse_gate, verdicts
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
    (verdict,) = verdicts([gate], [ratio(9.0, of=CAPACITY), ratio(4.0)], {"qa": "384"})
    assert verdict.passed is passed
    assert str(gate) in verdict.line


def test_a_gate_is_typed():
    """Task, variants and ratio."""
    assert parse_gate("qa: compact@openvino/dense >= 5") == Gate("qa", "compact@openvino", "dense", 5.0)


@pytest.mark.parametrize("text", ["", "qa", "qa:a>=2", "qa:a/b=2", "qa:a/b>=fast"])
def test_a_gate_that_is_none_is_refused(text):
    """One line says what was expected."""
    with pytest.raises(LoadTestError, match="expected"):
        parse_gate(text)
