"""The stages of pruning while training: the masked model of one target, and the guide of one that is rewound."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from pruning import checkpoint
from pruning.analysis import save_masks
from pruning.compaction import live_structure
from pruning.config import FinePruneConfig, GenerationTarget, SpeedupTarget, Target, chosen
from pruning.fine_pruning import fine_prune
from pruning.run import Run, data_identity, model_identity, pruning_identity, training_identity
from pruning.stages.models import initial_model, shrunk_model, teacher_model, trainable_model
from pruning.stages.store import StageRecord
from pruning.targets import goal_of, left_by, left_by_density
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)


def fine_prune_to(current: Run, label: str, target: Target | None, dense: StageRecord, settings: FinePruneConfig) -> StageRecord:
    """The masked model of one target, pruned while it was trained; with `rewind`, the second time from the pretrained weights.

    Args:
        current: the run.
        label: names the target's folder.
        target: what to reach; None leaves the method to its own penalty or density.
        dense: the dense model: what it starts from, if the recipe says so, and the teacher `dense`.
        settings: the recipe's section.

    Raises:
        UnreachableTargetError: the target is not reached even with every gate closed.
        NothingPrunedError: the model reaches it as it is, or every gate is open in the end.
    """
    if not settings.rewind:
        return _fine_prune_stage(current, f"checkpoints/{label}/masked", target, dense, settings, guide=None)
    guide = _fine_prune_stage(current, f"checkpoints/{label}/guide", target, dense, settings, guide=None)
    return _fine_prune_stage(current, f"checkpoints/{label}/masked", target, dense, settings, guide=guide)


def _fine_prune_stage(
    current: Run, name: str, target: Target | None, dense: StageRecord, settings: FinePruneConfig, *, guide: StageRecord | None
) -> StageRecord:
    config = current.config
    pretrained = settings.start == "pretrained" or guide is not None

    def make(folder: Path) -> Mapping[str, Any]:
        set_seed(config.seed)
        protected = None if guide is None else live_structure(current.load(guide.name))
        model = initial_model(current, settings.train) if pretrained else trainable_model(current, dense.name, settings.train)
        model = shrunk_model(current, model)
        reference = left_by_density(model) if target is None else left_by(target, model, current.task.name, outputs=config.outputs)
        found = fine_prune(
            model,
            current.tokenizer,
            current.task,
            current.features(current.training_examples(current.last_training)),
            settings,
            left=reference,
            target=None if target is None else goal_of(target),
            folder=current.stages.work(name, inputs),
            seed=config.seed,
            teacher=teacher_model(current, settings.train, own=dense.name),
            validation=current.validation_rows(),
            events=current.events(name),
            callbacks=current.callbacks,
            protected=protected,
            finished=lambda masks: save_masks(masks, folder),
        )
        logger.info("fine-pruned to %s: %.4f left, density %.4f", name, found.left, found.density)
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {
            "structure": [asdict(layer) for layer in live_structure(model)],
            "predicted": 1 / found.left if isinstance(target, SpeedupTarget | GenerationTarget) else None,
            "measured": None,
            "left": found.left,
            "density": found.density,
            "training": asdict(found.training),
            "trace": [asdict(reading) for reading in found.trace],
            "rows": current.rows_seen,
        }

    inputs = {
        "dense": dense.key,
        "model": model_identity(config.model) if pretrained else None,
        "guide": guide.key if guide else None,
        "fine_prune": {name: value for name, value in chosen(settings).items() if name != "targets"},
        **training_identity(config, settings.train),
        "target": chosen(target) if target else None,
        "length": (config.max_length, config.stride),
        "data": data_identity(current.last_training),
        "seed": config.seed,
        "machine": machine().model_dump() if isinstance(target, SpeedupTarget | GenerationTarget) else None,
        **pruning_identity(config),
    }
    return current.stages.get(name, inputs, make, together=True)
