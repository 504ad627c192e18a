"""What `test_processes.py` launches in two processes: trainings whose outcome it compares with those of one, and stages.

Weights are float64, so that the sums of two halves and of a whole differ by nothing that Adam could make something of.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from pruning.config import DensityTarget, FinePruneConfig, TrainConfig
from pruning.fine_pruning import fine_prune
from pruning.masking import Masks
from pruning.processes import from_main, is_main, process_count, process_index
from pruning.stages import Stages
from pruning.targets import left_by_density
from pruning.tasks import task_named
from pruning.training import TrainingResult, train
from tests.pruning.helpers import tiny_model, tiny_tokenizer
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.training_helpers import features_of, without_dropout

TASK = task_named("text-classification")
ROWS_PER_STEP = 4
EPOCHS, SAVE_STEPS, CUT_AFTER = 6, 4, 10
ACCUMULATED = "l0"


def configured(*, dropout: float = 0.0, accumulation: int = 1, patience: int | None = None) -> TrainConfig:
    """Eighteen steps of four rows, in however many processes."""
    return TrainConfig(
        epochs=EPOCHS,
        batch_size=ROWS_PER_STEP // process_count(),
        learning_rate=1e-3,
        precision="fp32",
        save_steps=SAVE_STEPS,
        dropout=dropout,
        accumulation=accumulation,
        patience=patience,
    )


def model_of(*, seed: int = 0) -> PreTrainedModel:
    """Tiny, with sizes that every granularity divides."""
    return without_dropout(tiny_model("bert", TASK.name, layers=2, intermediate=32, seed=seed, dtype=torch.float64))


def fine_pruned(method: str, folder: Path, *, accumulation: int = 1) -> dict[str, Tensor]:
    """Weights and masks after fine-pruning by a method."""
    model, tokenizer = model_of(), tiny_tokenizer()
    gates: dict[str, Tensor] = {}

    def keep(masks: Masks) -> None:
        gates.update({f"gates of {each.name}": each.mask.keep.clone() for each in masks.masked})

    config = FinePruneConfig(
        method=METHODS[method],
        granularity=GRANULARITIES["hybrid"],
        targets=(DensityTarget(density=0.5),),
        score_learning_rate=0.3,
        train=configured(accumulation=accumulation),
    )
    rows = features_of(TASK, tokenizer)
    fine_prune(model, tokenizer, TASK, rows, config, left=left_by_density(model), target=0.5, folder=folder, seed=5, finished=keep)
    return {**{name: tensor.contiguous() for name, tensor in model.state_dict().items()}, **gates}


def trained(folder: Path, *, seed: int = 0) -> tuple[dict[str, Tensor], TrainingResult]:
    """Weights after a training with dropout, validation and patience, and what it took."""
    model, tokenizer = tiny_model("bert", TASK.name, layers=1, seed=seed), tiny_tokenizer()
    rows = features_of(TASK, tokenizer)
    found = train(model, tokenizer, TASK, rows, configured(dropout=0.1, patience=3), folder=folder, seed=5, validation=rows)
    return model.state_dict(), found


def interrupted_after(steps: int) -> None:
    """Make the Trainer stop, as by Ctrl-C, once it has done that many steps more."""
    original, left = Trainer.training_step, iter(range(steps))

    def step_or_stop(self: Trainer, *arguments: object, **options: object) -> Tensor:
        if next(left, None) is None:
            Trainer.training_step = original
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    Trainer.training_step = step_or_stop


def resumed(folder: Path) -> dict[str, Tensor]:
    """Weights of a training that was cut short, and run again from other weights than it began with."""
    interrupted_after(CUT_AFTER)
    try:
        trained(folder)
    except KeyboardInterrupt:
        return trained(folder, seed=9)[0]
    raise AssertionError("it was not interrupted")


def staged(folder: Path) -> str:
    """Two stages, made twice; which processes made them is written into `folder`, and what they left is returned."""
    for _ in range(2):
        stages = Stages(folder / "run")
        for name, together in (("together", True), ("alone", False)):

            def make(output: Path, name: str = name) -> dict[str, int]:
                (folder / f"{name} by {process_index()}").touch(exist_ok=False)
                (output / "made").write_text(str(process_index()))
                return {"by": process_index(), "inside": from_main(process_index) if name == "together" else 0}

            record = stages.get(name, {}, make, together=together)
    return f"{record.name} {record.details} {record.reused}"


def main(folder: Path) -> None:
    """All of it; what each process came to is written into `folder`."""
    for method in METHODS:
        save_file(fine_pruned(method, folder / method), folder / f"{method} {process_index()}.safetensors")
    found = fine_pruned(ACCUMULATED, folder / "accumulated", accumulation=2)
    save_file(found, folder / f"accumulated {process_index()}.safetensors")
    weights, result = trained(folder / "whole")
    save_file(weights, folder / f"whole {process_index()}.safetensors")
    save_file(resumed(folder / "cut"), folder / f"resumed {process_index()}.safetensors")
    (folder / f"steps {process_index()}").write_text(f"{result.steps} in {result.processes}")
    (folder / f"stages {process_index()}").write_text(staged(folder))
    if is_main():
        (folder / "done").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
