"""Cores of their own, who used the machine, and what makes a measurement void."""

import os
import subprocess
import sys
import time

import pytest

from loadtests.machine import Conditions, Reading, available_cores, conditions, on_cores, read, share_cores

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
        ({"stolen_share": 0.03}, "host kept 3.0%"),
        ({"generator_share": 0.95}, "generator was busy 95%"),
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
    before = read([os.getpid()])
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        until = time.monotonic() + 5
        while read([os.getpid()]).ours < before.ours + 0.2 and time.monotonic() < until:
            time.sleep(0.05)
        after = read([os.getpid()])
    finally:
        child.kill()
        child.wait()
    assert after.ours >= before.ours + 0.2
    assert after.total > before.total
