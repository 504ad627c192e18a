"""`secateur-serve bench`: tables on stdout, one line for what goes wrong, and an exit code for broken promises."""

import json
import signal
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from service.bench import command
from service.bench.gates import Verdict
from service.bench.report import Report, this_machine
from service.bench.run import Plan
from service.command_line import CommandGroup
from service.errors import BenchError
from service.settings import Settings


def _run(*arguments: str) -> Result:
    group = CommandGroup("secateur-serve", commands={"bench": command.bench})
    return CliRunner().invoke(group, ["bench", *arguments], obj=Settings(models=Path("there")))


def _report(passed: bool | None) -> Report:
    verdict = Verdict("a promise", "a load", "dense", None, passed)
    return Report(this_machine(), 1, 1.0, rows=(), comparisons=(), verdicts=(verdict,), notes=())


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Plans that were to be run; none is."""
    seen: list[Plan] = []

    def run(plan: Plan, **_: object) -> Report:
        seen.append(plan)
        return _report(passed=True)

    monkeypatch.setattr(command, "run", run)
    return seen


@pytest.mark.parametrize("arguments", [[], ["overload"], ["soak"]])
def test_help_has_an_example(arguments):
    """Each command shows how it is used."""
    assert f"secateur-serve {' '.join(['bench', *arguments])}" in _run(*arguments, "--help").stdout


def test_the_whole_is_measured_by_default(plans):
    """All variants, all peers, five rounds, of the models in the settings."""
    assert _run().exit_code == 0
    assert plans == [Plan(models=Path("there"))]


def test_quick_is_one_variant_in_short_windows(plans):
    """Still five rounds, forwards and backwards."""
    _run("--quick", "--no-peers")
    assert plans == [Plan(models=Path("there"), variants=("compact-int8",), seconds=0.4, layouts=())]


def test_what_is_asked_for_is_measured(plans):
    """Options go before --quick."""
    _run("--quick", "--variant", "dense", "--variant", "compact", "--rounds", "9", "--seconds", "2", "--tokens", "64")
    wanted = {"variants": ("dense", "compact"), "rounds": 9, "seconds": 2.0, "layouts": ("default", "workers"), "tokens": 64}
    assert plans == [Plan(models=Path("there"), **wanted)]


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (None, 0), (False, 1)])
def test_a_broken_promise_is_the_exit_code_and_still_written(monkeypatch, tmp_path, passed, code):
    """The result is complete, whatever it says."""
    monkeypatch.setattr(command, "run", lambda plan, **_: _report(passed))
    result = _run("--json", str(tmp_path / "bench.json"))
    assert result.exit_code == code
    assert json.loads((tmp_path / "bench.json").read_text())["verdicts"][0]["passed"] is passed
    assert "a promise [a load, dense]" in result.stdout


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BenchError("the service ended instead of starting")])
def test_what_stops_a_run_is_one_line(monkeypatch, error):
    """Ctrl-C and a service that does not start leave no traceback and no result."""

    def stopped(plan: Plan, **_: object) -> Report:
        raise error

    monkeypatch.setattr(command, "run", stopped)
    result = _run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1


def test_a_signal_to_end_ends_servers_too(monkeypatch):
    """SIGTERM unwinds as Ctrl-C does, and afterwards means again what it meant."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(command, "run", lambda plan, **_: signal.raise_signal(signal.SIGTERM))
    assert "all servers were stopped" in _run().stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_elsewhere_than_on_linux_it_says_so(monkeypatch, plans):
    """Without /proc there is nothing to read processor times from."""
    monkeypatch.setattr(command, "is_readable", lambda: False)
    assert "run it on Linux" in _run().stderr
    assert plans == []


def test_progress_names_the_cell(capsys):
    """The bar is on stderr, so that stdout holds the result alone."""
    with click.Context(command.bench), command._bar("a load", 1) as step:
        step(command.Cell("a load", "dense", "http", lambda seconds: None))  # type: ignore[arg-type, return-value]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a load" in captured.err
