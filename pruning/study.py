"""A study: many runs that differ in a few settings of one recipe, each evaluated on validation data, kept in one small ledger.

A run that is in the ledger with the same settings is not done again.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruning.config import RECIPES, RunConfig, apply_override, chosen, parse_config
from pruning.errors import ConfigError
from pruning.ledger import DENSE, Entry, Ledger, packed
from pruning.pipeline import pruned_models
from pruning.results import layers_of
from pruning.run import Run, data_identity, model_identity
from pruning.scoring import HEADLINES, score
from pruning.stages import Stages
from pruning.stages.artifacts import export_stage
from pruning.stages.checks import check_recipe
from pruning.stages.compaction import compact_stage, reduce_vocabulary
from pruning.stages.dense import train_dense
from pruning.stages.recovery import recover
from service.artifact import read_manifest
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyRun(_Part):
    """One run of a study."""

    name: str = Field(description="Names it in tables, and its folder.")
    claims: tuple[str, ...] = Field(default=(), description="What it is evidence for.")
    overrides: tuple[str, ...] = Field(default=(), alias="set", description="Overrides of the recipe, `key.path=value`.")
    group: str = Field(default="runs", description="Runs that share a dense model share a group.")


class Study(_Part):
    """A recipe, and what each run changes in it."""

    recipe: dict[str, Any] = Field(description="A recipe, as in a file of its own.")
    runs: tuple[StudyRun, ...] = Field(min_length=1, description="The runs, in the order in which they are done.")

    def config_of(self, run: StudyRun) -> RunConfig:
        """The recipe of one run."""
        content = copy.deepcopy(self.recipe)
        for override in run.overrides:
            apply_override(content, override)
        return parse_config(content, origin=f"run {run.name!r}")


def load_study(path: Path) -> Study:
    """Read a study by path, or by the name of one that ships; every problem is one line."""
    shipped = RECIPES / "studies" / f"{path}.yaml"
    path = shipped if shipped.is_file() and not path.is_file() else path
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in shipped.parent.glob("*.yaml")))
        raise ConfigError(f"no study {str(path)!r}: give a YAML file, or one of: {known}")
    try:
        study = Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable study ({str(error).splitlines()[0]})") from None
    names = [run.name for run in study.runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two runs have the same name; give each its own")
    for run in study.runs:
        study.config_of(run)
    return study


def run_study(study: Study, folder: Path, ledger_path: Path, *, only: Sequence[str] = ()) -> Ledger:
    """Do the runs that the ledger does not have; each is written into it when it is done.

    Args:
        study: what to run.
        folder: of the runs' stages; what was interrupted resumes.
        ledger_path: read before, and written after each run, so that several processes may share it, each with runs of its own.
        only: names or claims to which to keep; all runs by default.

    Raises:
        ConfigError: `only` has what is neither.
    """
    order = [run.name for run in study.runs]
    known = {*order, *(claim for run in study.runs for claim in run.claims)}
    if unknown := [each for each in only if each not in known]:
        raise ConfigError(f"no run and no claim {unknown[0]!r} in the study: it has {', '.join(map(repr, sorted(known)))}")
    for run in study.runs:
        if only and run.name not in only and not set(run.claims) & set(only):
            continue
        config = study.config_of(run)
        current = Run(config, Stages(folder / run.group))
        settings, made_from = json.dumps(chosen(config)), _identity(current)
        found = Ledger.load(ledger_path).find(run.name)
        if found is not None and (found.settings, found.made_from) == (settings, made_from):
            continue
        logger.info("run=%s", run.name)
        entry = _entry(run, current).model_copy(update={"settings": settings, "made_from": made_from})
        Ledger.add(ledger_path, entry, order)
        logger.info("run=%s %s %.2f", run.name, entry.metric, entry.value.value)
    return Ledger.load(ledger_path)


def pruning_of(config: RunConfig) -> list[BaseModel]:
    """What a recipe says of pruning, with or without training; nothing of a dense model."""
    return [part for part in (config.prune, config.fine_prune) if part is not None]


def _identity(current: Run) -> str:
    """What a run is made from beside its settings, in a few letters."""
    config = current.config
    trainings = (*config.train, config.recover, config.fine_prune and config.fine_prune.train)
    teachers = {each.distillation.teacher for each in trainings if each and each.distillation} - {"dense"}
    parts = (
        data_identity((*config.data.train, *config.data.validation)),
        *(model_identity(each) for each in (config.model, *sorted(teachers))),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _entry(run: StudyRun, current: Run) -> Entry:
    """Do one run; the caller adds what it was made from."""
    label = "".join(letter if letter.isalnum() else "-" for letter in run.name)
    pruning = hashlib.sha256(json.dumps([chosen(part) for part in pruning_of(current.config)]).encode()).hexdigest()[:12]
    check_recipe(current)
    dense = train_dense(current)
    exported = reference = export_stage(current, DENSE, dense, parent=None)
    trainings = list(dense.details["training"])
    details: dict[str, Any] = {"predicted": None}
    pruned = next(pruned_models(current, dense, label=pruning), None)  # runs that differ in what comes afterwards share it
    if pruned is not None:
        details = pruned.masked.details
        trainings = [details["training"]] if "training" in details else []
        small = compact_stage(current, pruned.label, pruned.masked)
        if current.config.vocabulary is not None:
            small = reduce_vocabulary(current, pruned.label, small, keep=current.config.vocabulary.keep)
        if current.config.recover is not None:
            small = recover(current, label, small, dense)
            trainings.append(small.details["training"])
        exported = export_stage(current, label, small, parent=reference)
    manifest = read_manifest(current.stages.path(exported.name))
    evaluation = next(iter(score(current, exported).values()))
    metric, predicted = HEADLINES[current.config.task], details["predicted"]
    return Entry(
        name=run.name,
        claims=run.claims,
        settings="",
        dataset=f"{evaluation.dataset} {evaluation.split}",
        metric=metric,
        scores=packed(evaluation.scores[metric]),
        density=manifest.density if current.config.recover and current.config.recover.fill else details.get("density", manifest.density),
        left=details.get("left", 1 / predicted if predicted else manifest.density),
        speedup=predicted,
        layers=layers_of(manifest),
        steps=sum(training["steps"] for training in trainings),
        seconds=sum(training["seconds"] for training in trainings),
        peak_memory_bytes=max((training["peak_memory_bytes"] for training in trainings), default=0),
        cpu=machine().cpu,
    )
