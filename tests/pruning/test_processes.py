"""Several processes train as one does, one of them does all the rest, and what they leave is what one would have left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from pruning import checkpoint
from pruning.bench import CACHE_VARIABLE
from pruning.cli import main
from pruning.config import RECIPES, load_recipe
from pruning.errors import ConfigError
from pruning.pipeline import run
from tests.pruning import launched
from tests.pruning.helpers import tiny_model, tiny_tokenizer
from tests.pruning.method_cases import METHODS
from tests.pruning.training_helpers import ROWS, differing

PROCESSES = 2
ROOT = Path(launched.__file__).parents[2]


LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)),
    "accelerate launch": ("accelerate.commands.launch", "--multi_gpu", "--num_processes", str(PROCESSES), "--main_process_port", "0"),
}


def launch(*command: str, by: str = "torchrun") -> str:
    """Run a module in two processes; gives what they printed."""
    launcher = [sys.executable, "-m", *LAUNCHERS[by]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run([*launcher, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left of all that `launched` does."""
    folder = tmp_path_factory.mktemp("together")
    launch("tests.pruning.launched", str(folder))
    return folder


def recipe_of(folder: Path) -> dict[str, object]:
    """A recipe over a tiny classifier and two dozen texts; both are written into the folder."""
    checkpoint.save(tiny_model("bert", "text-classification", intermediate=32, layers=2), tiny_tokenizer(), folder / "model")
    texts = [("the good a b c", 1), ("bad the d e", 0), ("good good f", 1), ("the bad bad", 0)] * 6
    (folder / "texts.jsonl").write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in texts))
    source = [{"path": str(folder / "texts.jsonl"), "name": "tiny"}]
    training = {"epochs": 2, "batch_size": 4, "precision": "fp32"}
    return {
        "name": "tiny",
        "task": "text-classification",
        "model": str(folder / "model"),
        "labels": ["NO", "YES"],
        "max_length": 16,
        "data": {"train": source, "validation": source, "test": source},
        "train": [training],
        "fine_prune": {
            "granularity": {"attention": "head", "feed_forward": "neuron"},
            "targets": [{"speedup": 1.1, "precision": "fp32", "sequence_length": 8}],
            "score_learning_rate": 0.3,
            "train": {**training, "epochs": 10, "patience": 2, "save_steps": 2},
        },
        "recover": {**training, "distillation": {}},
        "evaluate": {"sequence_lengths": [8], "seconds": 0.1},
    }


def left(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors that both processes ended with: bit for bit the same."""
    first: dict[str, Tensor] = load_file(folder / f"{name} 0.safetensors")
    second: dict[str, Tensor] = load_file(folder / f"{name} 1.safetensors")
    assert differing(first, second) == []
    return first


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The very same gates, some of them closed, and weights that are as good as the same."""
    gates = [name for name in expected if name.startswith(launched.GATES)]
    assert any((expected[name] == 0).any() for name in gates)
    assert [name for name in gates if not torch.equal(found[name], expected[name])] == []
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_prune_as_one_does(method: str, together: Path, tmp_path: Path):
    """With half of the rows of a step each, they close the same gates and end with the same weights."""
    assert_same(left(together, method), launched.fine_pruned(method, tmp_path, launched.configured()))


def test_micro_batches_of_two_processes_count_once(together: Path, tmp_path: Path):
    """Gradients, penalty and noise of a step are the same in four parts, two in each process, and in one."""
    whole = launched.fine_pruned(launched.ACCUMULATED, tmp_path, launched.configured(rows_per_step=ROWS))
    assert_same(left(together, "accumulated"), whole)


def test_resumed_equals_uninterrupted(together: Path):
    """Two processes that were interrupted end, run again, with the bits of two that were not: dropout and patience included."""
    assert differing(left(together, "resumed"), left(together, "whole")) == []


def test_another_number_of_processes_is_refused(together: Path):
    """What two processes have begun, one would go on with in another way: a line says so."""
    with pytest.raises(ConfigError, match="begun by 2 and would go on in 1 processes"):
        launched.trained(together / "left")


def test_the_result_says_how_many_there_were(together: Path):
    """Steps are counted once, and processes beside them; each process drops out its own."""
    found = [(together / f"result {process}").read_text() for process in range(PROCESSES)]
    expected = f"{launched.STEPS} steps in {PROCESSES} processes"
    assert found == [f"{expected}, seed {launched.SEED + process}" for process in range(PROCESSES)]


def test_the_main_process_alone_makes_what_is_no_training(together: Path):
    """A training is made by all, everything else by the main process; all have its records, and only its output is there."""
    assert sorted(path.name for path in together.glob("* by *")) == ["alone by 0", "together by 0", "together by 1"]
    expected = "together:0:0:False alone:0:0:False together:0:0:True alone:0:0:True"
    assert [(together / f"stages {process}").read_text() for process in range(PROCESSES)] == [expected] * PROCESSES
    assert sorted(path.name for path in (together / "run").iterdir()) == [".stages", "alone", "together"]
    assert (together / "run" / "together" / "made").read_text() == "0"


def test_the_other_processes_are_silent(invoke, monkeypatch: pytest.MonkeyPatch):
    """Results are printed once, by the main process."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    printed = {}
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        printed[rank] = invoke(main, ["recipes"]).stdout
    assert next(RECIPES.glob("*.yaml")).stem in printed["0"]
    assert printed["1"] == ""


@pytest.mark.slow
def test_two_processes_do_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Training, pruning to a speed-up, recovery, export, evaluation and report; a rerun in one process finds it all done."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(tmp_path)))
    printed = launch("pruning", "run", str(recipe), "--output", str(tmp_path / "run"))
    assert printed.count("tiny/speedup-1.1-fp32-8/compact") == 1
    report = run(load_recipe(recipe), tmp_path / "run")
    assert all(stage.reused for stage in report.stages)
    assert json.loads((tmp_path / "run" / ".stages" / "checkpoints__dense.json").read_text())["details"]["training"][0]["processes"] == 2


@pytest.mark.slow
def test_launchers_train_the_same(tmp_path: Path):
    """`accelerate launch` sets up what `torchrun` does, and the weights have the same bits."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipe_of(tmp_path)))
    trained = []
    for launcher in LAUNCHERS:
        launch("pruning", "train", str(recipe), "--output", str(tmp_path / launcher), by=launcher)
        details = json.loads((tmp_path / launcher / ".stages" / "checkpoints__dense.json").read_text())["details"]
        assert details["training"][0]["processes"] == PROCESSES
        weights = sorted((tmp_path / launcher / "checkpoints").rglob("*.safetensors"))
        trained.append({path.relative_to(tmp_path / launcher): path.read_bytes() for path in weights})
    assert trained[0]
    assert trained[0] == trained[1]
