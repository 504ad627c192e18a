"""What a stage of a run depends on: what would give other weights is in its key, and nothing else."""

from pathlib import Path

import pytest

from pruning import checkpoint
from pruning.config import DistillationConfig, TrainConfig, load_recipe
from pruning.run import training_identity
from tests.pruning.helpers import tiny_model, tiny_tokenizer


@pytest.mark.parametrize("teacher", [None, "dense", "owner/name"])
def test_a_training_depends_on_its_settings_alone(teacher: str | None):
    """Its own dense model has a stage, and a hub's name stands for itself."""
    distillation = None if teacher is None else DistillationConfig(teacher=teacher)
    identity = training_identity(load_recipe("sentiment"), TrainConfig(distillation=distillation))
    assert identity == ({"teacher": teacher} if teacher == "owner/name" else {})


def test_a_training_depends_on_a_folders_weights_and_on_what_patience_goes_by(tmp_path: Path):
    """Another teacher in the same folder is another one."""
    settings = TrainConfig(distillation=DistillationConfig(teacher=str(tmp_path / "teacher")), patience=2)
    config = load_recipe("demo")
    found = []
    for seed in (0, 1):
        checkpoint.save(tiny_model("bert", "text-classification", seed=seed), tiny_tokenizer(), tmp_path / "teacher")
        found.append(training_identity(config, settings))
    assert found[0]["teacher"] != found[1]["teacher"]
    assert found[0]["validation"] == found[1]["validation"] != []
