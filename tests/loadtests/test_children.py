"""Children end when they should, and say why."""

import sys
import time

import psutil
import pytest

from loadtests.children import run_child
from loadtests.errors import MeasurementError


def python(code: str) -> list[str]:
    """A command that runs it."""
    return [sys.executable, "-c", code]


def test_what_a_child_is_told_and_says_goes_through():
    """Standard input, output, the last line of its log, and the exit code."""
    code = "import sys; print(sys.stdin.read()[::-1]); print('first', file=sys.stderr); sys.exit('last')"
    done = run_child(python(code), seconds=30.0, text="abc")
    assert (done.code, done.output.strip(), done.last_words) == (1, "cba", "last")


def test_a_child_that_takes_too_long_is_ended_with_what_it_has_started():
    """Nothing of its session goes on."""
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); time.sleep(60)"
    with pytest.raises(MeasurementError, match="did not end"):
        run_child(python(code), seconds=1.0)
    time.sleep(0.1)
    left = [each for each in psutil.Process().children(recursive=True) if "time.sleep(60)" in " ".join(each.cmdline())]
    assert left == []


@pytest.mark.parametrize("name", ["SECATEUR_API_KEYS", "SECATEUR_WEIGHTS", "SECATEUR_PREFER"])
def test_settings_that_would_lock_us_out_are_not_passed_on(name, monkeypatch):
    """Keys, ports, and variants that this one does not load are the user's own service's; what is given is added."""
    monkeypatch.setenv(name, "x")
    code = f"import os; print(os.environ.get('{name}'), os.environ['SECATEUR_DRAIN_DELAY_S'])"
    done = run_child(python(code), seconds=30.0, environment={"SECATEUR_DRAIN_DELAY_S": "0"})
    assert done.output.split() == ["None", "0"]
