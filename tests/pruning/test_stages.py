"""Stages are made once, made again when their inputs change, and never left half made."""

from pathlib import Path

import pytest

from pruning.config import DataSource
from pruning.run import data_identity
from pruning.stages import Stages


def _writes(text: str):
    def make(folder: Path) -> dict[str, str]:
        (folder / "output").write_text(text)
        return {"text": text}

    return make


def test_a_stage_is_made_once(tmp_path):
    """The same inputs find the output that is there."""
    Stages(tmp_path).get("a", {"x": 1}, _writes("first"))
    again = Stages(tmp_path).get("a", {"x": 1}, _writes("second"))
    assert (tmp_path / "a" / "output").read_text() == "first"
    assert again.reused
    assert again.details == {"text": "first"}


def test_changed_inputs_make_it_again(tmp_path):
    """Other inputs give another key, and the output is replaced."""
    first = Stages(tmp_path).get("a", {"x": 1}, _writes("first"))
    second = Stages(tmp_path).get("a", {"x": 2}, _writes("second"))
    assert (tmp_path / "a" / "output").read_text() == "second"
    assert first.key != second.key
    assert not second.reused


def test_an_interrupted_stage_leaves_nothing(tmp_path):
    """Ctrl-C in the middle leaves no output, no record, and no partial folder."""

    def interrupted(folder: Path) -> None:
        (folder / "output").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).get("a", {}, interrupted)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_stage_keeps_the_old_output(tmp_path):
    """What an earlier run made is still there, and is made again only under new inputs."""

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    Stages(tmp_path).get("a", {"x": 1}, _writes("first"))
    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).get("a", {"x": 2}, interrupted)
    assert (tmp_path / "a" / "output").read_text() == "first"
    assert Stages(tmp_path).get("a", {"x": 1}, _writes("second")).reused


def test_a_deleted_output_is_made_again(tmp_path):
    """A record without its output does not count."""
    Stages(tmp_path).get("a", {}, _writes("first"))
    (tmp_path / "a" / "output").unlink()
    (tmp_path / "a").rmdir()
    assert not Stages(tmp_path).get("a", {}, _writes("second")).reused


def test_a_damaged_record_does_not_count(tmp_path):
    """A record that cannot be read is as good as none."""
    Stages(tmp_path).get("nested/a", {}, _writes("first"))
    (tmp_path / ".stages" / "nested__a.json").write_text("{")
    assert not Stages(tmp_path).get("nested/a", {}, _writes("second")).reused


def test_work_in_progress_goes_with_its_inputs(tmp_path):
    """What a long stage resumes from is kept apart for other inputs, and is gone when the stage is done."""
    stages = Stages(tmp_path)
    assert stages.work("a", {"x": 1}) != stages.work("a", {"x": 2})
    stages.work("a", {"x": 1}).mkdir(parents=True)
    stages.get("a", {"x": 1}, _writes("first"))
    assert not stages.work("a", {"x": 1}).exists()


def test_a_version_with_one_more_setting_makes_nothing_again(tmp_path):
    """What a setting is by default does not stand in the key."""

    class Later(DataSource):
        added: int = 3

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"sentence": "fine", "label": 1}\n')
    given = {"path": str(rows), "licence": "none", "limit": 5}
    assert data_identity([Later(**given)]) == data_identity([DataSource(**given)])
    assert data_identity([Later(**given, added=4)]) != data_identity([DataSource(**given)])
