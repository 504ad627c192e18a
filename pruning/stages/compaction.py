"""The stages that make a masked model smaller: what is zero leaves, then tokens to choose from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pruning import checkpoint
from pruning.compaction import compact
from pruning.config import DataSource
from pruning.examples import SummaryExample
from pruning.run import Run, data_identity, generation_identity
from pruning.stages.store import StageRecord
from pruning.structure import shapes
from pruning.vocabulary import keep_vocabulary


def compact_stage(current: Run, label: str, masked: StageRecord) -> StageRecord:
    """The compact model: what is zero leaves, exactly."""

    def make(folder: Path) -> Mapping[str, Any]:
        small = compact(current.load(masked.name))
        checkpoint.write(small, current.tokenizer, folder, dtype=torch.float32)
        return {"layers": [shape.model_dump() for shape in shapes(small)]}

    return current.stages.get(f"checkpoints/{label}/compact", {"masked": masked.key}, make)


def reduce_vocabulary(current: Run, label: str, small: StageRecord, *, keep: int) -> StageRecord:
    """The compact model with fewer tokens to choose from, and what spells the rest.

    They are those that the summaries of the last training stage use, then those of earlier stages: texts to copy from come in numbers
    that would leave out words of the task.
    """

    def make(folder: Path) -> Mapping[str, Any]:
        model = current.load(small.name)
        last, every = _summaries(current, current.last_training), _summaries(current, current.config.data.train)
        keep_vocabulary(model, current.tokenizer, last, keep, others=every)
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {"outputs": keep}

    inputs = {
        "compact": small.key,
        "keep": keep,
        "data": data_identity(current.config.data.train),
        "last": data_identity(current.last_training),
        **generation_identity(current.config),
    }
    return current.stages.get(f"checkpoints/{label}/reduced", inputs, make)


def _summaries(current: Run, sources: Sequence[DataSource]) -> list[str]:
    examples = current.training_examples(sources)
    return [summary for each in examples if isinstance(each, SummaryExample) for summary in each.summaries]
