"""The command as a user starts it, and ends it."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.exceptions import Exit
from click.testing import CliRunner

from loadtests import cli
from loadtests.cli import main
from loadtests.command_line import finish, output_or
from tests.waiting import until

COMPARE = [sys.executable, "-m", "loadtests", "compare", "--variants", "dense,compact-int8", "--task", "classify", "--length", "12"]


@pytest.fixture(autouse=True)
def can_be_interrupted():
    """A shell starts what runs in the background with SIGINT ignored, and so would be what the tests start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all_and_leaves_nothing(number, fake, tmp_path):
    """One line, exit code 2, no folder, no process, while load is being made."""
    target = tmp_path / "out"
    with subprocess.Popen([*COMPARE, "--url", fake.url, "--output", str(target)], stderr=subprocess.PIPE, text=True) as command:
        until(lambda: fake.answers > 20 or command.poll() is not None)
        children = psutil.Process(command.pid).children(recursive=True)
        command.send_signal(number)
        _, said = command.communicate(timeout=30)
    assert command.returncode == 2
    assert "interrupted" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert children
    assert not any(child.is_running() for child in children)


def test_a_busy_machine_is_said_before_it_costs_time(fake, tmp_path, monkeypatch):
    """The run goes on; that is for the user to decide."""
    monkeypatch.setattr(cli, "others_now", lambda: 0.5)
    done = CliRunner().invoke(main, ["compare", "--url", fake.url, "--task", "summarize", "--output", str(tmp_path / "out")])
    assert "other processes take 50% of the machine now" in done.stderr


@pytest.mark.parametrize(
    ("void", "failed", "is_open", "code"),
    [
        ((), False, False, 0),
        ((), True, False, 1),
        ((), True, True, 1),
        ((), False, True, 4),
        (("late",), False, True, 3),
        (("late",), True, False, 3),
    ],
)
def test_the_exit_code_says_void_before_broken(void, failed, is_open, code):
    """A broken promise means nothing where nothing was measured; a gate that could not be measured is no success."""
    try:
        finish(void, failed=failed, is_open=is_open)
        found = 0
    except Exit as error:
        found = error.exit_code
    assert found == code


def test_a_folder_is_named_after_the_time_unless_it_is_given():
    """Below runs/."""
    assert output_or(None, "spike").parts[0] == "runs"
    assert output_or(Path("x"), "spike") == Path("x")
