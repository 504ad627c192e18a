"""The first stage of a run: its dense model, fine-tuned."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, set_seed

from pruning import checkpoint
from pruning.config import chosen
from pruning.run import Run, data_identity, generation_identity, model_identity, training_identity
from pruning.stages.models import initial_model, teacher_model
from pruning.stages.store import StageRecord
from pruning.training import TrainingResult, train

DENSE = "checkpoints/dense"


def train_dense(current: Run) -> StageRecord:
    """Fine-tune the dense model, stage after stage; with nothing to train, take the model as it is.

    Raises:
        ConfigError: a training distils from the model that it trains.
        DataError: training or validation data cannot be read, or does not fit the task; before anything is made.
    """
    config = current.config
    current.check_data()

    def make(folder: Path) -> Mapping[str, Any]:
        set_seed(config.seed)
        model = initial_model(current, next(iter(config.train), None))
        work = current.stages.work(DENSE, inputs)
        results = [train_stage(current, model, number, folder=work / f"stage-{number}") for number in range(len(config.train))]
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {"training": [asdict(result) for result in results], "rows": current.rows_seen}

    inputs = {
        "model": model_identity(config.model),
        "task": config.task,
        "labels": config.labels,
        "length": (config.max_length, config.stride),
        **generation_identity(config),
        "seed": config.seed,
        "train": [chosen(stage) | training_identity(config, stage) for stage in config.train],
        "data": [data_identity(config.sources_of_stage(number)) for number in range(len(config.train))],
    }
    return current.stages.get(DENSE, inputs, make, together=True)


def train_stage(current: Run, model: PreTrainedModel, number: int, *, folder: Path) -> TrainingResult:
    """Fine-tune `model` in place through one of the recipe's training stages, counted from 0; checkpoints go into `folder`."""
    config = current.config
    return train(
        model,
        current.tokenizer,
        current.task,
        current.features(current.training_examples(config.sources_of_stage(number))),
        config.train[number],
        folder=folder,
        seed=config.seed + number,
        teacher=teacher_model(current, config.train[number], own=None),
        validation=current.validation_rows(),
        events=current.events(f"{DENSE}/stage-{number}"),
        callbacks=current.callbacks,
    )
