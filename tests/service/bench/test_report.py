"""A run's result, for people and for machines."""

import json
from pathlib import Path

import numpy as np
import pytest

from service.bench.compare import comparisons, row_of
from service.bench.gates import verdicts
from service.bench.report import Report, figure, machine_line, rendered, table, this_machine, write_json
from service.errors import BenchError
from tests.service.bench.builders import load_of, samples, visit

LOAD = load_of()


@pytest.fixture
def report() -> Report:
    """One load with a raw session and HTTP, the latter without a latency."""
    visits = samples(raw=[visit(100.0)], http=[visit(90.0, latencies_ms=np.array([]))])
    compared = comparisons(LOAD.name, "dense", visits, cores=2)
    return Report(
        machine=this_machine(),
        rounds=1,
        seconds=1.0,
        rows=tuple(row_of(key, found, LOAD, cores=2) for key, found in visits.items()),
        comparisons=tuple(compared),
        verdicts=tuple(verdicts([LOAD], compared)),
        notes=("peers were left out",),
    )


def test_columns_are_aligned():
    """Names to the left, figures to the right, nothing behind the last column."""
    assert table(("a", "layer", "rate"), [("dense", "raw", "1.0"), ("x", "http", "123.5")]) == [
        "a      layer   rate",
        "dense  raw      1.0",
        "x      http   123.5",
    ]


def test_what_is_not_a_number_is_a_dash():
    """Nobody reads a nan as a figure."""
    assert (figure(float("nan")), figure(float("inf")), figure(1.26)) == ("-", "-", "1.3")


def test_people_see_the_machine_every_cell_every_comparison_every_promise(report):
    """Tables, verdicts and notes are all there."""
    text = rendered(report)
    assert text.startswith(machine_line(report.machine))
    for part in ("sentiment, 32 tokens", "raw", "http", "efficiency", "0.900", "pass  ", "not measured  ", "note: peers were left out"):
        assert part in text


def test_the_machine_names_its_versions():
    """A figure without its versions cannot be compared with another one."""
    machine = this_machine()
    assert machine.packages["onnxruntime"]
    assert machine.cores >= 1


def test_json_is_complete_and_has_no_nan(report, tmp_path):
    """Strict JSON: what is not a number is null."""
    target = tmp_path / "bench.json"
    write_json(report, target)
    document = json.loads(target.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert [row["p50_ms"] for row in document["rows"]] == [1.0, None]
    assert {verdict["passed"] for verdict in document["verdicts"]} == {True, None}
    assert list(tmp_path.iterdir()) == [target]


def test_json_that_cannot_be_written_leaves_the_old_one(report, tmp_path, monkeypatch):
    """A failure is one line, and what was there stays."""
    target = tmp_path / "bench.json"
    target.write_text("old")

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BenchError, match="No space left on device"):
        write_json(report, target)
    assert target.read_text() == "old"


def test_only_results_are_written(tmp_path):
    """What is no dataclass is a mistake of the caller's."""
    with pytest.raises(TypeError):
        write_json({"a": 1}, tmp_path / "x.json")
