"""A result is read as it was written."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from loadtests.errors import LoadTestError
from loadtests.results import read_result
from loadtests.writing import plain, write

EXAMPLE = Path(__file__).parent / "example_result.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the result of a real run."""
    (tmp_path / "result.json").write_text(EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_what_is_read_and_written_again_is_the_same(folder, tmp_path):
    """All members, numbers that could not be had included."""
    first = read_result(folder)
    (tmp_path / "again").mkdir()
    write(first, tmp_path / "again")
    assert plain(asdict(read_result(tmp_path / "again"))) == plain(asdict(first))
    assert json.loads((tmp_path / "again" / "result.json").read_text()) == json.loads(EXAMPLE.read_text())


def test_results_from_before_rates_were_read_off_queues_are_read(folder):
    """Theirs were read off straight lines, all of them."""
    document = json.loads((folder / "result.json").read_text())
    for subject in document["tasks"][0]["subjects"]:
        del subject["queue_factor"]
    (folder / "result.json").write_text(json.dumps({**document, "schema_version": "1.0"}))
    assert [subject.queue_factor for subject in read_result(folder).tasks[0].subjects] == [None, None, None]


def test_the_example_has_all_parts(folder):
    """Those that a report shows."""
    (task,) = read_result(folder).tasks
    assert task.layers
    assert task.sessions
    assert task.factors
    assert task.rooflines
    for subject in task.subjects:
        assert subject.accuracy
        assert subject.memory
        assert all(sum(point.histogram) <= point.step.requests for point in subject.curve)
        assert all(len(point.histogram) == len(task.edges_ms) - 1 for point in subject.curve)


def test_a_void_result_says_so_at_its_top(folder):
    """Its reasons, with the task."""
    result = read_result(folder)
    void = replace(result, tasks=(replace(result.tasks[0], void=("others were busy",)),))
    write(void, folder)
    assert json.loads((folder / "result.json").read_text())["void"] == ["qa: others were busy"]


@pytest.mark.parametrize(("text", "words"), [(None, "cannot be read"), ("[]", "no result"), ('{"schema_version": "2.0"}', "version 2.0")])
def test_what_is_no_result_is_one_line(text, words, tmp_path):
    """Missing, of another kind, of another version."""
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(LoadTestError, match=words):
        read_result(tmp_path)
