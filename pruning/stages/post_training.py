"""The stages of pruning with no training: importance, once, and from it the masked model of each target."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pruning import checkpoint
from pruning.config import GenerationTarget, PruneConfig, SpeedupTarget, Target, chosen
from pruning.importance import Importance, fisher, output_probe
from pruning.post_training import Calibration, calibration_sample, prune
from pruning.run import Run, data_identity, pruning_identity
from pruning.stages.models import shrunk_model
from pruning.stages.store import StageRecord
from pruning.training import computes_in_bf16
from service.runtime.onnx import machine


def measure_importance(current: Run, dense: StageRecord, settings: PruneConfig) -> StageRecord:
    """Fisher importance of heads and neurons of the dense model, on the calibration sample.

    Raises:
        DataError: the sample has fewer than two examples.
    """

    def make(folder: Path) -> Mapping[str, Any]:
        model = shrunk_model(current, current.load(dense.name, attn_implementation="sdpa"))
        losses = output_probe(current.task.logits, seed=current.config.seed)
        found = fisher(model, _calibration(current, settings).batches, losses, bf16=computes_in_bf16(), progress=True)
        save_file(found.tensors(), folder / "importance.safetensors")
        return {"examples": len(found.heads[0])}

    inputs = {
        "dense": dense.key,
        "losses": "output_probe",
        "seed": current.config.seed,
        "examples": settings.calibration_examples,
        "batch": settings.batch_size,
        "data": data_identity(current.last_training),
        **pruning_identity(current.config),
    }
    return current.stages.get("importance", inputs, make)


def prune_to(current: Run, target: Target, dense: StageRecord, importance: StageRecord, settings: PruneConfig) -> StageRecord:
    """The masked model of one target: removed groups are zero, survivors are refitted.

    Raises:
        UnreachableTargetError: no mask reaches it; the message says what can be reached.
        NothingPrunedError: it is met by removing nothing.
    """
    config = current.config

    def make(folder: Path) -> Mapping[str, Any]:
        model = shrunk_model(current, current.load(dense.name, attn_implementation="sdpa"))
        found = prune(
            model,
            current.task,
            Importance.from_tensors(load_file(current.stages.path(importance.name) / "importance.safetensors")),
            _calibration(current, settings),
            target,
            settings,
            seed=config.seed,
            outputs=config.outputs,
        )
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        fit = found.fit
        measured = None if fit is None else asdict(fit.measured)
        return {
            "structure": [asdict(layer) for layer in found.structure],
            "predicted": None if fit is None else fit.predicted,
            "measured": measured,
            "reconstruction": [asdict(block) for block in found.blocks],
        }

    inputs = {
        "dense": dense.key,
        "importance": importance.key,
        "target": chosen(target),
        "search_trials": settings.search_trials,
        "reconstruct": settings.reconstruct,
        "seed": config.seed,
        "machine": machine().model_dump() if isinstance(target, SpeedupTarget | GenerationTarget) else None,
        **pruning_identity(config),
    }
    return current.stages.get(f"checkpoints/{target.label}/masked", inputs, make)


def _calibration(current: Run, settings: PruneConfig) -> Calibration:
    """The run's calibration sample."""
    config = current.config
    return calibration_sample(
        current.training_examples(current.last_training),
        current.tokenizer,
        current.task,
        settings,
        max_length=config.max_length,
        stride=config.stride,
        seed=config.seed,
        target_length=config.target_length,
    )
