"""What is done beside the steps of a training: progress, time, patience, events."""

import sys
import time
from pathlib import Path
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_callback import ExportableState

from pruning.training.checkpoints import STATE_NAME

SHOWN = ("loss", "eval_loss", "learning_rate", "epoch", "left", "wanted", "level", "penalty")


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
