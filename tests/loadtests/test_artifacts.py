"""Artifacts are found, gathered, and made where they are missing."""

import json
from pathlib import Path

import pytest

from loadtests import artifacts
from loadtests.artifacts import folders_of, gathered
from loadtests.children import Done
from loadtests.errors import MeasurementError, ServiceError
from loadtests.texts import TASKS

QA = TASKS["qa"]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models for /qa and one for /classify."""
    for name, variant, task in (
        ("a", "dense", "question-answering"),
        ("a", "compact", "question-answering"),
        ("b", "dense", "question-answering"),
        ("c", "dense", "text-classification"),
    ):
        write(tmp_path / name / variant, task)
    return tmp_path


def write(folder: Path, task: str) -> None:
    """A manifest and nothing else."""
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"task": task, "variant": folder.name}))


def test_a_tasks_model_is_the_first_by_name(models):
    """Variants of other models are not mixed in."""
    assert {variant: path.parent.name for variant, path in folders_of(models, QA).items()} == {"dense": "a", "compact": "a"}
    with pytest.raises(ServiceError, match="/summarize"):
        folders_of(models, TASKS["summarize"])


def test_what_is_asked_for_is_gathered_and_gone_afterwards(models):
    """Links to the folders; the originals stay."""
    with gathered(models, QA, ["compact"]) as found:
        assert list(found.manifests) == ["compact"]
        assert found.path("compact").resolve() == (models / "a" / "compact").resolve()
        folder = found.folder
    assert not folder.exists()
    assert (models / "a" / "compact" / "manifest.json").is_file()


def test_a_missing_variant_in_8_bits_is_made(models, monkeypatch):
    """By the pruning side's command, into the temporary folder."""
    commands: list[list[str]] = []

    def made(command: list[str], *, seconds: float) -> Done:
        commands.append(command)
        write(Path(command[-1]), "question-answering")
        return Done(0, "", "")

    monkeypatch.setattr(artifacts, "run_child", made)
    monkeypatch.setattr(artifacts, "NEEDED_TO_QUANTIZE", ())
    with gathered(models, QA, ["dense", "dense-int8"]) as found:
        assert found.made == ("dense-int8",)
        assert set(found.manifests) == {"dense", "dense-int8"}
    assert commands[0][1:5] == ["-m", "pruning", "quantize", str(models / "a" / "dense")]
    assert not (models / "a" / "dense-int8").exists()


def test_what_cannot_be_made_is_left_out(models, monkeypatch):
    """It is not there, and the reason says what to install, or what there is."""
    monkeypatch.setattr(artifacts, "NEEDED_TO_QUANTIZE", ("no_such_module",))
    with gathered(models, QA, ["dense", "dense-int8", "tiny"]) as found:
        assert set(found.manifests) == {"dense"}
        assert found.made == ()
    assert "pip install '.[pruning]'" in found.missing["dense-int8"]
    with pytest.raises(ServiceError, match="its variants are compact, dense"):
        found.require("tiny")


def test_what_takes_too_long_to_make_is_left_out(models, monkeypatch):
    """The others are there; nothing half-made is."""

    def slow(command: list[str], *, seconds: float) -> Done:
        Path(command[-1]).mkdir()
        raise MeasurementError("it did not end")

    monkeypatch.setattr(artifacts, "run_child", slow)
    monkeypatch.setattr(artifacts, "NEEDED_TO_QUANTIZE", ())
    with gathered(models, QA, ["dense", "dense-int8"]) as found:
        assert not found.path("dense-int8").exists()
    assert found.missing == {"dense-int8": "it did not end"}
