"""Sources of data are found, and have names."""

from pathlib import Path

import pytest

from pruning.config import DataSource
from pruning.data_sources import find_file, source_name


def test_a_relative_path_is_also_looked_up_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SECATEUR_DATA names a folder in which relative paths are found; one that exists here comes first."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "some.csv").touch()
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert find_file("some.csv") == tmp_path / "data" / "some.csv"
    (tmp_path / "some.csv").touch()
    assert find_file("some.csv") == Path("some.csv")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (DataSource(hub="a/b", name="Chosen"), "Chosen"),
        (DataSource(hub="a/b"), "a/b"),
        (DataSource(hub="a/b", config="c"), "a/b/c"),
        (DataSource(path="x/reviews.csv"), "reviews"),
    ],
)
def test_a_source_has_a_name(source: DataSource, name: str):
    """Reports call a source by the name given, the hub's, or the file's."""
    assert source_name(source) == name
