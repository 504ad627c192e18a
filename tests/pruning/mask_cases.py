"""Masks as a training leaves them, on tiny models, and what is saved of them."""

from dataclasses import asdict
from pathlib import Path

import torch
from transformers import PreTrainedModel

from pruning import checkpoint
from pruning.analysis import save_masks, summarise
from pruning.compaction import live_structure
from pruning.mask_summary import MaskSummary
from pruning.masking import Masks, attach
from pruning.methods import method_of
from tests.pruning.helpers import tiny_model
from tests.pruning.method_cases import GRANULARITIES, METHODS

TRACE = [{"step": step, "left": 1 - step / 40, "wanted": 1 - step / 50, "level": 0.1, "penalty": 0.5 + step} for step in range(0, 40, 4)]


def trained_masks(method: str = "movement", granularity: str = "hybrid", *, level: float = 0.4) -> tuple[PreTrainedModel, Masks]:
    """A tiny model with frozen masks, closed by random scores."""
    pruned = tiny_model("bert", "text-classification", intermediate=32)
    masks = attach(pruned, GRANULARITIES[granularity], method_of(METHODS[method]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for scores in masks.scores:
            scores.add_(2 * torch.randn(scores.shape, generator=generator))
    masks.close(level, step=1)
    masks.freeze()
    return pruned, masks


def summary_of(model: PreTrainedModel, masks: Masks, folder: Path, *, trace: list[dict[str, float]] = TRACE) -> MaskSummary:
    """What the report would say of them; the masks are baked in."""
    save_masks(masks, folder)
    masks.bake()
    checkpoint.write(model, None, folder, dtype=torch.float32)
    found = summarise(folder, {"structure": [asdict(layer) for layer in live_structure(model)], "trace": trace})
    assert found is not None
    return found
