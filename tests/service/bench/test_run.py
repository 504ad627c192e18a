"""Runs from end to end: the real service over tiny models, without peers, in windows that are too short for figures."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.bench import overload as overload_module
from service.bench import run as run_module
from service.bench import servers
from service.bench import soak as soak_module
from service.bench.compare import ADDED_P50, EFFICIENCY
from service.bench.gates import ANSWERS
from service.bench.overload import overload
from service.bench.report import this_machine, write_json
from service.bench.run import Plan, fastest, loads_of, report_of, run
from service.bench.soak import soak
from service.bench.subjects import find_subjects
from service.bench.visit import Cell
from service.errors import ArtifactError, BenchError
from tests.service.bench.builders import load_of, samples, visit

PLAN = {"variants": ("dense", "compact-int8"), "rounds": 2, "seconds": 0.1, "layouts": ()}


@contextmanager
def _bar(label: str, length: int):
    yield lambda cell: None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits than for figures."""
    monkeypatch.setattr(run_module, "WARM_SECONDS", 0.05)
    monkeypatch.setattr("service.bench.raw.PROBE_SECONDS", 0.02)
    monkeypatch.setattr(servers, "CALM_SECONDS", 0.1)


def _cell(layer: str) -> Cell:
    return Cell("load", "dense", layer, lambda seconds: visit(1.0))


@pytest.mark.slow
def test_a_run_measures_every_layer_and_finds_every_answer_right(models, tmp_path):
    """Raw session, engine and HTTP of both models, with one client and with many, compared and judged."""
    report = run(Plan(models=models, **PLAN), progress=_bar, say=lambda text: None)
    layers = {(row.load, row.layer) for row in report.rows}
    assert {load for load, _ in layers} == {"qa, 160 tokens", "sentiment, 32 tokens", "sentiment, 8 x 32 tokens"}
    assert len(layers) == 5 + 5 + 3
    assert all(row.requests_per_second > 0 and row.cpu_ms_per_request > 0 for row in report.rows)
    assert {(row.failed, row.unexpected) for row in report.rows} == {(0, 0)}
    assert report.verdicts[-1].passed is True
    assert {EFFICIENCY, ADDED_P50} <= {each.name for each in report.comparisons}
    write_json(report, tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text())["rounds"] == 2


@pytest.mark.slow
def test_an_overload_is_answered_by_200_503_and_504(models, monkeypatch):
    """Too many requests are refused, and nothing is lost; memory and recovery are noted."""
    for name in ("CAPACITY_SECONDS", "QUIET_SECONDS", "AFTER_SECONDS"):
        monkeypatch.setattr(overload_module, name, 0.5)
    result = overload(models, variant="dense", seconds=0.5, factor=1.5, say=lambda text: None)
    assert [load.load for load in result.loads] == ["qa, 160 tokens", "sentiment, 32 tokens"]
    kinds = [next(iter(load.promises.values())) for load in result.loads]  # the others need more than half a second to be kept
    assert kinds == [True, True]
    assert all(sum(load.statuses.values()) > 10 for load in result.loads)
    assert all(load.rss_peak_mb > 10 for load in result.loads)


@pytest.mark.slow
def test_a_soak_notes_memory(models, monkeypatch):
    """Requests of all lengths are answered, and memory is looked at more than once."""
    monkeypatch.setattr(soak_module, "SLICE_SECONDS", 0.1)
    result = soak(models, variants=("dense",), minutes=0.02, say=lambda text: None)
    assert (result.failed, result.problem) == (0, "")
    assert result.requests > 10
    assert len(result.samples) > 1


def test_texts_have_the_length_that_is_asked_for(qa_model, classify_model):
    """In every load, as far as the model takes it."""
    plan = Plan(models=Path("there"), tokens=48)
    loads = [*loads_of(qa_model, plan), *loads_of(classify_model, plan)]
    assert {load.tokens for load in loads} == {48}
    assert [load.tokens for load in loads_of(qa_model, Plan(models=Path("there"), tokens=10_000))] == [160]


@pytest.mark.parametrize(("tokens", "judged"), [(None, True), (32, False)])
def test_promises_are_of_their_own_lengths(tokens, judged):
    """With another one nothing is judged but answers; rows say how many tokens a request has."""
    report = report_of(Plan(models=Path("there"), tokens=tokens), this_machine(), [load_of()], samples(http=[visit(10.0)]), [])
    assert (len(report.verdicts) > 1) is judged
    assert report.verdicts[-1].gate == ANSWERS
    assert [row.tokens_per_request for row in report.rows] == [32]


def test_a_folder_without_models_is_said(tmp_path):
    """There is nothing to measure."""
    with pytest.raises(ArtifactError, match="none of dense"):
        run(Plan(models=tmp_path, **PLAN), progress=_bar, say=lambda text: None)


def test_a_variant_that_this_machine_does_not_reproduce_is_left_out(models, classify_model):
    """Golden outputs that differ leave the variant out, with the reason; the others are measured."""
    manifest = models / "qa/dense/manifest.json"
    document = json.loads(manifest.read_text())
    document["golden"]["outputs"]["start_logits"][0][0] += 1.0
    manifest.write_text(json.dumps(document))
    notes = []
    groups = find_subjects(models, ["dense"], note=notes.append)
    assert [[subject.key for subject in group] for group in groups] == [["sentiment/dense"]]
    assert "golden outputs differ" in notes[0]


def test_a_runtime_that_is_not_installed_is_named(models, monkeypatch):
    """The variant is left out, with what to install."""
    monkeypatch.setitem(__import__("service.bench.subjects", fromlist=["RUNTIMES"]).RUNTIMES, "dense", "no-such-runtime")
    notes = []
    with pytest.raises(ArtifactError):
        find_subjects(models, ["dense"], note=notes.append)
    assert notes == ["dense: not installed: pip install no-such-runtime"]


def test_of_tuned_layouts_only_the_fastest_is_kept():
    """Defaults and our own layers stay; a peer that answered nothing does not."""
    speeds = {"raw": 9.0, "http": 8.0, "x (default)": 1.0, "x (threads)": 5.0, "x (workers)": 4.0, "y (default)": 0.0, "y (workers)": 2.0}
    cells = [_cell(layer) for layer in speeds]
    kept = fastest(cells, {cell.key: [visit(speeds[cell.layer])] for cell in cells})
    assert [cell.layer for cell in kept] == ["raw", "http", "x (default)", "x (threads)", "y (workers)"]


def test_a_service_that_answers_nothing_ends_the_run(models, stub, monkeypatch):
    """Before any round is made, with what it answered instead."""

    class Refusing(servers.Server):
        def __init__(self, *_: object, **__: object) -> None:
            self.port, self.pids = stub.port, []

        def wait(self, seconds: float = 0) -> None:
            """It is there."""

        wake = sleep = stop = lambda self: None

    monkeypatch.setattr(run_module, "our_server", lambda *_, **__: Refusing())
    monkeypatch.setattr("service.bench.texts.PATHS", {"question-answering": "/busy", "text-classification": "/busy"})
    with pytest.raises(BenchError, match="the service answers nothing to /busy, dense: "):
        run(Plan(models=Path(models), **PLAN), progress=_bar, say=lambda text: None)
