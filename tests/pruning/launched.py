"""What `test_processes.py` launches in two processes: trainings whose outcome it compares with those of one, and stages.

Weights are float64, so that the sums of two halves and of a whole differ by nothing that Adam could make something of.
"""

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from pruning.config import DensityTarget, FinePruneConfig, TrainConfig
from pruning.fine_pruning import fine_prune
from pruning.masking import Masks
from pruning.processes import from_main, process_count, process_index
from pruning.stages import Stages
from pruning.targets import left_by_density
from pruning.tasks import task_named
from pruning.training import TrainingResult, train
from tests.pruning.helpers import tiny_model, tiny_tokenizer
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.training_helpers import ROWS, features_of, without_dropout

TASK = task_named("text-classification")
STEPS, SAVE_STEPS, CUT_AFTER = 12, 3, 7
SEED = 5
GATES = "gates of"
ACCUMULATED = "l0"
"""The method that is tried with micro-batches, too: it draws noise and has a penalty, and both are once per step."""


def configured(*, rows_per_step: int = 4, accumulation: int = 1, patience: int | None = None) -> TrainConfig:
    """So many steps of so many rows, in however many processes."""
    return TrainConfig(
        epochs=STEPS * rows_per_step / ROWS,
        batch_size=rows_per_step // process_count(),
        accumulation=accumulation,
        learning_rate=1e-3,
        precision="fp32",
        save_steps=SAVE_STEPS,
        patience=patience,
    )


def model_of(*, seed: int = 0) -> PreTrainedModel:
    """Tiny, with sizes that every granularity divides."""
    return without_dropout(tiny_model("bert", TASK.name, layers=2, intermediate=32, seed=seed, dtype=torch.float64))


def fine_pruned(method: str, folder: Path, config: TrainConfig) -> dict[str, Tensor]:
    """Weights and gates after fine-pruning by a method."""
    model, tokenizer = model_of(), tiny_tokenizer()
    gates: dict[str, Tensor] = {}

    def keep(masks: Masks) -> None:
        gates.update({f"{GATES} {each.name}": each.mask.keep.clone() for each in masks.masked})

    settings = FinePruneConfig(
        method=METHODS[method],
        granularity=GRANULARITIES["hybrid"],
        targets=(DensityTarget(density=0.5),),
        score_learning_rate=0.3,
        train=config,
    )
    rows = features_of(TASK, tokenizer)
    fine_prune(model, tokenizer, TASK, rows, settings, left=left_by_density(model), target=0.5, folder=folder, seed=SEED, finished=keep)
    return {**{name: tensor.contiguous() for name, tensor in model.state_dict().items()}, **gates}


def trained(folder: Path, *, seed: int = 0) -> tuple[dict[str, Tensor], TrainingResult]:
    """Weights after a training with dropout, validation and patience, and what it took."""
    model, tokenizer = tiny_model("bert", TASK.name, layers=1, seed=seed), tiny_tokenizer()
    rows = features_of(TASK, tokenizer)
    found = train(model, tokenizer, TASK, rows, configured(patience=3), folder=folder, seed=SEED, validation=rows)
    return model.state_dict(), found


def interrupted_after(steps: int) -> None:
    """Make the Trainer stop, as by Ctrl-C, once it has done that many steps more."""
    original, left = Trainer.training_step, iter(range(steps))

    def step_or_stop(self: Trainer, *arguments: object, **options: object) -> Tensor:
        if next(left, None) is None:
            Trainer.training_step = original
            raise KeyboardInterrupt
        loss: Tensor = original(self, *arguments, **options)
        return loss

    Trainer.training_step = step_or_stop


def resumed(folder: Path) -> dict[str, Tensor]:
    """Weights of a training that was cut short, and run again from other weights than it began with."""
    interrupted_after(CUT_AFTER)
    try:
        trained(folder)
    except KeyboardInterrupt:
        from_main(lambda: shutil.copytree(folder, folder.with_name("left")))
        return trained(folder, seed=9)[0]
    raise AssertionError("it was not interrupted")


def staged(folder: Path) -> str:
    """Two stages, asked for twice; who made them is left in `folder`, and what came of them is returned."""
    records = []
    for name, together in (("together", True), ("alone", False)) * 2:

        def make(output: Path, name: str = name) -> dict[str, int]:
            (folder / f"{name} by {process_index()}").touch(exist_ok=False)
            (output / "made").write_text(str(process_index()))
            return {"by": process_index(), "told": from_main(process_index)}

        records.append(Stages(folder / "run").get(name, {}, make, together=together))
    return " ".join(f"{record.name}:{record.details['by']}:{record.details['told']}:{record.reused}" for record in records)


def main(folder: Path) -> None:
    """All of it; what each process came to is written into `folder`."""
    weights, result = trained(folder / "whole")
    seed = torch.initial_seed()
    found = {
        **{method: fine_pruned(method, folder / method, configured()) for method in METHODS},
        "accumulated": fine_pruned(ACCUMULATED, folder / "accumulated", configured(rows_per_step=ROWS, accumulation=2)),
        "whole": weights,
        "resumed": resumed(folder / "cut"),
    }
    for name, tensors in found.items():
        save_file(tensors, folder / f"{name} {process_index()}.safetensors")
    (folder / f"result {process_index()}").write_text(f"{result.steps} steps in {result.processes} processes, seed {seed}")
    (folder / f"stages {process_index()}").write_text(staged(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
