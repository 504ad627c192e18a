"""Loads with a shape, and what they show."""

import json

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

from loadtests.arrivals import arrivals
from loadtests.cli import main
from loadtests.request_log import Row, log_of
from loadtests.shapes import MemoryPoint, findings_of, growth_of, knee_of, load_of, phases_of, recovery_of
from loadtests.statistics import Objective

NAN = float("nan")
OBJECTIVE = Objective(200.0)
SPIKE = load_of("spike", 20.0, 20 / 60)


def log_with(load, latency_of):
    """Requests of a load, whose latency in seconds depends on when they were due."""
    times = arrivals(load, spacing="fixed", seed=0)
    return log_of(Row(due, due, due + latency_of(due), 200, 1, True, 0, "dense", NAN, NAN, NAN, NAN, NAN) for due in times)


@pytest.mark.parametrize("kind", ["ramp", "spike", "soak"])
def test_a_shape_takes_the_time_given(kind):
    """And its rates grow with the capacity."""
    load = load_of(kind, 10.0, 2.5)
    assert sum(phase.seconds for phase in load) == pytest.approx(150.0)
    assert [phase.rate for phase in load_of(kind, 20.0, 2.5)] == pytest.approx([2 * phase.rate for phase in load])


def test_the_knee_is_the_last_step_before_the_first_that_is_late():
    """A later one that is in time by luck does not count."""
    load = load_of("ramp", 100.0, 9 / 60)
    phases = list(phases_of(load, log_with(load, lambda due: 0.5 if 3 <= due < 4 else 0.05)))
    assert knee_of(phases, OBJECTIVE) == pytest.approx(60.0)
    assert knee_of(list(phases_of(load, log_with(load, lambda due: 0.5))), OBJECTIVE) == 0.0


def test_recovery_is_counted_from_the_end_of_the_spike():
    """5 s before, 3 s of spike, and late for 2 s more."""
    assert recovery_of(SPIKE, log_with(SPIKE, lambda due: 0.5 if 5 <= due < 10 else 0.05), OBJECTIVE) == pytest.approx(2.0, abs=1.0)
    assert recovery_of(SPIKE, log_with(SPIKE, lambda due: 0.05), OBJECTIVE) == 0.0
    assert recovery_of(SPIKE, log_with(SPIKE, lambda due: 0.5), OBJECTIVE) is None


def test_a_spike_that_is_not_recovered_from_breaks_its_promise():
    """As does memory that grows in a soak, or a late minute."""
    late = log_with(SPIKE, lambda due: 0.5)
    found = findings_of("spike", SPIKE, tuple(phases_of(SPIKE, late)), late, [], OBJECTIVE)
    assert list((found.promises or {}).values()) == [False]
    soak = load_of("soak", 20.0, 0.2)
    good, grown = log_with(soak, lambda due: 0.05), [MemoryPoint(float(second), 100 + 10 * second) for second in range(1, 12)]
    found = findings_of("soak", soak, tuple(phases_of(soak, good)), good, grown, OBJECTIVE)
    assert list((found.promises or {}).values()) == [True, False]


def test_growth_leaves_the_beginning_out():
    """What is taken at first is not growth; of one reading nothing is known."""
    points = [MemoryPoint(float(second), 50 if second < 2 else 100) for second in range(21)]
    assert growth_of(points) == 0.0
    assert growth_of(points[:1]) is None
    assert growth_of([]) is None


@pytest.mark.parametrize("kind", ["ramp", "spike", "soak"])
def test_a_shape_is_made_and_written_by_one_command(kind, fake, tmp_path):
    """Every phase is shown, a file says all of it, and nothing that was started goes on."""
    target, before = tmp_path / "out", set(psutil.Process().children(recursive=True))
    arguments = [
        "--url",
        fake.url,
        "--task",
        "classify",
        "--length",
        "12",
        "--minutes",
        "0.06",
        "--variant",
        "compact-int8",
        "--rate",
        "20",
    ]
    done = CliRunner().invoke(main, [kind, *arguments, "--slo", "2000", "--output", str(target)])
    assert done.exit_code in (0, 1, 3), done.output
    document = json.loads((target / "result.json").read_text())
    assert (document["kind"], document["task"]) == (kind, "classify")
    assert sum(phase["step"]["requests"] for phase in document["phases"]) > 0
    assert len(np.load(next((target / "requests").glob(f"{kind}.npz")))["status"]) > 0
    assert document["phases"][0]["name"] in done.stdout
    assert set(psutil.Process().children(recursive=True)) <= before
