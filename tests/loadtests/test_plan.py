"""What is compared, and how time is divided."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.bench import in_turns
from loadtests.errors import LoadTestError
from loadtests.plan import (
    BETWEEN_SECONDS,
    FEWEST_SHARES,
    LEAST_SECONDS,
    MINUTES_PER_TASK,
    QUICK_MINUTES_PER_TASK,
    Plan,
    Subject,
    most_seconds,
    parse_subjects,
)
from loadtests.statistics import Objective
from loadtests.texts import TASKS
from loadtests.validity import SHORT_LOADS, too_short

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
@given(st.floats(10, 30), st.integers(1, 3), st.integers(5, 9))
def test_all_parts_take_about_the_time_given(each_task, tasks, rounds):
    """Searches of some seven steps, and every visit, add up to the minutes where no load is at its shortest."""
    minutes = tasks * each_task
    plan = Plan(("qa", "classify", "summarize")[:tasks], SUBJECTS, minutes=minutes, rounds=rounds)
    times = plan.times
    loads = 7 + rounds * (1 + len(plan.shares))
    each = 7 * times.knee + rounds * (times.closed + len(plan.shares) * times.step) + loads * BETWEEN_SECONDS
    assert each * tasks * len(SUBJECTS) / 60 == pytest.approx(minutes, rel=0.01)
    assert plan.seconds == pytest.approx(60 * minutes, rel=0.01)


@settings(deadline=None)
@given(st.floats(1, 10), st.integers(1, 3), st.integers(5, 9))
def test_no_part_is_shorter_than_the_least(each_task, tasks, rounds):
    """What is lengthened for it comes on top of the minutes, and nothing else does."""
    plan = Plan(("qa", "classify", "summarize")[:tasks], SUBJECTS, minutes=tasks * each_task, rounds=rounds)
    times = plan.times
    assert min(times.knee, times.closed, times.step) >= LEAST_SECONDS
    assert plan.seconds >= 60 * plan.minutes * (1 - 1e-9)
    assert LEAST_SECONDS in {times.knee, times.closed, times.step} or plan.seconds == pytest.approx(60 * plan.minutes)


def test_a_long_objective_has_fewer_rates_that_take_longer():
    """In the same time."""
    plan = Plan(("summarize",), SUBJECTS)
    assert plan.of_task(TASKS["qa"], SUBJECTS, cores=1).times == plan.times
    assert plan.of_task(TASKS["summarize"], SUBJECTS, cores=1).times.step > 1.5 * plan.times.step


def test_summaries_are_loaded_for_long_beside_their_objective():
    """As the tasks are measured by default, in the two variants that one runtime has: nothing to note."""
    plan = Plan(tuple(TASKS), minutes=3 * MINUTES_PER_TASK).of_task(TASKS["summarize"], SUBJECTS[:2], cores=1)
    assert list(too_short(plan, Objective(plan.slo_ms), SHORT_LOADS)) == []


@pytest.mark.parametrize("tasks", [1, 3])
def test_short_runs_have_fewer_rates_rather_than_shorter_loads(tasks):
    """A second each, at the least."""
    plan = Plan(tuple(TASKS)[:tasks], minutes=QUICK_MINUTES_PER_TASK, quick=True).of_task(TASKS["qa"], SUBJECTS, cores=1)
    assert plan.shares == FEWEST_SHARES
    assert min(vars(plan.times)[name] for name in ("knee", "closed", "step")) >= LEAST_SECONDS


@pytest.mark.parametrize(("quick", "tasks", "minutes"), [(False, 3, 40.0), (True, 1, 4.0)])
def test_a_run_has_an_end(quick, tasks, minutes):
    """Forty minutes for three tasks, four for a quick one."""
    each = QUICK_MINUTES_PER_TASK if quick else MINUTES_PER_TASK
    plan = Plan(tuple(TASKS)[:tasks], minutes=tasks * each, quick=quick)
    plans = [plan.of_task(TASKS[name], SUBJECTS, cores=1) for name in plan.tasks]
    assert 0.8 * minutes < most_seconds(plans) / 60 <= minutes + 1e-6


@pytest.mark.parametrize(
    ("task", "cores", "given", "found"), [("qa", 1, 0, 4), ("qa", 16, 0, 32), ("summarize", 1, 0, 16), ("qa", 16, 3, 3)]
)
def test_closed_loops_have_connections_for_all_cores(task, cores, given, found):
    """A model that generates answers many together; who says how many is obeyed."""
    assert Plan((task,), SUBJECTS, connections=given).of_task(TASKS[task], SUBJECTS, cores=cores).connections == found
