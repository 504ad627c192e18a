"""Fine-tuning of dense and of compact models, on `transformers.Trainer`: resume, mixed precision, processes and progress are its own.

What is added is small: the task's loss with distillation, an order of rows that resumes exactly, and a resume that passes over a checkpoint
whose writing was cut short.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)

from pruning.config import TrainConfig
from pruning.distillation import Teacher, check_teacher
from pruning.errors import ConfigError, DataError
from pruning.memory import forget_peak_memory, peak_memory_bytes
from pruning.processes import from_main, process_count, process_index
from pruning.tasks.base import Batch, Feature, Task, collate, inputs_of
from pruning.tasks.summarization import in_output_ids
from pruning.training.arguments import training_arguments
from pruning.training.callbacks import Elapsed, Events, Patience, Progress, seconds_until
from pruning.training.checkpoints import STATE_NAME, last_whole_checkpoint
from pruning.training.rows import LengthGroupedSampler, Rows
from pruning.vocabulary import OUTPUT_IDS

VALIDATION_ROWS = 1000


@dataclass(frozen=True)
class TrainingResult:
    """What a training took.

    Attributes:
        steps: optimizer steps in all, those of earlier, interrupted runs included.
        seconds: wall time of this run.
        peak_memory_bytes: peak resident memory of the process.
        loss: mean training loss of the last logged stretch, or of all steps if they were too few to be logged; None if none was logged.
        validation_loss: by epoch, or with patience by `save_steps`; empty without validation rows.
        kept: step whose weights the model has: the last, or with patience the best.
        processes: that took part; each had its own `batch_size` examples in every step.
    """

    steps: int
    seconds: float
    peak_memory_bytes: int
    loss: float | None
    validation_loss: tuple[float, ...]
    kept: int
    processes: int


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
    events: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: "type[TaskTrainer] | None" = None,
    **options: object,
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
        validation: rows whose loss is logged after each epoch, or with patience every `save_steps`; at most `VALIDATION_ROWS` are used.
        events: folder for what TensorBoard shows; None for no events.
        callbacks: of the caller's, beside those that every training has.
        trainer_class: a Trainer that does more than `TaskTrainer`, which takes the options, too.

    Raises:
        DataError: no training rows.
        ConfigError: the teacher has another vocabulary, or other classes; patience without validation rows; a training that was begun
            by another number of processes.
    """
    if not features:
        raise DataError("no training rows; check data.train in the recipe")
    if config.patience is not None and not validation:
        raise ConfigError("`patience` needs rows to validate on, and there are none; give `data.validation`, or leave `patience` out")
    freeze_embeddings(model, frozen=config.freeze_embeddings)
    features, validation = in_output_ids(features, model, tokenizer), in_output_ids(validation[:VALIDATION_ROWS], model, tokenizer)
    trainer = (trainer_class or TaskTrainer)(
        model=model,
        args=training_arguments(config, task, folder=folder, seed=seed, validate=bool(validation), events=events),
        train_dataset=Rows(features),
        eval_dataset=Rows(validation) if validation else None,
        data_collator=lambda rows: collate(rows, tokenizer),
        callbacks=list(callbacks),
        task=task,
        config=config,
        teacher=teacher,
        **options,
    )
    trainer.remove_callback(ProgressCallback)
    for callback in (Progress(), *_callbacks(config, events)):
        trainer.add_callback(callback)
    torch.manual_seed(seed + process_index())  # each process drops out its own
    begun = from_main(lambda: last_whole_checkpoint(folder))
    elapsed = Elapsed(seconds_until(begun))
    trainer.add_callback(elapsed)
    forget_peak_memory()
    with trainer.learning():
        state = trainer.train_or_restore(begun)
    trainer.accelerator.wait_for_everyone()  # the folder may go when this returns
    model.eval()
    return TrainingResult(
        steps=state.global_step,
        seconds=elapsed.seconds,
        peak_memory_bytes=peak_memory_bytes(),
        loss=last_loss(state),
        validation_loss=tuple(float(entry["eval_loss"]) for entry in state.log_history if "eval_loss" in entry),
        kept=state.best_global_step or state.global_step,
        processes=process_count(),
    )


def _callbacks(config: TrainConfig, events: Path | None) -> list[TrainerCallback]:
    patience = [] if config.patience is None else [Patience(config.patience)]
    return [*patience, *([] if events is None else [Events()])]


def last_loss(state: TrainerState) -> float | None:
    """The training loss that was logged last, if any was."""
    found = [float(entry[name]) for name in ("loss", "train_loss") for entry in state.log_history[::-1] if name in entry]
    return found[0] if found else None


def freeze_embeddings(model: PreTrainedModel, *, frozen: bool = True) -> None:
    """Take the embedding tables, and the normalisation that follows them, out of training (or put them back)."""
    for module in _embeddings(model.base_model):
        module.requires_grad_(not frozen)


def _embeddings(model: PreTrainedModel) -> list[nn.Module]:
    """What is before the first layer of a base model: of an encoder-decoder, before those of both."""
    if not model.config.is_encoder_decoder:
        return [model.embeddings]
    return [
        part for stack in (model.encoder, model.decoder) for part in (stack.embed_tokens, stack.embed_positions, stack.layernorm_embedding)
    ]


class TaskTrainer(Trainer):  # type: ignore[misc]  # transformers is not typed
    """The Trainer with the task's loss, distillation, and an order of rows that resumes exactly."""

    train_dataset: Rows

    def __init__(self, *, task: Task, config: TrainConfig, teacher: PreTrainedModel | None, **options: object) -> None:
        super().__init__(**options)
        self.task, self.config = task, config
        self.teacher: Teacher | None = None
        if teacher is not None and config.distillation is not None:
            check_teacher(self.model, teacher)
            output_ids = getattr(self.model, OUTPUT_IDS, None)
            self.teacher = Teacher(teacher.to(self.args.device), config.distillation, task, output_ids=output_ids)
        self.model_accepts_loss_kwargs = False

    def train_or_restore(self, resumed_from: str | None) -> TrainerState:
        """Train to the end; from a checkpoint that is the end already, take the weights and do no further step."""
        if resumed_from is not None:
            state = TrainerState.load_from_json(str(Path(resumed_from) / STATE_NAME))
            if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
                best = f"checkpoint-{state.best_global_step or state.global_step}"
                self._load_from_checkpoint(str(Path(resumed_from).with_name(best)))
                return state
            _check_processes(Path(resumed_from))
        self._ask_teacher()
        self.train(resume_from_checkpoint=resumed_from)
        return self.state

    def _get_train_sampler(self, train_dataset: "Rows | None" = None) -> Sampler[int]:
        rows: Rows = self.train_dataset if train_dataset is None else train_dataset
        lengths = [len(row["input_ids"]) for row in rows.features]
        return LengthGroupedSampler(lengths, self.args.train_batch_size * self.args.world_size, seed=self.args.seed)

    def _save_rng_state(self, output_dir: str) -> None:
        """Each process writes its own; a checkpoint is complete when all have."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Any]:
        """Mean over the rows of the task's loss, blended with the teacher's where there is one."""
        teacher = self.teacher if model.training else None
        outputs = model(**inputs_of(inputs, self.task), **(teacher.asks if teacher else {}))
        losses = self.task.losses(outputs, inputs, label_smoothing=self.config.label_smoothing if model.training else 0.0)
        if teacher is not None:
            with self.accelerator.autocast():
                losses = teacher.blended(losses, outputs, inputs)
        loss = losses.mean()
        return (loss, outputs) if return_outputs else loss

    def learning(self) -> AbstractContextManager[None]:
        """What has to surround the training for its teacher's sake."""
        return nullcontext() if self.teacher is None else self.teacher.teaches(self.model, seed=self.args.seed)

    def _ask_teacher(self) -> None:
        """If nothing but the teacher's logits is wanted, and for the same rows more than once, compute them now.

        Those of an encoder-decoder are too many to be kept.
        """
        generates = self.model.config.is_encoder_decoder
        if self.teacher is None or self.teacher.asks or self.config.epochs <= 1 or generates:
            return
        with self.accelerator.autocast():
            answered = self.teacher.answered(self.train_dataset.features, self.data_collator, batch_size=self.args.train_batch_size)
        self.train_dataset = Rows(answered)


def _check_processes(checkpoint: Path) -> None:
    """Other processes would see other batches, and take another number of steps."""
    before = len(list(checkpoint.glob("rng_state*.pth")))
    if before != process_count():
        raise ConfigError(
            f"{checkpoint.parent}: this training was begun by {before} and would go on in {process_count()} processes; "
            f"run it with {before}, or remove that folder to begin anew"
        )


def steps_of(config: TrainConfig, rows: int) -> int:
    """Optimizer steps that a training of `rows` rows takes, in the processes of this launch."""
    return math.ceil(math.ceil(rows / (config.batch_size * process_count())) * config.epochs)
