"""A study: many runs that differ in a few settings of one recipe, each evaluated on validation data, kept in one small ledger.

The ledger holds what every example scored, so that any two runs can be compared example by example, and tables and pictures can be drawn
again without running anything. A run that is in the ledger with the same settings is not done again.
"""

import base64
import copy
import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tqdm import tqdm
from transformers import AutoModel, PreTrainedModel

from pruning import checkpoint
from pruning.bench import StructuralBench
from pruning.config import RECIPES, GenerationTarget, RunConfig, SpeedupTarget, apply_override, chosen, parse_config
from pruning.errors import ConfigError, DataError
from pruning.generation_bench import GenerationBench
from pruning.latency import Condition
from pruning.metrics import Interval, Scores, difference_interval, interval
from pruning.pipeline import pruned_models
from pruning.results import HEADLINES, layers_of, score
from pruning.run import Run, data_identity, model_identity
from pruning.shrinking import shrunk
from pruning.stages import Stages
from pruning.stages.artifacts import export_stage
from pruning.stages.compaction import compact_stage, reduce_vocabulary
from pruning.stages.dense import train_dense
from pruning.stages.recovery import recover
from pruning.storage import write_text_atomic
from pruning.targets import condition_of
from pruning.tasks import task_named
from pruning.timing import Ratio
from pruning.warm_start import encoder_decoder
from service.artifact import GENERATING_TASKS, LayerShape, Precision, read_manifest
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)

DENSE = "dense"
PRECISION = 10_000
"""What an example scored is kept in ten-thousandths."""


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


class Measured(_Part):
    """A structural speed-up, measured end to end on models with random weights."""

    value: float
    low: float
    high: float
    precision: Precision
    tokens: int = Field(description="In the row, or in the source.")
    target_length: int = Field(default=0, description="Tokens that were generated; 0 by an encoder alone.")


class Entry(_Part):
    """What one run came to."""

    name: str
    claims: tuple[str, ...] = ()
    settings: str = Field(description="What the recipe sets, as JSON; a run is done again when it changes.")
    made_from: str = Field(default="", description="Stands for the data, the model and its teachers; a run is done again when it changes.")
    dataset: str
    metric: str
    scores: str = Field(description="What each example scored: 16-bit ten-thousandths, deflated, in base 64.")
    density: float = Field(description="Share of the encoder's linear weights that are not zero.")
    left: float = Field(description="Share of what the target counts that is left.")
    speedup: float | None = Field(description="Structural speed-up that the latency table predicts; none without a target of that kind.")
    measured: Measured | None = Field(default=None, description="Structural speed-up of the shapes, once it was measured.")
    layers: tuple[LayerShape, ...]
    steps: int
    seconds: float
    peak_memory_bytes: int
    cpu: str

    @property
    def per_example(self) -> Scores:
        """What each example scored, between 0 and 1."""
        packed = np.frombuffer(zlib.decompress(base64.b64decode(self.scores)), dtype="<u2")
        return Scores(packed / PRECISION, np.ones(len(packed)))

    @property
    def value(self) -> Interval:
        """The metric in percent, with its interval."""
        return interval(self.per_example)

    def minus(self, other: "Entry") -> Interval:
        """The paired difference in points, with its interval; `DataError` when the two were scored on other examples."""
        if (self.dataset, self.metric) != (other.dataset, other.metric):
            raise DataError(f"{self.name} was scored by {self.metric} on {self.dataset}, {other.name} by {other.metric} on {other.dataset}")
        return difference_interval(self.per_example, other.per_example)


class Ledger(_Part):
    """All runs of a study that are done."""

    entries: tuple[Entry, ...] = ()

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Read a ledger; an empty one where there is no file yet."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise DataError(f"{path}: not a ledger of a study ({str(error).splitlines()[0]})") from None

    def save(self, path: Path) -> None:
        """Write it, one line a run, in one step."""
        lines = ",\n".join(f"  {entry.model_dump_json()}" for entry in self.entries)
        write_text_atomic(path, f'{{"entries": [\n{lines}\n]}}\n')

    def find(self, name: str) -> Entry | None:
        """The run of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    def having(self, entry: Entry) -> "Ledger":
        """With this run, in the place of an earlier one of its name, or at the end."""
        if self.find(entry.name) is None:
            return Ledger(entries=(*self.entries, entry))
        return Ledger(entries=tuple(entry if each.name == entry.name else each for each in self.entries))


def load_study(path: Path) -> Study:
    """Read a study by path, or by the name of one that ships; every problem is one line."""
    shipped = RECIPES / "studies" / f"{path}.yaml"
    path = shipped if shipped.is_file() and not path.is_file() else path
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
        ledger_path: read first, and written after each run.
        only: names or claims to which to keep; all runs by default.
    """
    ledger = Ledger.load(ledger_path)
    for run in study.runs:
        if only and run.name not in only and not set(run.claims) & set(only):
            continue
        config = study.config_of(run)
        current = Run(config, Stages(folder / run.group))
        settings, made_from = json.dumps(chosen(config)), _identity(current)
        found = ledger.find(run.name)
        if found is not None and (found.settings, found.made_from) == (settings, made_from):
            continue
        logger.info("run=%s", run.name)
        entry = _entry(run, current).model_copy(update={"settings": settings, "made_from": made_from})
        ledger = ledger.having(entry)
        ledger.save(ledger_path)
        logger.info("run=%s %s %.2f", run.name, entry.metric, entry.value.value)
    return ledger


def as_table(ledger: Ledger, *, against: str = DENSE) -> str:
    """The runs as a markdown table, each with its paired difference from the one that is called `against`, if there is that."""
    reference = ledger.find(against)
    lines = [
        f"| run | density | heads, neurons left | speed-up | {_metrics(ledger)} | against {against} | time | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in ledger.entries:
        difference = "" if reference is None or entry is reference else _spread(entry.minus(reference), "+.2f")
        cells = (
            entry.name,
            f"{entry.density:.3f}",
            f"{sum(layer.heads for layer in entry.layers)}, {sum(layer.intermediate for layer in entry.layers)}",
            _speed(entry),
            _spread(entry.value, ".2f"),
            difference,
            f"{entry.seconds / 60:.0f} min",
            f"{entry.peak_memory_bytes / 1e9:.1f} GB",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _metrics(ledger: Ledger) -> str:
    return ", ".join(sorted({f"{entry.metric} on {entry.dataset}" for entry in ledger.entries}))


def _speed(entry: Entry) -> str:
    if entry.measured is not None:
        return f"{entry.measured.value:.2f}x ({entry.measured.low:.2f} to {entry.measured.high:.2f})"
    return f"{entry.speedup:.2f}x predicted" if entry.speedup else ""


def _spread(found: Interval, form: str) -> str:
    return f"{found.value:{form}} ({found.low:{form}} to {found.high:{form}})"


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
    pruning = hashlib.sha256(json.dumps([chosen(part) for part in _pruning(current.config)]).encode()).hexdigest()[:12]
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
        scores=_packed(evaluation.scores[metric]),
        density=manifest.density if current.config.recover and current.config.recover.fill else details.get("density", manifest.density),
        left=details.get("left", 1 / predicted if predicted else manifest.density),
        speedup=predicted,
        layers=layers_of(manifest),
        steps=sum(training["steps"] for training in trainings),
        seconds=sum(training["seconds"] for training in trainings),
        peak_memory_bytes=max((training["peak_memory_bytes"] for training in trainings), default=0),
        cpu=machine().cpu,
    )


def _pruning(config: RunConfig) -> list[BaseModel]:
    return [part for part in (config.prune, config.fine_prune) if part is not None]


def measure(ledger: Ledger, study: Study) -> Ledger:
    """The structural speed-up of every run's shapes, end to end, where the ledger does not have it yet: for a quiet machine."""
    time = _generation_times(study) if study.config_of(study.runs[0]).task in GENERATING_TASKS else _row_times(study)
    for entry in tqdm(ledger.entries, desc="speed", unit="run"):
        if entry.measured is None:
            ledger = ledger.having(entry.model_copy(update={"measured": time(entry)}))
    return ledger


def _row_times(study: Study) -> Callable[[Entry], Measured]:
    """Measures a row of tokens, as the study's first target of that kind says."""
    first = study.config_of(study.runs[0])
    targets = [target for run in study.runs for target in study.config_of(run).targets if isinstance(target, SpeedupTarget)]
    target = next(iter(targets), SpeedupTarget(speedup=2.0, sequence_length=first.evaluate.sequence_lengths[0]))
    condition = Condition(precision=target.precision, sequence_length=target.sequence_length, runtime=target.runtime)
    bench = StructuralBench(_pretrained(first), first.task, condition)
    return lambda entry: _measured(bench.speedup(entry.layers), target.precision, target.sequence_length)


def _generation_times(study: Study) -> Callable[[Entry], Measured]:
    """The same of generation; each run's model has the layers and the tokens to choose from that its recipe says."""
    configs = {run.name: study.config_of(run) for run in study.runs}
    first = next(iter(configs.values()))
    targets = [target for config in configs.values() for target in config.targets if isinstance(target, GenerationTarget)]
    default = GenerationTarget(speedup=2.0, source_length=first.evaluate.sequence_lengths[0], target_length=first.target_length)
    target = next(iter(targets), default)
    condition, model = condition_of(target), _pretrained(first)

    @cache
    def bench(encoder_layers: int | None, decoder_layers: int | None, outputs: int | None) -> GenerationBench:
        return GenerationBench(shrunk(model, encoder_layers=encoder_layers, decoder_layers=decoder_layers), condition, outputs=outputs)

    def time(entry: Entry) -> Measured:
        config = configs.get(entry.name, first)
        is_pruned = bool(_pruning(config))
        shrink = config.shrink if is_pruned else None
        layers = (None, None) if shrink is None else (shrink.encoder_layers, shrink.decoder_layers)
        outputs = config.vocabulary.keep if config.vocabulary is not None and is_pruned else None
        return _measured(bench(*layers, outputs).speedup(entry.layers), target.precision, target.source_length, target.target_length)

    return time


def _measured(ratio: Ratio, precision: Precision, tokens: int, target_length: int = 0) -> Measured:
    return Measured(value=ratio.value, low=ratio.low, high=ratio.high, precision=precision, tokens=tokens, target_length=target_length)


def _pretrained(config: RunConfig) -> PreTrainedModel:
    """The model that a recipe starts from, whose weights are not looked at."""
    if config.warm_start is None:
        return checkpoint.load(config.model, auto_class=task_named(config.task).auto_class, new_head=True)
    encoder, tokenizer = checkpoint.load(config.model, auto_class=AutoModel), checkpoint.load_tokenizer(config.model)
    return encoder_decoder(encoder, tokenizer, decoder_layers=config.warm_start.decoder_layers)


def _packed(scores: Scores) -> str:
    values = np.round(PRECISION * scores.numerator / np.maximum(scores.denominator, 1)).astype("<u2")
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()
