"""The Trainer's arguments."""

import os
from pathlib import Path

import torch
from transformers import (
    TrainingArguments,
)

from pruning.config import TrainConfig
from pruning.processes import process_count
from pruning.tasks.base import Task


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


def computes_in_bf16() -> bool:
    """Whether this machine has arithmetic for bf16, not only storage."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
