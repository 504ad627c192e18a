"""A run, top to bottom: dense model -> importance -> for each target prune, compact, recover -> artifacts -> evaluation -> report.

Every stage's output is kept under the run's folder and used again when nothing it depends on has changed; a run that was interrupted
goes on where it stopped. `run` is the whole of it; its stages are in `stages/`, and the command line offers some of them one by one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pruning.config import RunConfig, Target, dump_config
from pruning.errors import ConfigError
from pruning.processes import from_main
from pruning.report import RunReport
from pruning.results import FinishedTarget, report_on
from pruning.run import Run
from pruning.run_latency import asked_decoding
from pruning.stages import StageRecord, Stages
from pruning.stages.artifacts import make_artifacts
from pruning.stages.checks import check_recipe
from pruning.stages.compaction import compact_stage, reduce_vocabulary
from pruning.stages.dense import train_dense
from pruning.stages.fine_pruning import fine_prune_to
from pruning.stages.post_training import measure_importance, prune_to
from pruning.stages.recovery import recover
from pruning.storage import write_text_atomic


def run(config: RunConfig, folder: Path) -> RunReport:
    """All of it; returns what the report in `folder/report` says.

    Raises:
        ConfigError: targets that cannot be measured in one run, or another fault of the recipe; before anything is trained.
        UnreachableTargetError: a target that nothing reaches; before anything is trained.
    """
    asked_decoding(config)
    current = Run(config, Stages(folder))
    from_main(lambda: write_text_atomic(folder / "recipe.yaml", dump_config(config)))
    check_recipe(current)
    dense = train_dense(current)
    artifacts = make_artifacts(current, "dense", dense, parent=None)
    finished = [finish(current, pruned, artifacts[0]) for pruned in pruned_models(current, artifacts[0])]
    return from_main(lambda: report_on(current, artifacts, finished))


@dataclass(frozen=True)
class Pruned:
    """A masked model.

    Attributes:
        label: Names it in folders.
        target: What was asked for; None for a method that was left to its own penalty or density.
        masked: The stage that made it.
    """

    label: str
    target: Target | None
    masked: StageRecord


def pruned_models(current: Run, dense: StageRecord, *, label: str | None = None) -> Iterator[Pruned]:
    """The masked model of each target, made as they are asked for: with no training, or while training.

    `label` names the folder of a run that is one of several in it; it has one target.
    """
    config = current.config
    if config.prune is not None:
        importance = measure_importance(current, dense, config.prune)
        for target in config.prune.targets:
            yield Pruned(target.label, target, prune_to(current, target, dense, importance, config.prune))
    elif config.fine_prune is not None:
        for wanted in config.fine_prune.targets or (None,):
            name = label or (wanted.label if wanted else config.fine_prune.label)
            yield Pruned(name, wanted, fine_prune_to(current, name, wanted, dense, config.fine_prune))


def finish(current: Run, pruned: Pruned, dense: StageRecord) -> FinishedTarget:
    """From a masked model to artifacts: compact, recovered, exported, quantized."""
    small = compact_stage(current, pruned.label, pruned.masked)
    if current.config.vocabulary is not None:
        small = reduce_vocabulary(current, pruned.label, small, keep=current.config.vocabulary.keep)
    before = None
    if current.config.recover is not None:
        before = make_artifacts(current, f"{pruned.label}/before-recovery", small, parent=dense)
        small = recover(current, pruned.label, small, dense)
    pair = make_artifacts(current, pruned.label, small, parent=dense)
    return FinishedTarget(pruned.target, pruned.masked, pair, before)


def prune_all(current: Run) -> list[StageRecord]:
    """The masked model of each target, and nothing behind it.

    Raises:
        ConfigError: the recipe does not prune.
    """
    if current.config.prune is None and current.config.fine_prune is None:
        raise ConfigError("the recipe has no `prune` and no `fine_prune` section: nothing says what to prune to")
    check_recipe(current)
    return [pruned.masked for pruned in pruned_models(current, train_dense(current))]
