"""A whole comparison, of a service whose variants take known times."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

import loadtests.run as compared_run
from loadtests.bench import Kept, sample_of
from loadtests.cli import main
from loadtests.client import Client
from loadtests.compare import memory_of
from loadtests.deadline import Deadline
from loadtests.described import served_row
from loadtests.errors import LoadTestError, MeasurementError, ServiceError
from loadtests.gates import RATE, Gate
from loadtests.jobs import jobs_of
from loadtests.lengths import Fixed
from loadtests.load import Made
from loadtests.machine import Conditions, Reading
from loadtests.plan import AIMED_SHARES, Plan, Subject, parse_subjects
from loadtests.queueing import rate_within
from loadtests.request_log import Row, load_log, log_of
from loadtests.results import Memory, Result, read_result
from loadtests.run import run, stages
from loadtests.statistics import PERCENT, Interval, Objective
from loadtests.targets import Target
from loadtests.texts import TASKS
from loadtests.validity import conditions_of, disturbed_search, notes_of, too_few, too_short, unsteady, wrong_answers
from loadtests.writing import whole_folder
from tests.loadtests.fake import Behaviour
from tests.loadtests.report_cases import subject_of
from tests.loadtests.simulated import SimulatedGenerator

FAKE = (sys.executable, "-m", "tests.loadtests.fake")
PLAN = Plan(
    ("classify",),
    parse_subjects("dense,compact-int8"),
    named=True,
    lengths=Fixed(12),
    slo_ms=100.0,
    failures=0.05,
    spacing="fixed",
    minutes=0.1,
    rounds=3,
    shares=(0.7, 1.5),
    distinct=2,
    least_s=0.3,
)
QUIET = {"gates": (), "progress": lambda text: None}
NAN = float("nan")
BEFORE, AFTER = Reading(0.0, 0.0, 0.0, 0.0), Reading(10.0, 5.0, 0.0, 1.0)


def fake_with(**behaviour: object) -> Target:
    """A fake of its own process."""
    return Target((*FAKE, "--behaviour", json.dumps(behaviour)))


def compared(plan: Plan, target: Target, output: Path, **rest: Any) -> Result:
    """A comparison from its beginning to its end."""
    with jobs_of(plan, target) as jobs:
        return run(jobs, output=output, **{**QUIET, **rest})


def log_with(*changes: dict) -> object:
    """A log of as many requests, each good but for its changes."""
    good = Row(1.0, 1.001, 1.1, 200, 10, True, 0, "dense", NAN, NAN, NAN, NAN, NAN)
    return log_of(good._replace(**change) for change in changes)


@pytest.mark.parametrize(("task", "close"), [("classify", 0.03), ("summarize", 0.08)])
def test_a_comparison_finds_how_much_faster_a_variant_is(tmp_path, monkeypatch, task, close):
    """As in long runs of the same queues, which are simulated, so that no other process disturbs.

    What generates is not taken for a queue; its rates are aimed at first.
    """
    seconds = Behaviour().seconds
    monkeypatch.setattr(compared_run, "LoadGenerator", lambda **_: SimulatedGenerator(seconds))
    plan = replace(PLAN, tasks=(task,), spacing="poisson", slo_ms=200.0, minutes=10.0, rounds=6, shares=(0.6, 0.8, 1.0, 1.2, 1.5))
    gates = [Gate(task, "compact-int8", "dense", least) for least in (4.4, 5.4)]
    result = compared(plan, fake_with(models=["sentiment", "news"]), tmp_path / "out", gates=gates)
    subjects, (rates, capacities) = result.tasks[0].subjects, result.tasks[0].ratios
    expected = [rate_within(0.2, service_s=seconds[each.label], servers=1, percent=PERCENT) for each in subjects]
    assert [each.rate.value for each in subjects] == pytest.approx(expected, rel=close)
    assert [each.capacity.value for each in subjects] == pytest.approx([50.0, 200.0])
    assert rates.interval.value == pytest.approx(expected[1] / expected[0], rel=close)
    assert rates.bound == ""
    assert capacities.interval.value == pytest.approx(4.0)
    assert [verdict.passed for verdict in result.verdicts] == [True, False]
    is_aimed = task == "summarize"
    assert [tuple(point.share for point in each.curve) for each in subjects] == [AIMED_SHARES if is_aimed else plan.shares] * 2
    assert [each.queue_factor for each in subjects] == ([None, None] if is_aimed else pytest.approx([1.0, 1.0]))
    assert all(each.rate.value == pytest.approx(each.curve[1].step.rate, rel=0.1) for each in subjects if is_aimed)


def test_a_comparison_writes_all_that_it_found(tmp_path):
    """Knees, a ratio, a verdict, and files with every request; nothing that was started goes on."""
    told: list[str] = []
    target = tmp_path / "out" / "first"
    with jobs_of(replace(PLAN, shares=(0.5, 2.5)), Target(FAKE)) as jobs:
        result = run(jobs, gates=[Gate("classify", "compact-int8", "dense", 1.2)], output=target, progress=told.append)
        expected = stages(jobs)
    dense, fast = result.tasks[0].subjects
    assert 0 < dense.rate.value < fast.rate.value
    (rates,) = [ratio for ratio in result.tasks[0].ratios if ratio.of == RATE]
    assert [(verdict.interval, verdict.bound) for verdict in result.verdicts] == [(rates.interval, rates.bound)]
    assert result.tasks[0].tokens == (12, 12)
    assert len(told) == expected
    assert json.loads((target / "result.json").read_text())["tasks"][0]["subjects"][0]["label"] == "dense"
    assert {row["stage"] for row in csv.DictReader((target / "steps.csv").read_text().splitlines())} == {"search", "rounds"}
    assert len(load_log(next((target / "requests").glob("*-round-00-1.npz")))) > 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["first"]
    assert not [child for child in psutil.Process().children(recursive=True) if "tests.loadtests.fake" in child.cmdline()]


def test_results_are_there_whole_or_not_at_all(tmp_path):
    """What is interrupted leaves nothing, and what is there already is not touched."""

    def interrupted() -> None:
        with whole_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(LoadTestError, match="already"), whole_folder(tmp_path / "out"):
        pass


def test_wrong_answers_and_answers_of_others_are_void():
    """A body that is not the golden one, and a variant that was not asked."""
    assert list(wrong_answers([log_with({}, {})], PLAN)) == []
    (wrong, other) = wrong_answers([log_with({}, {"right": False}, {"variant": "compact"})], PLAN)
    assert "1 of 3 answers" in wrong
    assert "compact" in other


def test_requests_that_were_sent_late_are_void():
    """The generator's lag is looked at over all loads of a variant; others' share only where ours is known."""
    kept = Kept("dense", is_open=True, seconds=1.0, made=Made(log_with({}, {"sent_s": 1.05}), seconds=1.0, cpu_seconds=0.2))
    found = [conditions_of([kept], BEFORE, AFTER, known=known) for known in (True, False)]
    assert [each.others_share for each in found] == pytest.approx([0.4, NAN], nan_ok=True)
    assert all("late" in each.reasons[0] for each in found)


def test_the_worst_variant_says_whether_requests_were_late():
    """Neither closed loops, which are never late, nor a slow variant's light load hide what befell a fast one."""
    prompt, late = log_with(*[{}] * 1000), log_with({"sent_s": 1.05})
    loads = [("dense", True, prompt, 0.1), ("compact", False, prompt, 0.1), ("compact", True, late, 0.8)]
    kept = [Kept(label, is_open, 1.0, Made(log, 1.0, busy)) for label, is_open, log, busy in loads]
    found = conditions_of(kept, BEFORE, AFTER, known=True)
    assert found.lag_p99_ms == pytest.approx(50.0)
    assert found.generator_share == pytest.approx(0.8)
    assert any("generator was busy 80%" in reason for reason in found.reasons)


def test_failures_are_counted_and_have_no_latency():
    """Only right answers have one, from when they were due."""
    sample = sample_of(log_with({}, {"status": 503, "right": False}, {"right": False}))
    assert sample.failed == 2
    assert sample.latencies_ms == pytest.approx([100.0])


def test_a_variant_that_is_not_served_is_named(fake):
    """With those that are."""
    with pytest.raises(ServiceError, match=r"does not serve tiny .* dense, compact-int8"):
        served_row(Client(fake.url), TASKS["qa"], Subject("tiny", "tiny", "onnxruntime"))


def test_what_is_not_known_is_said():
    """Where the service's processes are not known, the others' share is not, either."""
    assert ["processor time" in note for note in notes_of([], known=False)] == [True]
    assert list(notes_of([], known=True)) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants", "dense"], "--variants"),
        (["--length", "long", "--task", "qa"], "long"),
        (["--length", "32"], "--task"),
        (["--gate", "x"], "--gate"),
        (["--task", "qa", "--gate", "qa:tiny/dense>=2"], "qa:tiny/dense"),
        (["--task", "qa", "--gate", "classify:compact-int8/dense>=2"], "classify:compact-int8/dense"),
        (["--quick", "--gate", "qa:compact-int8/dense>=2"], "--quick decides no gate"),
        (["--quick", "--variants", "a,b,c,d,e,f,g,h"], "--quick has no time for 8 variants"),
        (["--url", "nowhere"], "nowhere"),
        (["--task", "dance"], "dance"),
        (["--rounds", "2"], "rounds"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path, monkeypatch):
    """Exit code 2, what was wrong, no traceback, nothing written."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["compare", *arguments])
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert [path for path in tmp_path.rglob("*") if path.name != "runs"] == []


def test_a_task_that_is_not_served_is_one_line(fake, tmp_path):
    """The service is asked first; the folder is not made."""
    done = CliRunner().invoke(main, ["compare", "--url", fake.url, "--task", "summarize", "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "/summarize" in done.stderr
    assert not Path(tmp_path / "out").exists()


def test_a_variant_that_never_keeps_the_objective_has_no_rate(tmp_path):
    """The comparison goes on: capacities are compared, rates are not, and a note says why."""
    plan = replace(PLAN, slo_ms=15.0, rounds=1, minutes=0.03)
    gate = Gate("classify", "compact-int8", "dense", 1.2)
    result = compared(plan, Target(FAKE), tmp_path / "out", gates=[gate])
    (task,) = result.tasks
    assert task.subjects[0].rate.value == 0
    assert RATE not in {ratio.of for ratio in task.ratios}
    assert "no rate keeps the objective" in task.notes[0]
    assert result.verdicts[0].passed is None
    assert result.is_open


def test_loads_that_are_short_beside_the_objective_are_noted():
    """Nothing is late in a load that ends before: that is void. The search's count, and closed loops do not."""
    kept = [
        Kept("dense", is_open, seconds, Made(log_with(), seconds, 0.0)) for is_open, seconds in ((True, 9.0), (True, 2.0), (False, 0.1))
    ]
    assert list(too_short(kept, Objective(200.0), 5.0)) == []
    (note,) = too_short(kept, Objective(1000.0), 5.0)
    assert "2.0 s" in note
    assert "--minutes" in note


def test_a_percentile_of_few_requests_is_noted():
    """With how many there are; a variant without a rate has a note of its own."""
    dense, fast = subject_of("dense"), subject_of("compact-int8")
    assert list(too_few([dense, fast], 400)) == []
    found = list(too_few([dense, replace(fast, rate=Interval(0.0, 0.0, 0.0))], 401))
    assert ["dense: p99 at each rate rests on 400 requests" in note for note in found] == [True]


def test_a_processor_whose_speed_changes_makes_rounds_differ():
    """One bad round is no reason, half of them are; each variant is looked at by itself."""
    steady, one_bad, changing = [100, 99, 101, 98, 102, 100], [100, 99, 60, 98, 102, 100], [100, 99, 70, 98, 72, 71]
    assert list(unsteady({"dense": steady, "compact": one_bad})) == []
    (reason,) = unsteady({"dense": steady, "compact-int8": changing})
    assert "compact-int8: capacity differed from round to round by 32% (middle half; at most 15%)" in reason


def test_a_comparison_on_such_a_processor_is_void(tmp_path, monkeypatch):
    """It looks at the closed loops of every round and variant."""
    seen = []
    monkeypatch.setattr("loadtests.compare.unsteady", lambda capacities: seen.append(capacities) or ["it changed"])
    plan = replace(PLAN, rounds=2, minutes=0.05)
    (task,) = compared(plan, Target(FAKE), tmp_path / "out").tasks
    assert "it changed" in task.void
    assert "it changed" not in task.notes
    ((dense, fast),) = [each.values() for each in seen]
    assert len(dense) == len(fast) == plan.rounds
    assert max(dense) < min(fast)


def test_a_disturbed_search_is_void_where_it_found_no_rate():
    """Otherwise it is noted: the rates come from the rounds."""
    busy, dense = Conditions(0.0, 0.3, 0.0, 0.1), subject_of("dense")
    for subject, void in ((dense, False), (replace(dense, rate=Interval(0.0, 0.0, 0.0)), True)):
        found = [list(disturbed_search(busy, [subject], is_void=is_void)) for is_void in (True, False)]
        assert [len(each) for each in found] == [int(void), int(not void)]
        assert all("in the search" in reason for each in found for reason in each)


def test_tasks_that_are_done_are_kept_when_a_later_one_fails(tmp_path):
    """The result is void and says what is missing; nothing of the task that failed is left."""
    plan = replace(PLAN, tasks=("classify", "summarize"), rounds=1, minutes=0.05)
    target = fake_with(models=["sentiment", "news"], refuses="/summarize")
    result = compared(plan, target, tmp_path / "out")
    assert [task.task for task in result.tasks] == ["classify"]
    assert result.void[0].startswith("incomplete: /summarize came to nothing: dense")
    assert read_result(tmp_path / "out").stopped == result.stopped
    assert not list((tmp_path / "out" / "requests").glob("summarize-*"))


def test_a_service_that_ends_under_load_is_named(tmp_path):
    """The first task's error is the run's: nothing is written."""
    target = fake_with(dies_after=60)
    with pytest.raises(MeasurementError, match="ended under load"):
        compared(replace(PLAN, rounds=1), target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_takes_too_long_ends(tmp_path):
    """No load is made after the deadline."""
    with jobs_of(PLAN, Target(FAKE)) as jobs, pytest.raises(MeasurementError, match="did not end in"):
        run(replace(jobs, deadline=Deadline(0.0, 0.0)), output=tmp_path / "out", **QUIET)


def test_memory_is_the_most_after_a_visit():
    """Not the last reading; nothing where the service was not started here."""
    assert memory_of(10, [30, 50, 40]) == Memory(10, 50)
    assert memory_of(None, [30]) is memory_of(10, [None]) is None
