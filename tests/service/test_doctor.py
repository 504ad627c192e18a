"""The doctor measures what could be served, refuses what could not, and advises only what was measured."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.artifact import read_manifest, write_manifest
from service.doctor import doctor
from service.doctor.probing import golden_row, layouts, probe
from service.doctor.report import Host, Layout, Refusal, Report, Row, advised, render

WIDE, DEEP = Layout(2, 1), Layout(1, 2)


def _row(runtime: str = "onnxruntime", layout: Layout = WIDE, speed: float = 1000.0, artifact: str = "qa/compact", tokens: int = 32) -> Row:
    return Row(artifact, runtime, layout, tokens, tokens_per_s=speed, latency_ms=1.0)


def _report(rows: list[Row], refusals: tuple[Refusal, ...] = ()) -> Report:
    host = Host("A processor", 2, 2, 1.5, ("avx2",), {"onnxruntime": "1.0", "openvino": None}, cuda=False)
    return Report(host, tuple(rows), refusals, advised(rows))


def _break_golden(folder) -> None:
    manifest = read_manifest(folder)
    outputs = {name: [[value + 1.0 for value in row] for row in rows] for name, rows in manifest.golden.outputs.items()}
    write_manifest(manifest.model_copy(update={"golden": manifest.golden.model_copy(update={"outputs": outputs})}), folder)


def test_every_layout_and_length_is_measured(qa_folder, classify_folder):
    """Each artifact gets a row for each layout and length, the length cut to what the model takes."""
    report = probe([qa_folder, classify_folder], seconds=0.2, cores=2)
    found = {(row.artifact, row.layout, row.tokens) for row in report.rows if row.runtime == "onnxruntime"}
    assert found == {(name, layout, 24) for name in ("qa/dense", "sentiment/dense") for layout in layouts(2)}
    assert all(row.tokens_per_s > 0 and row.latency_ms > 0 for row in report.rows)


def test_shorter_lengths_are_measured_beside_the_longest(qa_folder):
    """Lengths that fit are kept."""
    report = probe([qa_folder], seconds=0.1, lengths=(8, 384), cores=1)
    assert {row.tokens for row in report.rows} == {8, 24}


def test_time_that_is_over_still_gives_every_row(qa_folder, classify_folder):
    """With no time at all, every setting is measured once and the bar still reaches its end."""
    visits: list[None] = []
    report = probe([qa_folder, classify_folder], seconds=0.0, cores=2, visited=lambda: visits.append(None))
    assert {row.artifact for row in report.rows} == {"qa/dense", "sentiment/dense"}
    assert len(visits) == 4


def test_failed_golden_check_stands_in_place_of_figures(qa_folder, classify_folder):
    """What would not be loaded is not timed, and the others are."""
    _break_golden(qa_folder)
    report = probe([qa_folder, classify_folder], seconds=0.1, cores=1)
    assert {row.artifact for row in report.rows} == {"sentiment/dense"}
    assert any(refusal.artifact == "qa/dense" and "golden outputs differ" in refusal.problem for refusal in report.refusals)


def test_altered_artifact_is_refused(qa_folder):
    """A file that is not the one of the manifest is never run."""
    (qa_folder / "model.onnx").write_bytes(b"")
    report = probe([qa_folder], seconds=0.1, cores=1)
    assert report.rows == ()
    assert "altered" in report.refusals[0].problem
    assert report.settings == {}


def test_row_is_of_the_length_asked_for(qa_folder):
    """A golden row is repeated or cut."""
    for length in (2, 50):
        assert {values.shape for values in golden_row(read_manifest(qa_folder), length).values()} == {(1, length)}


@given(st.integers(1, 256))
def test_layouts_never_take_more_than_the_cores(cores):
    """Callers times threads fits, each way is named once, and a call on each core comes first."""
    ways = layouts(cores)
    assert all(way.callers * way.threads <= cores for way in ways)
    assert len(set(ways)) == len(ways)
    assert ways[0] == Layout(cores, 1)


def test_default_is_kept_when_others_are_no_faster():
    """A difference within a twentieth changes no setting."""
    rows = [_row(), _row("openvino", speed=1040.0), _row(layout=DEEP, speed=1049.0)]
    assert advised(rows) == {"SECATEUR_RUNNERS": "2", "SECATEUR_THREADS": "1"}


def test_faster_runtime_is_advised_for_that_artifact_alone():
    """Each artifact gets the runtime that is faster for it."""
    rows = [_row(), _row("openvino", speed=2000.0), _row(artifact="qa/dense"), _row("openvino", artifact="qa/dense", speed=900.0)]
    assert json.loads(advised(rows)["SECATEUR_RUNTIME"]) == {"qa/compact": "openvino"}


def test_runtime_is_advised_where_it_is_the_only_one():
    """An artifact that ONNX Runtime refuses is served by the runtime that does not."""
    assert json.loads(advised([_row("openvino")])["SECATEUR_RUNTIME"]) == {"qa/compact": "openvino"}


def test_layout_is_chosen_over_all_artifacts_and_lengths():
    """One length that gains does not outweigh what the others lose."""
    wide = [_row(tokens=32), _row(tokens=384), _row(artifact="qa/dense")]
    deep = [_row(layout=DEEP, tokens=32, speed=1500.0), _row(layout=DEEP, tokens=384, speed=300.0), _row(layout=DEEP, artifact="qa/dense")]
    assert advised(wide + deep)["SECATEUR_RUNNERS"] == "2"
    assert (
        advised([*wide, _row(layout=DEEP, speed=5000.0), _row(layout=DEEP, artifact="qa/dense", speed=5000.0)])["SECATEUR_THREADS"] == "2"
    )


def test_spinning_is_never_advised():
    """However fast, it burns the cores of others."""
    rows = [_row(), _row(layout=Layout(1, 2, spinning=True), speed=1e6)]
    assert advised(rows)["SECATEUR_RUNNERS"] == "2"


def test_settings_can_be_pasted():
    """The lines at the end are a shell's assignments, whose values read back as they are."""
    report = _report([_row(), _row("openvino", speed=2000.0)])
    lines = render(report).rpartition("\n\n")[2].splitlines()[1:]
    assert dict(shlex.split(line)[0].split("=", 1) for line in lines) == report.settings


def test_page_says_machine_figures_and_refusals():
    """Cores by affinity and quota, versions, both lengths in one line, and what is refused."""
    page = render(_report([_row(tokens=32), _row(tokens=384, speed=777.0)], (Refusal("qa/dense", "openvino", "no reason"),)))
    assert "2 by affinity, a quota of 1.5" in page
    assert "openvino not installed" in page
    (line,) = [line for line in page.splitlines() if line.startswith("qa/compact")]
    assert "1,000" in line
    assert "777" in line
    assert "qa/dense in openvino: no reason" in page


def test_page_without_figures_says_so():
    """When everything is refused there is nothing to paste."""
    assert "nothing to advise" in render(_report([]))


@pytest.mark.parametrize("as_json", [True, False])
def test_command_prints_the_report_on_stdout(qa_folder, capsys, as_json):
    """The report alone is on stdout, as JSON when asked."""
    doctor([qa_folder], seconds=0.1, as_json=as_json)
    out = capsys.readouterr().out
    if as_json:
        document = json.loads(out)
        assert {row["artifact"] for row in document["rows"]} == {"qa/dense"}
        assert "SECATEUR_RUNNERS" in document["settings"]
    else:
        assert "qa/dense" in out
        assert "SECATEUR_RUNNERS=" in out
