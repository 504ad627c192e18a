"""The manifest is read and written whole; files are what it says they are."""

import json
import os
from pathlib import Path

import pytest

from service.artifact import (
    MANIFEST_NAME,
    OUTPUT_IDS_NAME,
    GenerationInfo,
    Manifest,
    hash_files,
    locate,
    read_manifest,
    read_output_ids,
    verify_files,
    write_manifest,
)
from service.errors import ArtifactError, SchemaError
from tests.service.builders import manifest_for


def _edit(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_manifest_read_is_manifest_written(tmp_path):
    """Writing and reading give the same manifest."""
    manifest = manifest_for("question-answering")
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest


def generating_manifest(**changes: object) -> Manifest:
    """A manifest of a model that generates; fields of `generation` may be changed."""
    fields: dict[str, object] = {
        "start": 2,
        "end": (2, 3),
        "forced_last": 2,
        "padding": 1,
        "source_length": 24,
        "target_length": 12,
        "settings": {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "seed": None},
        "decoder_layers": ({"heads": 2, "cross_heads": 0, "intermediate": 8},),
    }
    return manifest_for("summarization", generation=GenerationInfo.model_validate({**fields, **changes}))


def test_manifest_of_a_generating_model_is_read_as_written(tmp_path):
    """Settings keep their types: true is not 1, and 2.0 is not 2."""
    manifest = generating_manifest()
    write_manifest(manifest, tmp_path)
    settings = read_manifest(tmp_path).generation.settings
    assert read_manifest(tmp_path) == manifest
    assert [type(value) for value in settings.values()] == [int, float, bool, type(None)]


@pytest.mark.parametrize(("task", "generation"), [("summarization", None), ("question-answering", generating_manifest().generation)])
def test_a_task_generates_or_does_not(tmp_path, task, generation):
    """A manifest whose task generates says how, and no other does."""
    write_manifest(manifest_for("summarization", generation=generating_manifest().generation), tmp_path)
    _edit(tmp_path, task=task, generation=generation and generation.model_dump())
    with pytest.raises(ArtifactError, match="`generation`"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("changes", [{"end": []}, {"start": -1}, {"target_length": 0}, {"settings": {"seed": [1]}}])
def test_generation_that_cannot_be_is_refused(tmp_path, changes):
    """Values that no model can have are refused when the manifest is read."""
    manifest = generating_manifest()
    write_manifest(manifest, tmp_path)
    _edit(tmp_path, generation={**manifest.generation.model_dump(), **changes})
    with pytest.raises(ArtifactError, match=next(iter(changes))):
        read_manifest(tmp_path)


def test_output_ids_are_read(tmp_path):
    """The file of output ids is read where there is one."""
    (tmp_path / OUTPUT_IDS_NAME).write_text("[0, 1, 2, 7]")
    manifest = generating_manifest(output_ids=OUTPUT_IDS_NAME).model_copy(update={"files": hash_files(tmp_path)})
    assert read_output_ids(tmp_path, manifest) == (0, 1, 2, 7)
    assert read_output_ids(tmp_path, generating_manifest()) is None


@pytest.mark.parametrize("content", ["[]", "[1, -1]", '["a"]', "{", "[" * 100_000, None])
def test_damaged_output_ids_are_one_clear_line(tmp_path, content):
    """A file of output ids that is something else, or that nobody vouches for, is refused by name."""
    (tmp_path / OUTPUT_IDS_NAME).write_text(content or "[0]")
    files = hash_files(tmp_path) if content else {}
    with pytest.raises(ArtifactError, match=OUTPUT_IDS_NAME) as caught:
        read_output_ids(tmp_path, generating_manifest(output_ids=OUTPUT_IDS_NAME).model_copy(update={"files": files}))
    assert "\n" not in str(caught.value)


def test_newer_minor_version_is_read_and_its_new_fields_passed_over(tmp_path):
    """Fields that a newer minor version added are passed over at every level."""
    manifest = manifest_for("question-answering")
    write_manifest(manifest, tmp_path)
    macs = {**manifest.macs.model_dump(), "energy": 1}
    layers = [{"heads": 2, "intermediate": 8, "gated": True}]
    _edit(tmp_path, schema_version="1.7", macs=macs, layers=layers, colour="green")
    assert read_manifest(tmp_path) == manifest.model_copy(update={"schema_version": "1.7"})


def test_unknown_field_of_this_version_is_refused(tmp_path):
    """A field that this very version does not have is damage, and the message names it."""
    write_manifest(manifest_for("question-answering"), tmp_path)
    _edit(tmp_path, colour="green")
    with pytest.raises(ArtifactError, match="colour"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_other_major_version_is_refused_before_anything_else(tmp_path, version):
    """Another major version is refused, even when nothing else in it can be read."""
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({"schema_version": version}))
    with pytest.raises(SchemaError, match=r"reads 1\.x"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 1}', b'{"schema_version": "1.0"}', b"[" * 100_000],
)
def test_damaged_manifest_is_one_clear_line(tmp_path, content):
    """Whatever is in the file, the refusal is an ArtifactError of one line that names the file."""
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(ArtifactError) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_manifest_says_what_was_expected(tmp_path):
    """A folder without a manifest is refused by name."""
    with pytest.raises(ArtifactError, match="no such file"):
        read_manifest(tmp_path)


def test_failed_write_leaves_the_old_manifest_and_nothing_else(tmp_path, monkeypatch):
    """When the disk is full, the manifest that was there stays and no temporary file is left."""
    old = manifest_for("question-answering")
    write_manifest(old, tmp_path)

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ArtifactError, match="No space left"):
        write_manifest(old.model_copy(update={"stride": 9}), tmp_path)
    assert read_manifest(tmp_path) == old
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST_NAME]


def test_hashed_files_verify(tmp_path):
    """What hash_files records, verify_files accepts, subfolders included and the manifest left out."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/weights").write_bytes(b"abc")
    write_manifest(manifest_for("question-answering"), tmp_path)
    files = hash_files(tmp_path)
    verify_files(tmp_path, manifest_for("question-answering", files=files))
    assert list(files) == ["sub/weights"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"ab"), "2 bytes, expected 3"),
        (lambda path: path.write_bytes(b"abd"), "sha256"),
    ],
    ids=["missing", "truncated", "altered"],
)
def test_spoiled_file_is_refused_by_name(tmp_path, spoil, message):
    """A file that is missing, truncated or altered is named, with what was expected."""
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    manifest = manifest_for("question-answering", files=hash_files(tmp_path))
    spoil(path)
    with pytest.raises(ArtifactError, match=f"weights .*{message}"):
        verify_files(tmp_path, manifest)


def test_sizes_are_checked_before_any_hash(tmp_path):
    """A truncated last file is found although an earlier file has another hash."""
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abc")
    manifest = manifest_for("question-answering", files=hash_files(tmp_path))
    (tmp_path / "a").write_bytes(b"xyz")
    (tmp_path / "b").write_bytes(b"")
    with pytest.raises(ArtifactError, match="b was altered or truncated"):
        verify_files(tmp_path, manifest)


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "", ".", "c:\\x", "..\\x", "a\0b"])
def test_path_outside_the_folder_is_refused(tmp_path, relative):
    """Paths that lead out, or could on some system, are refused."""
    with pytest.raises(ArtifactError, match="not a path inside"):
        locate(tmp_path, relative)


def test_link_out_of_the_folder_is_refused(tmp_path):
    """A symlink to a file elsewhere is refused when verifying and when hashing, even with the right content."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "weights").write_bytes(b"abc")
    manifest = manifest_for("question-answering", files=hash_files(folder))
    (folder / "weights").rename(tmp_path / "weights")
    (folder / "weights").symlink_to(tmp_path / "weights")
    with pytest.raises(ArtifactError, match="leaves the artifact's folder"):
        verify_files(folder, manifest)
    with pytest.raises(ArtifactError, match="leaves the artifact's folder"):
        hash_files(folder)


def test_link_inside_the_folder_is_followed(tmp_path):
    """A symlink that stays inside the folder is a file like any other."""
    (tmp_path / "weights").write_bytes(b"abc")
    (tmp_path / "again").symlink_to("weights")
    verify_files(tmp_path, manifest_for("question-answering", files=hash_files(tmp_path)))


def test_link_in_a_circle_is_refused(tmp_path):
    """A symlink to itself is refused, not followed for ever."""
    (tmp_path / "loop").symlink_to("loop")
    files = {"loop": {"size_bytes": 3, "sha256": "0" * 64}}
    with pytest.raises(ArtifactError, match="loop"):
        verify_files(tmp_path, manifest_for("question-answering", files=files))
