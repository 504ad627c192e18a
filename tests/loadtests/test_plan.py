"""What is compared, and how time is divided."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.bench import in_turns
from loadtests.errors import LoadTestError
from loadtests.plan import (
    BETWEEN_SECONDS,
    LEAST_SECONDS,
    MINUTES_PER_TASK,
    QUICK_MINUTES_PER_TASK,
    QUICK_ROUNDS,
    ROUNDS,
    Plan,
    Subject,
    most_seconds,
    parse_subjects,
)
from loadtests.texts import TASKS

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
    assert [label for number, label in order if number % 2 == 1] == labels[::-1] * 3


@settings(deadline=None)
@given(st.floats(0.5, 30), st.integers(1, 3), st.integers(3, 9))
def test_all_parts_take_about_the_time_given(each_task, tasks, rounds):
    """Searches and visits add up to the minutes, or to more where a part is at its shortest; no closed loop is shorter than the least."""
    plan = Plan(("qa", "classify", "summarize")[:tasks], SUBJECTS, minutes=tasks * each_task, rounds=rounds)
    closed = rounds * len(SUBJECTS) * (plan.times.closed + BETWEEN_SECONDS)
    assert plan.seconds == pytest.approx(tasks * (plan.times.search + closed + plan.times.visits))
    assert plan.times.closed >= LEAST_SECONDS
    assert plan.seconds >= 60 * plan.minutes * (1 - 1e-9)
    assert each_task < 5 or plan.seconds == pytest.approx(60 * plan.minutes)


@pytest.mark.parametrize(("quick", "tasks", "minutes"), [(False, 3, 40.0), (True, 1, 4.0)])
def test_a_run_has_an_end(quick, tasks, minutes):
    """Forty minutes for three tasks, four for a quick one."""
    each = QUICK_MINUTES_PER_TASK if quick else MINUTES_PER_TASK
    plan = Plan(tuple(TASKS)[:tasks], minutes=tasks * each, quick=quick, rounds=QUICK_ROUNDS if quick else ROUNDS)
    plans = [plan.of_task(TASKS[name], SUBJECTS, cores=1) for name in plan.tasks]
    assert 0.8 * minutes < most_seconds(plans) / 60 <= minutes + 1e-6


@pytest.mark.parametrize(
    ("task", "cores", "given", "found"), [("qa", 1, 0, 4), ("qa", 16, 0, 32), ("summarize", 1, 0, 16), ("qa", 16, 3, 3)]
)
def test_closed_loops_have_connections_for_all_cores(task, cores, given, found):
    """A model that generates answers many together; who says how many is obeyed."""
    assert Plan((task,), SUBJECTS, connections=given).of_task(TASKS[task], SUBJECTS, cores=cores).connections == found
