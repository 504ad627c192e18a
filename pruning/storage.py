"""Outputs that are whole or absent: written beside their place and moved into it when complete.

Whatever ends the writing early, a full disk, an error, Ctrl-C, leaves what was there before and no half-written folder.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pruning.errors import StorageError


@contextmanager
def written(folder: Path) -> Iterator[Path]:
    """Give a fresh folder to write into, which takes the place of `folder` when the block ends well.

    Raises:
        StorageError: The folder could not be written; nothing of it is left.
    """
    partial = _beside(folder)
    try:
        with storage_errors(folder):
            partial.mkdir(parents=True)
            yield partial
            _flush(partial)
            _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write a file, UTF-8, so that a reader sees the old text or the new and nothing between.

    Raises:
        StorageError: The file could not be written; what was there is still there.
    """
    partial = _beside(path)
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            _sync(partial)
            partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into a `StorageError` that names `path`."""
    try:
        yield
    except Exception as error:
        if not _is_refusal(error):
            raise
        raise StorageError(f"cannot write {path}: {_reason(error)}; nothing was left half written") from error


def _is_refusal(error: Exception) -> bool:
    """A file that is missing was to be read; libraries written in Rust have errors of their own, with the system's in the text."""
    return (isinstance(error, OSError) and not isinstance(error, FileNotFoundError)) or "(os error " in str(error)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror and not error.filename else str(error)
    return " ".join(text.split())


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")


def _swap(partial: Path, folder: Path) -> None:
    """Two renames: a folder cannot be replaced by one. The old one comes back if the second fails."""
    if not folder.exists():
        partial.rename(folder)
        return
    old = _beside(folder)
    folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
