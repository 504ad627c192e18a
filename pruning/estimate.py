"""How long a recipe's trainings take on this machine, from a few optimizer steps of each.

A training is begun by the very stage that a run has for it, in a temporary folder, with the recipe's own model, teacher and rows, and is
left after a few steps; `pruning/step_timing.py` times them. Targets of fine-pruning cost alike, so one is measured. It is measured while it
prunes: before and after that its steps are a little quicker.
"""

import gc
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, computed_field

from pruning import checkpoint
from pruning.config import DataSource, DensityTarget, RunConfig, TrainConfig
from pruning.examples import Example
from pruning.memory import peak_memory_bytes
from pruning.processes import from_main, is_main, process_count
from pruning.run import Run
from pruning.stages import StageRecord, Stages
from pruning.stages.dense import DENSE, train_stage
from pruning.stages.fine_pruning import fine_prune_to
from pruning.stages.models import initial_model
from pruning.stages.recovery import recover
from pruning.step_timing import WARM_UP, Begin, time_steps
from pruning.training import steps_of
from service.artifact import Machine
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)

NOT_IN_IT = "Not in it: reading data, validation, what teachers write, importance, search, compaction, export, evaluation."


class TrainingTime(BaseModel, frozen=True):
    """What one training would take; hours are those of its steps and of the teacher that answers all rows before them."""

    stage: str
    rows: int
    steps: int
    seconds_per_step: float
    lower_quartile: float
    upper_quartile: float
    teacher_hours: float
    at_most: bool

    @computed_field  # type: ignore[prop-decorator]  # as pydantic's documentation has it
    @property
    def hours(self) -> float:
        """In all."""
        return self.steps * self.seconds_per_step / 3600 + self.teacher_hours


class Estimate(BaseModel, frozen=True):
    """All that `estimate` prints; the peak is that of the process while it trained."""

    machine: Machine
    device: str
    torch: str
    threads: int
    processes: int
    measured_steps: int
    peak_memory_bytes: int
    trainings: tuple[TrainingTime, ...]
    not_in_it: str = NOT_IN_IT

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hours(self) -> float:
        """Of all trainings."""
        return sum(each.hours for each in self.trainings)

    def as_text(self) -> str:
        """A table for people, a line for each training."""
        if not self.trainings:
            return f"Nothing in this recipe trains.\n{self.not_in_it}"
        width = 2 + max(len(each.stage) for each in self.trainings)
        heading = f"{'stage':<{width}}{'steps':>9}  {'seconds per step (quartiles)':<34}{'teacher h':>10}{'hours':>11}"
        bound = "at most " if any(each.at_most for each in self.trainings) else ""
        return "\n".join(
            [
                f"{self.machine.cpu}, {self.machine.cores} cores; on {self.device}, torch {self.torch}, {self.threads} threads, "
                f"{self.processes} process(es)",
                f"Median of {self.measured_steps} optimizer steps, each by the clock, after {WARM_UP} of warm-up.",
                "",
                heading,
                *(_line(each, width) for each in self.trainings),
                "",
                f"In all {bound}{self.hours:,.2f} hours. Peak memory {self.peak_memory_bytes / 1e9:.2f} GB, beside which a run keeps the "
                "tokenised rows of all its data.",
                self.not_in_it,
            ]
        )


@dataclass(frozen=True)
class Training:
    """Trainings of a recipe that cost alike, so that it is enough to measure one.

    Attributes:
        stages: what they are called.
        sources: data that they train on.
        settings: how they train.
        begin: does what a run would do, with other settings.
        at_most: whether what is measured is more than what they take.
    """

    stages: tuple[str, ...]
    sources: tuple[DataSource, ...]
    settings: TrainConfig
    begin: Begin
    at_most: bool


def estimate(config: RunConfig, *, steps: int = 5, examples: int | None = None) -> Estimate:
    """Measure a few steps of each training of a recipe; nothing of it stays on the disk.

    Args:
        config: the recipe.
        steps: optimizer steps that are measured.
        examples: that each training has, where the recipe's data is a sample; None to count those that are there.

    Raises:
        DataError: training data cannot be read, or does not fit the task.
        CheckpointError: the model or a teacher cannot be read.
    """
    found, peak = list[TrainingTime](), 0
    with _temporary_folder() as folder:
        current = Run(config, Stages(folder))
        read = cache(current.training_examples if examples is None else current.examples)
        for training in trainings(config):
            logger.info("measuring %s: %d steps and %d of warm-up", training.stages[0], steps, WARM_UP)
            found += _measure(current, training, read(training.sources), steps=steps, examples=examples)
            peak = max(peak, peak_memory_bytes())
            gc.collect()  # a Trainer and its model refer to each other
    return Estimate(
        machine=machine(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        processes=process_count(),
        measured_steps=steps,
        peak_memory_bytes=peak,
        trainings=tuple(found),
    )


def trainings(config: RunConfig) -> list[Training]:
    """The trainings of a recipe, in the order of a run."""
    numbered = enumerate(config.train)
    found = [
        Training((f"train.{number}",), config.sources_of_stage(number), each, partial(_train, number), each.patience is not None)
        for number, each in numbered
    ]
    last = config.sources_of_stage(len(config.train) - 1) if config.train else config.data.train
    labels = [target.label for target in config.targets]
    if config.fine_prune is not None:
        labels = labels or [config.fine_prune.label]
        parts = (", guide", "") if config.fine_prune.rewind else ("",)
        names = tuple(f"fine_prune {label}{part}" for label in labels for part in parts)
        settings = config.fine_prune.train
        found.append(Training(names, last, settings, _fine_prune, settings.patience is not None))
    if config.recover is not None and labels:
        found.append(Training(tuple(f"recover {label}" for label in labels), last, config.recover, _recover, at_most=True))
    return found


def _measure(current: Run, training: Training, found: Sequence[Example], *, steps: int, examples: int | None) -> list[TrainingTime]:
    settings, in_all = training.settings, examples or len(found)
    times = time_steps(current, settings, found, training.begin, steps=steps, of=in_all)
    rows = round(in_all * times.rows_per_example)
    lower, median, upper = np.percentile(times.seconds, (25, 50, 75)).tolist()
    time_of = partial(
        TrainingTime,
        rows=rows,
        steps=steps_of(settings, rows),
        seconds_per_step=median,
        lower_quartile=lower,
        upper_quartile=upper,
        teacher_hours=times.teacher_seconds_per_row * rows / 3600,
        at_most=training.at_most,
    )
    return [time_of(stage=stage) for stage in training.stages]


def _train(number: int, current: Run, settings: TrainConfig) -> None:
    stages = (*current.config.train[:number], settings, *current.config.train[number + 1 :])
    current = replace(current, config=current.config.model_copy(update={"train": stages}))
    train_stage(current, initial_model(current, settings), number, folder=current.stages.path(f"train-{number}"))


def _fine_prune(current: Run, settings: TrainConfig) -> None:
    """Towards a density, whatever the target: to read that, no latency has to be measured first."""
    config = current.config.fine_prune
    assert config is not None
    target = DensityTarget(density=0.5) if config.targets else None
    ramp = config.model_copy(update={"train": settings, "warmup": 0.0, "rewind": False})
    fine_prune_to(current, "fine-pruned", target, _untrained(current), ramp)


def _recover(current: Run, settings: TrainConfig) -> None:
    """Of the dense model, as the compact ones are not there yet."""
    dense = _untrained(current)
    current = replace(current, config=current.config.model_copy(update={"recover": settings}))
    recover(current, "dense", dense, dense)


def _untrained(current: Run) -> StageRecord:
    """The model that the run starts from, where its fine-tuned one would be."""

    def make(folder: Path) -> None:
        model = initial_model(current, next(iter(current.config.train), None))
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)

    return current.stages.get(DENSE, {}, make)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """One for all processes of a launch."""
    folder = Path(from_main(partial(tempfile.mkdtemp, prefix="secateur-")))
    try:
        yield folder
    finally:
        if is_main():
            shutil.rmtree(folder)


def _line(time_of: TrainingTime, width: int) -> str:
    seconds = f"{time_of.seconds_per_step:.3f} ({time_of.lower_quartile:.3f} to {time_of.upper_quartile:.3f})"
    bound = "  at most" if time_of.at_most else ""
    return f"{time_of.stage:<{width}}{time_of.steps:>9,}  {seconds:<34}{time_of.teacher_hours:>10.2f}{time_of.hours:>11,.2f}{bound}"
