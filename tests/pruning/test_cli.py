"""The command line: every bad input is one line on stderr and exit code 2, and nothing half written is left."""

import errno
import json
import shutil
from pathlib import Path

import pytest
import yaml

from pruning import checkpoint
from pruning.cli import main
from pruning.stages import post_training
from service.artifact import MANIFEST_NAME
from tests.pruning import helpers

BASE = {
    "name": "tiny",
    "task": "text-classification",
    "labels": ["NO", "YES"],
    "max_length": 16,
    "evaluate": {"sequence_lengths": [8], "seconds": 0.1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned tiny classifier with two labels."""
    folder = tmp_path_factory.mktemp("model") / "model"
    checkpoint.save(helpers.tiny_model("bert", "text-classification", intermediate=32, layers=1), helpers.tiny_tokenizer(), folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Eight labelled texts."""
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in [("good a", 1), ("bad b", 0)] * 4))
    return path


@pytest.fixture
def recipe(tmp_path: Path, model: Path, data: Path):
    """Write a recipe with these fields changed; gives its path."""

    def write(**fields: object) -> str:
        source = [{"path": str(data), "name": "tiny"}]
        prune = {"targets": [{"density": 0.5}], "calibration_examples": 8, "search_trials": 0}
        content = {**BASE, "model": str(model), "data": {"train": source, "validation": source}, "prune": prune, **fields}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.fixture
def refusal(invoke, tmp_path: Path):
    """Call `secateur-prune` with a bad input: exit code 2, one line on stderr, no traceback. Gives the line."""

    def call(*arguments: str) -> str:
        result = invoke(main, ["--quiet", *arguments])
        lines = [line for line in result.stderr.splitlines() if line.startswith(("Error:", "Usage:")) or "Traceback" in line]
        assert result.exit_code == 2, result.output
        assert len([line for line in lines if line.startswith("Error:")]) == 1
        assert "Traceback" not in result.output
        assert not list(tmp_path.rglob("*.partial"))
        return result.stderr

    return call


def test_unknown_recipe(refusal, tmp_path):
    """A recipe that does not exist: the message lists those that ship."""
    assert "sst2" in refusal("run", "nonsense", "-o", str(tmp_path / "run"))


def test_unknown_model(refusal, recipe, tmp_path, offline):
    """A model that is neither a folder nor to be had from the hub."""
    assert "no-such/model" in refusal("run", recipe(model="no-such/model"), "-o", str(tmp_path / "run"))


def test_unknown_dataset(refusal, recipe, tmp_path):
    """A file that does not exist."""
    source = [{"path": "nowhere.jsonl"}]
    assert "nowhere.jsonl" in refusal("run", recipe(data={"train": source, "validation": source}), "-o", str(tmp_path / "run"))


def test_missing_column(refusal, recipe, data, tmp_path):
    """A column that the data lacks: the message names it and what is there."""
    source = [{"path": str(data), "label": "stars"}]
    message = refusal("run", recipe(data={"train": source, "validation": source}), "-o", str(tmp_path / "run"))
    assert "'stars'" in message
    assert "label" in message


def test_labels_that_do_not_match_the_head(refusal, recipe, tmp_path):
    """Three labels on a head of two."""
    assert "has 2 labels, 3 were given" in refusal("run", recipe(labels=["A", "B", "C"]), "-o", str(tmp_path / "run"))


def test_label_out_of_range(refusal, recipe, data, tmp_path):
    """A label in the data that the recipe does not name."""
    data.write_text(data.read_text() + "\n" + json.dumps({"text": "a", "label": 7}))
    assert "label 7" in refusal("run", recipe(), "-o", str(tmp_path / "run"))


def test_unknown_field(refusal, recipe, tmp_path):
    """A typo in an override names the field."""
    assert "epoks" in refusal("run", recipe(), "--set", "recover.epoks=3", "-o", str(tmp_path / "run"))


@pytest.mark.slow
def test_unreachable_target(refusal, recipe, tmp_path, monkeypatch):
    """A speed-up that no mask reaches: the message says what can be reached."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    prune = {"targets": [{"speedup": 1000.0, "precision": "fp32", "sequence_length": 8}], "calibration_examples": 8, "search_trials": 0}
    assert "at most" in refusal("prune", recipe(prune=prune), "-o", str(tmp_path / "run"))


@pytest.mark.parametrize("asked", [("--scheme", "static"), ("--smooth",)])
def test_calibrated_quantization_needs_data(refusal, tmp_path, asked):
    """Without a recipe there is nothing to calibrate on."""
    assert "--recipe" in refusal("quantize", str(tmp_path), "-o", str(tmp_path / "out"), *asked)


def test_evaluate_needs_data(refusal, tmp_path):
    """Evaluation without data, or with two kinds of it, says which to give."""
    assert "--data" in refusal("evaluate", str(tmp_path))


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of the tiny classifier."""
    folder = tmp_path_factory.mktemp("exported")
    source = [{"path": str(folder / "texts.jsonl"), "name": "tiny"}]
    (folder / "texts.jsonl").write_text(json.dumps({"text": "good", "label": 1}))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**BASE, "model": str(model), "data": {"train": source}}))
    main(["--quiet", "export", str(model), "--recipe", str(folder / "recipe.yaml"), "-o", str(folder / "dense")], standalone_mode=False)
    return folder / "dense"


@pytest.mark.parametrize("damage", ["truncate", "delete", "garbage"])
def test_a_damaged_artifact_is_refused(refusal, exported, data, tmp_path, damage):
    """A file of an artifact that was cut short, deleted, or overwritten with as many other bytes."""
    artifact = Path(shutil.copytree(exported, tmp_path / "artifact"))
    graph = artifact / "model.onnx"
    match damage:
        case "truncate":
            graph.write_bytes(graph.read_bytes()[:-10])
        case "delete":
            graph.unlink()
        case _:
            graph.write_bytes(bytes(graph.stat().st_size))
    assert "model.onnx" in refusal("evaluate", str(artifact), "--data", str(data))


def test_a_newer_schema_is_refused(refusal, exported, data, tmp_path):
    """A manifest of the next major version: the message names the versions."""
    artifact = Path(shutil.copytree(exported, tmp_path / "artifact"))
    manifest = json.loads((artifact / MANIFEST_NAME).read_text())
    (artifact / MANIFEST_NAME).write_text(json.dumps({**manifest, "schema_version": "2.0", "unknown": 1}))
    assert "2.0" in refusal("evaluate", str(artifact), "--data", str(data))


def test_a_full_disk_is_one_line(refusal, recipe, tmp_path, monkeypatch):
    """No space left while a stage writes: one line, and the stage is not there."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    message = refusal("run", recipe(), "-o", str(tmp_path / "run"))
    assert "No space left" in message
    assert not (tmp_path / "run" / "checkpoints" / "dense").exists()


def test_ctrl_c_and_the_rerun_goes_on(refusal, invoke, recipe, tmp_path, monkeypatch):
    """Interrupted behind the dense model, the same command reuses it and finishes."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path, output = recipe(), str(tmp_path / "run")
    with monkeypatch.context() as patched:
        patched.setattr(post_training, "fisher", interrupted)
        assert "same command" in refusal("prune", path, "-o", output)
    before = (tmp_path / "run" / "checkpoints" / "dense" / "checkpoint.json").stat().st_mtime_ns
    assert invoke(main, ["--quiet", "prune", path, "-o", output]).exit_code == 0
    assert (tmp_path / "run" / "checkpoints" / "dense" / "checkpoint.json").stat().st_mtime_ns == before


def test_the_verbs_one_by_one(invoke, recipe, model, tmp_path):
    """prune, compact, export, quantize, evaluate: each takes what the one before it left."""
    path = recipe()
    steps = [
        ["prune", path, "-o", f"{tmp_path}/run"],
        ["compact", f"{tmp_path}/run/checkpoints/density-0.5/masked", "-o", f"{tmp_path}/small"],
        ["export", f"{tmp_path}/small", "--recipe", path, "-o", f"{tmp_path}/compact"],
        ["quantize", f"{tmp_path}/compact", "-o", f"{tmp_path}/compact-int8"],
        ["evaluate", f"{tmp_path}/compact-int8", "--recipe", path, "--against", f"{tmp_path}/compact", "--json"],
    ]
    for step in steps:
        result = invoke(main, ["--quiet", *step])
        assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["against"] == "tiny/compact"


def test_recipes_are_listed(invoke):
    """Every recipe that ships is in the list, with its task."""
    listed = invoke(main, ["recipes"]).stdout
    assert "squad_v2" in listed
    assert "question-answering" in listed
