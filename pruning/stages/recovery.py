"""The stages that train a compact model again: the teacher writes what it may learn, if that is asked for, and it learns."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, set_seed

from pruning import checkpoint
from pruning.calibration import Range
from pruning.config import TrainConfig, chosen
from pruning.examples import Example, SummaryExample
from pruning.export import to_onnx
from pruning.filling import revive, zeros_held
from pruning.pseudo_labels import with_pseudo_labels, write_summaries
from pruning.quantization import input_ranges
from pruning.quantization_aware import rounding
from pruning.run import Run, data_identity, generation_identity, model_identity, training_identity
from pruning.stages.artifacts import calibration_inputs
from pruning.stages.models import teacher_model, trainable_model
from pruning.stages.store import StageRecord
from pruning.training import train

PSEUDO_LABELS = "pseudo-labels"


def recover(current: Run, label: str, small: StageRecord, dense: StageRecord) -> StageRecord:
    """Train the compact model for a little, distilling from the dense one; the recipe has a section `recover`."""
    config = current.config
    assert config.recover is not None
    settings, name = config.recover, f"checkpoints/{label}/recovered"
    written = write_pseudo_labels(current, settings, dense)

    def make(folder: Path) -> Mapping[str, Any]:
        set_seed(config.seed)
        model = trainable_model(current, small.name, settings)
        if settings.fill:
            revive(model, seed=config.seed)
        ranges = _fixed_ranges(current, model) if settings.fixed_ranges else None
        rounded = rounding(model, ranges) if settings.quantization_aware else nullcontext()
        with zeros_held(model), rounded:
            result = train(
                model,
                current.tokenizer,
                current.task,
                current.features(_with_written(current, settings, written)),
                settings,
                folder=current.stages.work(name, inputs),
                seed=config.seed,
                teacher=teacher_model(current, settings, own=dense.name),
                validation=current.validation_rows(),
                events=current.events(name),
                callbacks=current.callbacks,
            )
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {"training": asdict(result), "rows": current.rows_seen}

    inputs = {
        "compact": small.key,
        "dense": dense.key,
        "recover": chosen(settings) | training_identity(config, settings),
        **({"pseudo_labels": written.key} if written else {}),
        **({"ranges": chosen(config.quantize)} if settings.fixed_ranges else {}),
        "data": data_identity(current.last_training),
        "seed": config.seed,
    }
    return current.stages.get(name, inputs, make, together=True)


def write_pseudo_labels(current: Run, settings: TrainConfig, dense: StageRecord) -> StageRecord | None:
    """What the teacher of a training writes for the documents of the last training stage; None where that is not asked for."""
    config, distillation = current.config, settings.distillation
    if distillation is None or distillation.pseudo_labels is None:
        return None
    asked = distillation.pseudo_labels

    def make(folder: Path) -> None:
        teacher = teacher_model(current, settings, own=dense.name)
        assert teacher is not None
        texts = write_summaries(
            teacher,
            current.tokenizer,
            [each.document for each in _documents(current)],
            asked,
            path=current.stages.work(PSEUDO_LABELS, inputs) / "summaries.jsonl",
            max_length=config.max_length,
            target_length=config.target_length,
        )
        (folder / "summaries.json").write_text(json.dumps(texts, indent=0), encoding="utf-8")

    inputs = {
        "teacher": dense.key if distillation.teacher == "dense" else model_identity(distillation.teacher),
        "beams": asked.beams,
        "length": (config.max_length, config.target_length),
        "data": data_identity(current.last_training),
        "seed": config.seed,
        **generation_identity(config),
    }
    return current.stages.get(PSEUDO_LABELS, inputs, make)


def _fixed_ranges(current: Run, model: PreTrainedModel) -> dict[str, Range]:
    """Ranges of the inputs of the model's linears as it is, by the linear's name."""
    graph, rows = to_onnx(model, current.config.task), calibration_inputs(current)
    found = input_ranges(graph, rows, method=current.config.quantize.calibration)
    return {weight.removesuffix(".weight"): ends for weight, ends in found.items()}


def _documents(current: Run) -> list[SummaryExample]:
    return [each for each in current.training_examples(current.last_training) if isinstance(each, SummaryExample)]


def _with_written(current: Run, settings: TrainConfig, written: StageRecord | None) -> Sequence[Example]:
    """Examples of the last training stage, with what a teacher wrote for them if it did."""
    if written is None or settings.distillation is None or settings.distillation.pseudo_labels is None:
        return current.training_examples(current.last_training)
    texts = json.loads((current.stages.path(written.name) / "summaries.json").read_text(encoding="utf-8"))
    return with_pseudo_labels(_documents(current), texts, references=settings.distillation.pseudo_labels.references)
