"""Fine-tuning of dense and of compact models, on `transformers.Trainer`: resume, mixed precision, processes and progress are its own.

What is added is small: the task's loss with distillation, a length-grouped order of the rows that is a pure function of seed and
epoch (so that a resumed run sees the rows that the uninterrupted one would have seen), and a resume that passes over a checkpoint
whose writing was cut short.
"""

import json
import math
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.modeling_outputs import ModelOutput
from transformers.trainer_utils import get_last_checkpoint

from pruning.config import TrainConfig
from pruning.distillation import distillation_losses
from pruning.errors import DataError
from pruning.tasks.base import Batch, Feature, Task, collate, inputs_of

MEGA_BATCH = 50
STATE_NAME = "trainer_state.json"
VALIDATION_ROWS = 1000


@dataclass(frozen=True)
class TrainingResult:
    """What a training took.

    Attributes:
        steps: optimizer steps in all, those of earlier, interrupted runs included.
        seconds: wall time of this run.
        peak_memory_bytes: peak resident memory of the process.
        loss: mean training loss of the last logged stretch, or of all steps if they were too few to be logged; None if none was logged.
        validation_loss: by epoch; empty without validation rows.
    """

    steps: int
    seconds: float
    peak_memory_bytes: int
    loss: float | None
    validation_loss: tuple[float, ...]


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    features: Sequence[Feature],
    config: TrainConfig,
    *,
    folder: Path,
    seed: int,
    teacher: PreTrainedModel | None = None,
    validation: Sequence[Feature] = (),
) -> TrainingResult:
    """Train `model` in place; a rerun with the same arguments resumes from the last whole checkpoint in `folder`.

    Args:
        model: dense or compact; its embeddings are frozen if the config says so.
        tokenizer: pads the batches.
        task: gives the loss.
        features: training rows.
        config: hyper-parameters.
        folder: where checkpoints go.
        seed: of the order of the rows and of dropout.
        teacher: distilled from if `config.distillation` is set.
        validation: rows whose loss is logged after each epoch; at most `VALIDATION_ROWS` are used.

    Raises:
        DataError: no training rows.
    """
    return run_trainer(
        TaskTrainer, model, tokenizer, task, features, config, folder=folder, seed=seed, teacher=teacher, validation=validation
    )


def run_trainer(
    trainer_class: "type[TaskTrainer]",
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    features: Sequence[Feature],
    config: TrainConfig,
    *,
    folder: Path,
    seed: int,
    teacher: PreTrainedModel | None,
    validation: Sequence[Feature],
    **options: object,
) -> TrainingResult:
    """What `train` does, by a Trainer of this class, which takes these options beside; the arguments are those of `train`."""
    if not features:
        raise DataError("no training rows; check data.train in the recipe")
    freeze_embeddings(model, frozen=config.freeze_embeddings)
    trainer = trainer_class(
        model=model,
        args=training_arguments(config, task, folder=folder, seed=seed, validate=bool(validation)),
        train_dataset=Rows(features),
        eval_dataset=Rows(validation[:VALIDATION_ROWS]) if validation else None,
        data_collator=lambda rows: collate(rows, tokenizer),
        task=task,
        config=config,
        teacher=teacher,
        **options,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Progress())
    started = time.perf_counter()
    state = trainer.train_or_restore(last_whole_checkpoint(folder))
    model.eval()
    return TrainingResult(
        steps=state.global_step,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
        loss=last_loss(state),
        validation_loss=tuple(float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry),
    )


def last_loss(state: TrainerState) -> float | None:
    """The training loss that was logged last, if any was."""
    found = [float(entry[name]) for name in ("loss", "train_loss") for entry in state.log_history[::-1] if name in entry]
    return found[0] if found else None


def freeze_embeddings(model: PreTrainedModel, *, frozen: bool = True) -> None:
    """Take the embedding tables, and the normalisation that follows them, out of training (or put them back)."""
    for parameter in model.base_model.embeddings.parameters():
        parameter.requires_grad_(not frozen)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint in `folder` that was written to its end; newer ones that were cut short are removed."""
    while folder.is_dir():
        newest = get_last_checkpoint(str(folder))
        if newest is None:
            return None
        if _is_whole(Path(newest)):
            return str(newest)
        shutil.rmtree(newest)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))  # the last file that the Trainer writes
    except (OSError, json.JSONDecodeError):
        return False
    return True


def computes_in_bf16() -> bool:
    """Whether this machine has arithmetic for bf16, not only storage."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_arguments(config: TrainConfig, task: Task, *, folder: Path, seed: int, validate: bool) -> TrainingArguments:
    """The Trainer's arguments for these hyper-parameters."""
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_in_bf16())
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        per_device_train_batch_size=max(1, config.batch_size // config.accumulation),
        per_device_eval_batch_size=max(1, config.batch_size // config.accumulation),
        gradient_accumulation_steps=config.accumulation,
        warmup_ratio=config.warmup,
        lr_scheduler_type=config.schedule,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        use_cpu=not torch.cuda.is_available(),
        bf16=bf16,
        seed=seed,
        data_seed=seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=50,
        eval_strategy="epoch" if validate else "no",
        prediction_loss_only=True,
        label_names=list(task.targets),
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=False,  # by default the bar is tied to the level of logging
        dataloader_pin_memory=False,
    )


class Progress(ProgressCallback):  # type: ignore[misc]  # transformers is not typed
    """The Trainer's progress bar, with the losses beside it on stderr: stdout is for results."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: object
    ) -> None:
        """Write what was logged above the bar."""
        shown = [f"{name} {value:.4g}" for name, value in (logs or {}).items() if name in ("loss", "eval_loss", "learning_rate", "epoch")]
        if len(shown) > 1 and self.training_bar is not None:
            self.training_bar.write("  ".join(shown), file=sys.stderr)


class Rows(Dataset[Feature]):
    """Features as a torch dataset."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]


class LengthGroupedSampler(Sampler[int]):
    """Rows of like lengths together: shuffled, cut into stretches of 50 batches, each sorted by length, batches shuffled again.

    The order is a pure function of the seed and the epoch, so a run that is resumed in the middle of an epoch goes on with the
    rows that were left.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order: list[int] = torch.randperm(len(self.lengths), generator=generator).tolist()
        stretch = self.batch_size * MEGA_BATCH
        grouped = [i for at in range(0, len(order), stretch) for i in sorted(order[at : at + stretch], key=lambda i: -self.lengths[i])]
        full = len(grouped) // self.batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from grouped[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from grouped[full * self.batch_size :]


class TaskTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """The Trainer with the task's loss, distillation, and an order of rows that resumes exactly."""

    def __init__(self, *, task: Task, config: TrainConfig, teacher: PreTrainedModel | None, **options: object) -> None:
        super().__init__(**options)
        self.task, self.config = task, config
        self.teacher = teacher.eval().to(self.args.device) if teacher is not None and config.distillation is not None else None
        self.model_accepts_loss_kwargs = False

    def train_or_restore(self, resumed_from: str | None) -> TrainerState:
        """Train to the end; from a checkpoint that is the end already, take the weights and do no further step."""
        if resumed_from is not None:
            state = TrainerState.load_from_json(str(Path(resumed_from) / STATE_NAME))
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(resumed_from)
                return state
        self.train(resume_from_checkpoint=resumed_from)
        return self.state

    def _get_train_sampler(self, train_dataset: "Rows | None" = None) -> Sampler[int]:
        rows: Rows = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler([len(row["input_ids"]) for row in rows.features], self.args.train_batch_size, seed=self.args.seed)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Mean over the rows of the task's loss, blended with the teacher's where there is one."""
        rows = inputs_of(inputs, self.task)
        outputs = model(**rows)
        losses = self.task.losses(outputs, inputs, label_smoothing=self.config.label_smoothing if model.training else 0.0)
        if self.teacher is not None and self.config.distillation is not None and model.training:
            weight = self.config.distillation.weight
            losses = (1 - weight) * losses + weight * self._distilled(outputs, rows, self.config.distillation.temperature)
        loss = losses.mean()
        return (loss, outputs) if return_outputs else loss

    def _distilled(self, outputs: ModelOutput, rows: Batch, temperature: float) -> Tensor:
        assert self.teacher is not None
        with torch.no_grad():
            teacher = self.task.logits(self.teacher(**rows))
        over_positions = len(teacher) > 1
        return distillation_losses(
            self.task.logits(outputs), teacher, temperature=temperature, attention_mask=rows["attention_mask"] if over_positions else None
        )


def steps_of(config: TrainConfig, rows: int) -> int:
    """Optimizer steps that a training of `rows` rows takes in one process."""
    return math.ceil(math.ceil(rows / config.batch_size) * config.epochs)
