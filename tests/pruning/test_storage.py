"""Outputs are whole or absent."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pruning.errors import StorageError
from pruning.storage import write_text_atomic, written


def _fill_disk() -> None:
    """Raise what writing to a full disk raises."""
    with Path("/dev/full").open("w") as full:
        full.write("x" * 10_000)


def _replace(existing: Path, *, then: Callable[[], object]) -> None:
    """Start to replace a folder, and meet what `then` raises."""
    with written(existing) as folder:
        (folder / "new.txt").write_text("new")
        then()


def _interrupt() -> None:
    raise KeyboardInterrupt


def _fail() -> None:
    raise ValueError


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    """A folder that holds an earlier result."""
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


def test_folder_appears_whole(tmp_path: Path):
    """The folder, with its parents, is there after the block and not before."""
    target = tmp_path / "deep" / "result"
    with written(target) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "a.txt").write_text("a")
        assert not target.exists()
    assert (target / "part" / "a.txt").read_text() == "a"
    assert list(target.parent.iterdir()) == [target]


def test_folder_replaces_an_earlier_one(existing: Path):
    """Nothing of the earlier result is mixed into the new one."""
    with written(existing) as folder:
        (folder / "new.txt").write_text("new")
    assert [path.name for path in existing.iterdir()] == ["new.txt"]
    assert list(existing.parent.iterdir()) == [existing]


@pytest.mark.parametrize(("interruption", "expected"), [(_interrupt, KeyboardInterrupt), (_fail, ValueError)])
def test_interruption_leaves_what_was_there(existing: Path, interruption: Callable[[], object], expected: type[BaseException]):
    """An error or Ctrl-C passes through; the earlier result stays and no partial folder does."""
    with pytest.raises(expected):
        _replace(existing, then=interruption)
    assert [path.name for path in existing.iterdir()] == ["old.txt"]
    assert list(existing.parent.iterdir()) == [existing]


def test_full_disk_is_one_line(existing: Path):
    """A full disk is a `StorageError` that names the folder; nothing is left half written."""
    with pytest.raises(StorageError, match=r"result: No space left on device; nothing was left half written$"):
        _replace(existing, then=_fill_disk)
    assert [path.name for path in existing.iterdir()] == ["old.txt"]
    assert list(existing.parent.iterdir()) == [existing]


def test_full_disk_met_by_a_native_library_is_one_line(tmp_path: Path):
    """A library that raises an error of its own for a refusal of the system is understood too."""
    with pytest.raises(StorageError, match="os error"), written(tmp_path / "result"):
        save_file({"weight": torch.zeros(10)}, tmp_path / "missing" / "weights.safetensors")


def test_missing_input_is_not_a_storage_error(tmp_path: Path):
    """A file that the block wanted to read is not reported as one that could not be written."""
    with pytest.raises(FileNotFoundError), written(tmp_path / "result"):
        (tmp_path / "absent").read_text()


def test_file_in_place_of_the_parent_is_one_line(tmp_path: Path):
    """A parent that is a file is a `StorageError`."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"), written(tmp_path / "file" / "result"):
        pass


def test_text_replaces_text(tmp_path: Path):
    """The file holds the new text, parents are made, and nothing else is left beside it."""
    path = tmp_path / "deep" / "note.txt"
    write_text_atomic(path, "first")
    write_text_atomic(path, "zweite é")
    assert path.read_text(encoding="utf-8") == "zweite é"
    assert list(path.parent.iterdir()) == [path]


def test_text_that_cannot_be_written_leaves_the_old(tmp_path: Path):
    """A write that is refused is a `StorageError` and leaves what was there."""
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(StorageError, match="cannot write"):
        write_text_atomic(path, "text")
    assert list(tmp_path.iterdir()) == [path]
