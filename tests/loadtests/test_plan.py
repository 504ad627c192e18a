"""What is compared, and how time is divided."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.compare import in_turns
from loadtests.errors import LoadTestError
from loadtests.plan import BETWEEN_SECONDS, Plan, Subject, parse_subjects

SUBJECTS = parse_subjects("dense,compact-int8,compact@openvino")


def test_subjects_are_variants_in_a_runtime():
    """ONNX Runtime where none is named."""
    assert SUBJECTS[0] == Subject("dense", "dense", "onnxruntime")
    assert SUBJECTS[2] == Subject("compact@openvino", "compact", "openvino")


@pytest.mark.parametrize("text", ["", "dense", "dense,dense", "dense,compact@tpu"])
def test_a_comparison_needs_two_that_differ(text):
    """One line says so."""
    with pytest.raises(LoadTestError, match=r"--variants|compact@tpu"):
        parse_subjects(text)


def test_rounds_go_there_and_back():
    """A-B-C, C-B-A, and again: what drifts falls on all alike."""
    order = [(number, subject.label) for number, subject in in_turns(Plan(("qa",), SUBJECTS))]
    labels = [subject.label for subject in SUBJECTS]
    assert [label for number, label in order if number % 2 == 0] == labels * 3
    assert [label for number, label in order if number % 2 == 1] == labels[::-1] * 2


@settings(deadline=None)
@given(st.floats(15, 60), st.integers(1, 3), st.integers(5, 9))
def test_all_parts_take_about_the_time_given(minutes, tasks, rounds):
    """Searches of some seven steps, and every visit, add up to the minutes."""
    plan = Plan(("qa", "classify", "summarize")[:tasks], SUBJECTS, minutes=minutes, rounds=rounds)
    times = plan.times
    loads = 7 + rounds * (1 + len(plan.shares))
    each = 7 * times.knee + rounds * (times.closed + len(plan.shares) * times.step) + loads * BETWEEN_SECONDS
    assert each * tasks * len(SUBJECTS) / 60 == pytest.approx(minutes, rel=0.01)


def test_a_long_objective_has_fewer_rates_that_take_longer():
    """In the same time."""
    plan = Plan(("summarize",), SUBJECTS)
    assert plan.within(200.0).times == plan.times
    assert plan.within(5000.0).times.step > 1.5 * plan.times.step
