"""Cores of their own, who used the machine, and what makes a measurement void."""

import os
import subprocess
import sys
import time
from collections import namedtuple

import psutil
import pytest

from loadtests.machine import Conditions, Reading, available_cores, conditions, is_running, on_cores, read, share_cores

QUIET = Conditions(lag_p99_ms=1.0, others_share=0.01, stolen_share=0.0, generator_share=0.3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_on_few_cores_each_has_its_own(count):
    """The generator has one, the service the others, and what is printed says so."""
    cores = share_cores(range(count))
    assert not set(cores.service) & set(cores.generator)
    assert set(cores.service) | set(cores.generator) == set(range(count))
    assert f"core {count - 1} for the generator" in str(cores)


@pytest.mark.parametrize("count", [1, 5, 64])
def test_one_core_or_many_are_shared(count):
    """Nothing is pinned."""
    cores = share_cores(range(count))
    assert cores.service == cores.generator == tuple(range(count))
    assert "share" in str(cores)


def test_a_child_stays_on_its_cores():
    """What is started in the block may use those cores alone; this process may use all again."""
    before, one = available_cores(), available_cores()[:1]
    with on_cores(one):
        seen = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], capture_output=True, text=True, check=True
        )
    assert seen.stdout.strip() == str(set(one))
    assert available_cores() == before


def test_a_quiet_run_counts():
    """Nothing to say against it."""
    assert QUIET.reasons == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lag_p99_ms": 7.0}, "7.0 ms late"),
        ({"others_share": 0.2}, "other processes took 20.0%"),
        ({"stolen_share": 0.03}, "hypervisor took 3.0%"),
        ({"generator_share": 0.71}, "generator was busy 71%"),
    ],
)
def test_a_disturbed_run_is_void_and_says_why(changed, words):
    """Each kind of disturbance by itself."""
    (reason,) = Conditions(**{**vars(QUIET), **changed}).reasons
    assert words in reason


def test_what_others_took_is_what_is_busy_and_not_ours():
    """Of ten seconds of all cores: six busy, of which ours five; one stolen."""
    found = conditions(Reading(100, 50, 3, 20), Reading(110, 56, 4, 25), lag_p99_ms=1.0, generator_share=0.2)
    assert (found.others_share, found.stolen_share) == pytest.approx((0.1, 0.1))


def test_our_own_work_is_ours():
    """Processor time of a process and of its child is counted as ours."""
    cores = available_cores()
    before = read([os.getpid()], cores)
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        until = time.monotonic() + 5
        while read([os.getpid()], cores).ours < before.ours + 0.2 and time.monotonic() < until:
            time.sleep(0.05)
        after = read([os.getpid()], cores)
    finally:
        child.kill()
        child.wait()
    assert after.ours >= before.ours + 0.2
    assert after.total > before.total
    assert read([os.getpid()], cores).ours >= before.ours + 0.2, "what a child did is still known when it has ended"


def test_cores_that_are_not_ours_do_not_count(monkeypatch):
    """Others may do there what they like."""
    times = namedtuple("times", ("user", "idle", "iowait", "steal"))
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [times(10, 90, 0, 0), times(100, 0, 0, 0), times(4, 90, 5, 1)])
    found = read([], [0, 2])
    assert (found.total, found.busy, found.stolen) == (200, 14, 1)


def test_a_process_that_has_ended_is_not_running():
    """Also while nobody has asked for its exit code."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(child.pid)
    child.communicate()
    assert not is_running(child.pid)
