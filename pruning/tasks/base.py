"""What training and pruning need to know of a task: its head, its features, its loss.

A *feature* is one row of token ids with its targets, as Python lists; a *batch* is a dictionary of tensors `[batch, sequence]` (and
the targets `[batch]`, or `[batch, target]` of a model that generates) that goes into `model(**inputs)`. What an answer is, is the
service's business (`service.tasks`).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from pruning.examples import Example
from service.artifact import TaskName

Feature = dict[str, Any]
Batch = dict[str, Tensor]

TEACHER_LOGITS = "teacher_logits"
IGNORED = -100
"""Label of what is padding."""


class Task(Protocol):
    """One task on the pruning side; the list is in `pruning.tasks.TASKS`."""

    name: TaskName
    auto_class: Any
    targets: tuple[str, ...]

    def features(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int = 0, target_length: int = 64
    ) -> list[Feature]:
        """Tokenised rows with their targets; a long context gives several, and so do several summaries."""
        ...

    def losses(self, outputs: ModelOutput, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Loss of each row, `[batch]`."""
        ...

    def logits(self, outputs: ModelOutput) -> tuple[Tensor, ...]:
        """Logits over classes `[batch, classes]`, over positions `[batch, sequence]` for start and for end, or over tokens.

        Those over tokens are `[batch, target, vocabulary]`.
        """
        ...


def collate(features: Sequence[Feature], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Pad features to the longest of them.

    Returns:
        int64 `[batch, sequence]` for each of the tokenizer's outputs, and the targets `[batch]` or, where they are lists of tokens,
        `[batch, target]`, labels padded with `IGNORED`; tensors among them, such as a teacher's logits, are padded with zeros along
        their first dimension.
    """
    names = [name for name in tokenizer.model_input_names if name in features[0]]
    padded = tokenizer.pad([{name: feature[name] for name in names} for feature in features], return_tensors="pt")
    padding = {"labels": IGNORED, "decoder_input_ids": tokenizer.pad_token_id}
    targets = {name: _stacked([feature[name] for feature in features], padding.get(name, 0)) for name in features[0] if name not in names}
    return {**{name: padded[name] for name in names}, **targets}


def _stacked(values: list[Any], padding: int) -> Tensor:
    if isinstance(values[0], list):
        values = [torch.tensor(value) for value in values]
    return pad_sequence(values, batch_first=True, padding_value=padding) if isinstance(values[0], Tensor) else torch.tensor(values)


def batches(features: Sequence[Feature], tokenizer: PreTrainedTokenizerBase, *, batch_size: int) -> list[Batch]:
    """Features in batches of like lengths, so that little is padded; their order is by length, not as given."""
    ordered = sorted(features, key=lambda feature: len(feature["input_ids"]))
    return [collate(ordered[i : i + batch_size], tokenizer) for i in range(0, len(ordered), batch_size)]


def inputs_of(batch: Mapping[str, Tensor], task: Task) -> Batch:
    """The batch without its targets, and without what a teacher says: what the model's forward takes."""
    return {name: tensor for name, tensor in batch.items() if name not in (*task.targets, TEACHER_LOGITS)}
