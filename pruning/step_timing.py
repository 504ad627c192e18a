"""Seconds per optimizer step of a training: it is begun as a run begins it, on a sample of its rows, and left after a few steps.

The rows are those of batches of every length that an epoch has, so that the median step is one of a batch of median length. The training
is told that it has as many steps as the real one: what depends on how many there are costs what it does there.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pruning.config import DataSource, TrainConfig
from pruning.examples import Example, SummaryExample
from pruning.processes import process_count
from pruning.pseudo_labels import with_pseudo_labels
from pruning.run import Run
from pruning.tasks.base import TEACHER_LOGITS, Feature
from pruning.training.rows import MEGA_BATCH

WARM_UP = 2

Begin = Callable[[Run, TrainConfig], object]
"""Does a training with the run and the settings that it is given."""


@dataclass(frozen=True)
class StepTimes:
    """What was measured of one training.

    Attributes:
        rows_per_example: tokenised rows that an example gives.
        seconds: of each step, by the clock, from the end of the one before.
        teacher_seconds_per_row: that a teacher needs which answers all rows before the first step; 0 without one.
    """

    rows_per_example: float
    seconds: tuple[float, ...]
    teacher_seconds_per_row: float


def time_steps(current: Run, settings: TrainConfig, examples: Sequence[Example], begin: Begin, *, steps: int, of: int) -> StepTimes:
    """Time the steps that follow the first `WARM_UP` of a training.

    Args:
        current: the run, in a folder that may be written to.
        settings: of the training.
        examples: of its data; a sample is drawn with the run's seed.
        begin: does the training as a run does.
        steps: how many to time.
        of: examples that there are in all, of which those given may be a sample.
    """
    batch = settings.batch_size * process_count()
    drawn = random.Random(current.config.seed).sample(examples, min(len(examples), MEGA_BATCH * batch))
    features = current.features(_with_written(drawn, settings))
    batches = math.ceil((WARM_UP + steps) / min(1.0, settings.epochs))
    stopwatch = _Stopwatch(WARM_UP + steps)
    sampled = _Sampled(current.config, current.stages, (stopwatch,), rows=tuple(typical_rows(features, batch, batches)))
    rows_per_example = len(features) / len(drawn)
    with suppress(_Enough):
        begin(sampled, _on_sample(settings, repeated=of * rows_per_example / (batches * batch)))
    return StepTimes(rows_per_example, tuple(stopwatch.seconds[WARM_UP:]), stopwatch.teacher_seconds_per_row)


def typical_rows(rows: Sequence[Feature], batch_size: int, batches: int) -> list[Feature]:
    """Rows of so many batches, spread evenly over the lengths; each has rows of like lengths, as the Trainer's own batches have."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    last = max(0, len(ordered) - batch_size)
    starts = [round(last * (number + 0.5) / batches) for number in range(batches)]
    return [ordered[(start + at) % len(ordered)] for start in starts for at in range(batch_size)]


@dataclass(frozen=True)
class _Sampled(Run):
    """A run whose trainings all see these rows, and validate on none."""

    rows: tuple[Feature, ...] = ()

    def training_examples(self, sources: Sequence[DataSource]) -> list[Example]:
        """None: `features` has what is made of them."""
        return []

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """The rows."""
        return list(self.rows)

    def validation_rows(self) -> list[Feature]:
        """None."""
        return []


class _Enough(Exception):  # noqa: N818 - not an error
    """All steps that were asked for are measured; this leaves the training."""


class _Stopwatch(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
    """Seconds from one optimizer step's end to the next one's, and those that a teacher needs for a row before the first."""

    def __init__(self, steps: int) -> None:
        self.seconds: list[float] = []
        self.teacher_seconds_per_row = 0.0
        self._steps, self._last = steps, 0.0

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """A teacher answers now, if it does so for all rows at once."""
        self._last = _now()

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: DataLoader[Feature],
        **_: object,
    ) -> None:
        """It has answered."""
        rows, before, self._last = train_dataloader.dataset, self._last, _now()
        if TEACHER_LOGITS in rows[0]:
            self.teacher_seconds_per_row = (self._last - before) / len(rows)  # type: ignore[arg-type]  # `Rows` has a length

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """One more step."""
        before, self._last = self._last, _now()
        self.seconds.append(self._last - before)
        if len(self.seconds) == self._steps:
            raise _Enough


def _on_sample(settings: TrainConfig, *, repeated: float) -> TrainConfig:
    """The settings for a sample that all rows are so many times as much as: with as many steps, and nothing between them.

    A training of one epoch at most stays one: its teacher answers batch by batch.
    """
    distillation = settings.distillation and settings.distillation.model_copy(update={"pseudo_labels": None})
    epochs = settings.epochs if settings.epochs <= 1 else settings.epochs * max(1.0, repeated)
    return settings.model_copy(update={"epochs": epochs, "patience": None, "distillation": distillation})


def _with_written(examples: Sequence[Example], settings: TrainConfig) -> Sequence[Example]:
    """The examples; where a teacher would write summaries for them, one of their own takes the place of each."""
    asked = settings.distillation and settings.distillation.pseudo_labels
    if not asked:
        return examples
    documents = [each for each in examples if isinstance(each, SummaryExample)]
    return with_pseudo_labels(documents, [each.summaries[0] for each in documents], references=asked.references)


def _now() -> float:
    """Seconds, once everything that was asked of the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
