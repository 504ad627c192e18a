"""Fine-tuning of dense and of compact models, on `transformers.Trainer`: resume, mixed precision, processes and progress are its own.

What is added is small: the task's loss with distillation, a length-grouped order of the rows that is a pure function of seed and
epoch (so that a resumed run sees the rows that the uninterrupted one would have seen), and a resume that passes over a checkpoint
whose writing was cut short.
"""

import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import get_last_checkpoint

from pruning.config import TrainConfig
from pruning.distillation import Teacher, check_teacher
from pruning.errors import ConfigError, DataError
from pruning.processes import from_main, process_count, process_index
from pruning.tasks.base import Batch, Feature, Task, collate, inputs_of
from pruning.tasks.summarization import in_output_ids
from pruning.vocabulary import OUTPUT_IDS

MEGA_BATCH = 50
STATE_NAME = "trainer_state.json"
VALIDATION_ROWS = 1000
SHOWN = ("loss", "eval_loss", "learning_rate", "epoch", "left", "wanted", "level", "penalty")


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

    Raises:
        DataError: no training rows.
        ConfigError: the teacher has another vocabulary, or other classes; patience without validation rows; a training that was begun
            by another number of processes.
    """
    return run_trainer(
        TaskTrainer,
        model,
        tokenizer,
        task,
        features,
        config,
        folder=folder,
        seed=seed,
        teacher=teacher,
        validation=validation,
        events=events,
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
    events: Path | None,
    **options: object,
) -> TrainingResult:
    """What `train` does, by a Trainer of this class, which takes these options beside; the arguments are those of `train`."""
    if not features:
        raise DataError("no training rows; check data.train in the recipe")
    if config.patience is not None and not validation:
        raise ConfigError("`patience` needs rows to validate on, and there are none; give `data.validation`, or leave `patience` out")
    freeze_embeddings(model, frozen=config.freeze_embeddings)
    features, validation = in_output_ids(features, model, tokenizer), in_output_ids(validation[:VALIDATION_ROWS], model, tokenizer)
    trainer = trainer_class(
        model=model,
        args=training_arguments(config, task, folder=folder, seed=seed, validate=bool(validation), events=events),
        train_dataset=Rows(features),
        eval_dataset=Rows(validation) if validation else None,
        data_collator=lambda rows: collate(rows, tokenizer),
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


def forget_peak_memory() -> None:
    """Count the peak from now on, where the system can: else it is that of all that the process has done."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Peak resident memory of this process, since it was last forgotten."""
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_arguments(
    config: TrainConfig, task: Task, *, folder: Path, seed: int, validate: bool, events: Path | None = None
) -> TrainingArguments:
    """The Trainer's arguments for these hyper-parameters."""
    patient, on_cpu = config.patience is not None, not torch.cuda.is_available()
    if on_cpu and process_count() > 1:
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")  # and not cpu:0, cpu:1, which no checkpoint can be loaded to
    bf16 = config.precision == "bf16" or (config.precision == "auto" and computes_in_bf16())
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if bf16 else "no"  # or a training in bf16 decides for those that follow it
    arguments = TrainingArguments(
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
        use_cpu=on_cpu,
        bf16=bf16,
        seed=seed,
        data_seed=seed,
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=50,
        eval_strategy="steps" if patient else "epoch" if validate else "no",
        eval_steps=config.save_steps,
        load_best_model_at_end=patient,
        restore_callback_states_from_checkpoint=patient,
        prediction_loss_only=True,
        label_names=list(task.targets),
        remove_unused_columns=False,
        report_to=[],
        logging_dir=None if events is None else str(events),
        disable_tqdm=False,  # by default the bar is tied to the level of logging
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # more GPUs are for more processes, not for torch's DataParallel
    return arguments


class Progress(ProgressCallback):  # type: ignore[misc]  # transformers is not typed
    """The Trainer's progress bar, with the losses beside it on stderr: stdout is for results."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: object
    ) -> None:
        """Write what was logged above the bar."""
        shown = [f"{name} {value:.4g}" for name, value in (logs or {}).items() if name in SHOWN]
        if len(shown) > 1 and self.training_bar is not None:
            self.training_bar.write("  ".join(shown), file=sys.stderr)


class Elapsed(TrainerCallback, ExportableState):  # type: ignore[misc]  # transformers is not typed
    """How long a training has taken, with what it took before it was interrupted."""

    def __init__(self, before: float) -> None:
        """Begin now, `before` seconds in."""
        self._begun = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        """So far."""
        return time.perf_counter() - self._begun

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Be among what checkpoints hold, where the one to go on from is of a version that did not measure this."""
        state.stateful_callbacks.setdefault(type(self).__name__, self.state())

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"args": {"before": self.seconds}, "attributes": {}}


def seconds_until(checkpoint: str | None) -> float:
    """How long a training had taken when it wrote this checkpoint; 0 without one."""
    if checkpoint is None:
        return 0.0
    saved = TrainerState.load_from_json(str(Path(checkpoint) / STATE_NAME)).stateful_callbacks
    return float(saved[Elapsed.__name__]["args"]["before"]) if Elapsed.__name__ in saved else 0.0


class Patience(EarlyStoppingCallback):  # type: ignore[misc]  # transformers is not typed
    """Ends a training that no longer becomes better; the weights at its regular end are evaluated too, or they could not be the best."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Ask for an evaluation after the last step."""
        control.should_evaluate |= state.global_step >= state.max_steps


class Events(TensorBoardCallback):  # type: ignore[misc]  # transformers is not typed
    """What is logged, for TensorBoard; what an earlier run wrote of steps that are now done again is not shown."""

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: object) -> None:
        """Open the file."""
        if state.is_world_process_zero:
            self.tb_writer = self._SummaryWriter(log_dir=args.logging_dir, purge_step=state.global_step + 1)
        super().on_train_begin(args, state, control, **options)


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
