"""Promises are kept or broken by what was measured, and never by what was not."""

import pytest

from service.bench.compare import ADDED_CPU, ADDED_P50, BEST_TUNED, EFFICIENCY, OVER, Comparison, row_of
from service.bench.gates import GATES, answer_verdict, verdicts
from service.bench.statistics import Interval
from tests.service.bench.builders import load_of, visit

LONG = load_of("question-answering", name="qa, 384 tokens", tokens=384)
SHORT = load_of(name="sentiment, 32 tokens")
MANY = load_of(texts=8, name="sentiment, 8 x 32 tokens")

CASES = [
    (LONG, EFFICIENCY, 0.94, 0.92),
    (SHORT, ADDED_CPU, 0.39, 0.41),
    (MANY, EFFICIENCY, 0.85, 0.84),
    (LONG, ADDED_P50, 0.9, 1.1),
    (SHORT, ADDED_P50, -0.1, 1.01),
    (SHORT, OVER + BEST_TUNED, 1.3, 1.29),
    (LONG, OVER + BEST_TUNED, 1.0, 0.99),
]


def _compared(load: object, name: str, value: float) -> list[Comparison]:
    return [Comparison(load.name, "dense", name, Interval(value, value - 0.1, value + 0.1))]


@pytest.mark.parametrize(("load", "name", "good", "bad"), CASES)
def test_each_promise_can_be_kept_and_broken(load, name, good, bad):
    """A value on one side of the bound passes, one on the other side fails, and nothing else is decided by it."""
    for value, passed in ((good, True), (bad, False)):
        found = [verdict for verdict in verdicts([LONG, SHORT, MANY], _compared(load, name, value)) if verdict.passed is not None]
        assert [verdict.passed for verdict in found] == [passed]


def test_every_promise_is_tested_here():
    """A gate that is added needs a case."""
    assert {name for _, name, _, _ in CASES} == {gate.comparison for gate in GATES}
    assert len(GATES) == 6


def test_a_promise_that_was_not_measured_is_neither():
    """It is listed, and does not pass."""
    found = verdicts([LONG, SHORT, MANY], [])
    assert [verdict.passed for verdict in found] == [None] * len(GATES)
    assert all(verdict.line.startswith("not measured  ") for verdict in found)


def test_a_verdict_says_what_where_and_how_sure():
    """In one line, with the interval."""
    (verdict,) = (each for each in verdicts([LONG], _compared(LONG, EFFICIENCY, 0.9)) if each.passed is not None)
    assert verdict.line == "FAIL  at least 0.93 of the raw session at 384 tokens [qa, 384 tokens, dense]: 0.900 (0.800 to 1.000)"


@pytest.mark.parametrize(("changes", "passed"), [({}, True), ({"failed": 1}, False), ({"unexpected": 1}, False)])
def test_wrong_answers_of_ours_break_the_run(changes, passed):
    """One answer that is not 200, or not the expected one, is enough; a peer's do not count."""
    ours = row_of(("load", "dense", "http"), [visit(1.0, **changes)], SHORT, cores=2)
    peer = row_of(("load", "dense", "x (default)"), [visit(1.0, failed=9)], SHORT, cores=2)
    assert answer_verdict([peer, ours]).passed is passed
    assert answer_verdict([peer]).passed is None
