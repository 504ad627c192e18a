"""Finished runs side by side, read from their reports: how each pruned, what it left, how fast that is, what it scores."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pruning.config import BlockSize, RunConfig
from pruning.errors import ConfigError
from pruning.report import Headline, RunReport, SpeedupKind, TargetReport, aligned, metric_name, read_report
from service.artifact import Latency, Metric, Precision, TaskName

UNKNOWN = "not stated"
_ORDER = {"element": 1.0, "row": 1e6, "column": 1e6, "head": 1e9, "neuron": 1e9}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ComparedTarget(_Part):
    """One pruned model of a run, as it is served."""

    asked: str = Field(description="The target in a few characters.")
    weights_left: float = Field(ge=0, le=1, description="Encoder linear weights that were not pruned over those of the dense model.")
    precision: Precision = Field(description="Of the artifact that is compared.")
    sequence_length: int | None = Field(description="Length that the target names.")
    score: Metric | None = Field(description="The headline's score, with its paired difference from the run's dense model.")
    latency: tuple[Latency, ...] = Field(description="Its measured speed-ups.")

    def measured(self, kind: SpeedupKind, sequence_length: int | None = None) -> Latency | None:
        """Its speed-up at this length, by default at the target's own; the first one where neither names one. None if not measured."""
        wanted = sequence_length or self.sequence_length
        return next((each for each in self.latency if each.kind == kind and wanted in (None, each.sequence_length)), None)


class ComparedRun(_Part):
    """One run."""

    name: str = Field(description="Tells it from the other runs.")
    method: str = Field(description="How it pruned.")
    attention: str = Field(description="What was pruned as one in attention: element, 32x32, row, column, head.")
    feed_forward: str = Field(description="The same of the feed-forward.")
    dense: Metric | None = Field(description="The headline's score of its dense model.")
    targets: tuple[ComparedTarget, ...] = Field(description="Its pruned models.")

    @property
    def granularity(self) -> str:
        """What was pruned as one, in a few characters."""
        return " / ".join(dict.fromkeys((self.attention, self.feed_forward)))

    @property
    def coarseness(self) -> tuple[float, float]:
        """Sorts granularities from single weights to whole heads and neurons."""
        return _coarseness(self.attention), _coarseness(self.feed_forward)


class Comparison(_Part):
    """Everything that the page says; also its JSON."""

    task: TaskName = Field(description="The task of all runs.")
    headline: Headline = Field(description="The score that they are compared by.")
    runs: tuple[ComparedRun, ...] = Field(min_length=1, description="In the order given.")
    notes: tuple[str, ...] = Field(default=(), description="What a reader must know.")

    @property
    def metric(self) -> str:
        """The score's name as people write it."""
        return metric_name(self.headline.metric)

    @property
    def dense(self) -> tuple[tuple[str, Metric], ...]:
        """Scores of the dense models, those of equal ones once, each with the names of its runs, or none if it is that of all."""
        names: dict[tuple[float, float, float], list[str]] = {}
        scores: dict[tuple[float, float, float], Metric] = {}
        for run in self.runs:
            if run.dense:
                key = (run.dense.value, run.dense.low, run.dense.high)
                names.setdefault(key, []).append(run.name)
                scores.setdefault(key, run.dense)
        return tuple(("" if len(scores) == 1 else ", ".join(names[key]), metric) for key, metric in scores.items())


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read the reports of finished runs and put them side by side.

    Raises:
        DataError: a folder has no report.
        ConfigError: the runs are of several tasks, or their scores are on several datasets.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    reports = [read_report(folder / "report") for folder in distinct]
    _check_comparable(distinct, reports)
    names = _names(distinct, reports)
    return Comparison(
        task=reports[0].task,
        headline=reports[0].headline,
        runs=tuple(_compared(name, report) for name, report in zip(names, reports, strict=True)),
        notes=tuple(_notes(names, reports)),
    )


def to_text(comparison: Comparison) -> str:
    """The table, for a terminal."""
    headline = comparison.headline
    score = _printable(f"{comparison.metric}, {headline.dataset} {headline.split}")
    header = ("run", "asked", "method", "granularity", "left", "structural", "total", score, "against dense")
    dense = [(name, "dense", "", "", "", "", "", _with_interval(metric), "") for name, metric in comparison.dense]
    pruned = [_cells(run, target) for run in comparison.runs for target in run.targets]
    return "\n".join([*aligned([header, *dense, *pruned]), *(f"\n{note}" for note in comparison.notes)])


def _check_comparable(folders: Sequence[Path], reports: Sequence[RunReport]) -> None:
    first = reports[0]
    for folder, report in zip(folders, reports, strict=True):
        if report.task != first.task:
            raise ConfigError(f"{folders[0]} is a run of {first.task}, {folder} of {report.task}; compare runs of one task")
        if report.headline != first.headline:
            mine, other = (f"{each.metric} on {each.dataset} {each.split}" for each in (first.headline, report.headline))
            raise ConfigError(f"{folders[0]} is scored by {mine}, {folder} by {other}; compare runs with one validation set")


def _names(folders: Sequence[Path], reports: Sequence[RunReport]) -> list[str]:
    """The runs' names, told apart by their folders where need be."""
    plain = [_printable(report.run) for report in reports]
    with_folder = [f"{name} ({folder.resolve().name})" for name, folder in zip(plain, folders, strict=True)]
    candidates = (plain, with_folder, [str(folder) for folder in folders])
    return next((names for names in candidates if len(set(names)) == len(names)), candidates[-1])


def _printable(text: str) -> str:
    """On one line, without what acts on a terminal."""
    return "".join(each if each.isprintable() else " " for each in text)


def _notes(names: Sequence[str], reports: Sequence[RunReport]) -> Iterator[str]:
    machines = {f"{report.machine.cpu}, {report.machine.runtime}": None for report in reports}
    if len(machines) > 1:
        yield f"Speed-ups were measured on several machines ({'; '.join(machines)}): each is over its own run's dense model there."
    for name, report in zip(names, reports, strict=True):
        yield from (f"{name}: {_printable(note)}" for note in report.notes)


def _compared(name: str, report: RunReport) -> ComparedRun:
    config = _recipe(report)
    method, attention, feed_forward = _how(config)
    return ComparedRun(
        name=name,
        method=method,
        attention=attention,
        feed_forward=feed_forward,
        dense=report.headline.among(report.dense.variants[0].metrics),
        targets=tuple(_compared_target(report, target, config) for target in report.targets),
    )


def _recipe(report: RunReport) -> RunConfig | None:
    """The run's recipe; None if this version cannot read it."""
    try:
        return RunConfig.model_validate(yaml.safe_load(report.recipe))
    except (yaml.YAMLError, ValidationError):
        return None


def _how(config: RunConfig | None) -> tuple[str, str, str]:
    """Method, and what was pruned as one in attention and in the feed-forward."""
    if config is not None and config.fine_prune is not None:
        method, groups = config.fine_prune.method, config.fine_prune.granularity
        scope = ", global" if getattr(method, "scope", "local") == "global" else ""
        return method.name.replace("_", " ") + scope, _group(groups.attention), _group(groups.feed_forward)
    if config is not None and config.prune is not None:
        return "no training", "head", "neuron"
    return UNKNOWN, UNKNOWN, UNKNOWN


def _group(group: str | BlockSize | None) -> str:
    if isinstance(group, BlockSize):
        return f"{group.rows}x{group.columns}"
    return group or "nothing"


def _coarseness(group: str) -> float:
    rows, _, columns = group.partition("x")
    return float(rows) * float(columns) if columns.isdigit() else _ORDER.get(group, 0.0)


def _compared_target(report: RunReport, target: TargetReport, config: RunConfig | None) -> ComparedTarget:
    filled = config is not None and config.recover is not None and config.recover.fill
    masked = 1.0 if target.masks is None or filled else 1 - target.masks.pruned / report.dense.parameters.encoder
    return ComparedTarget(
        asked=target.asked,
        weights_left=min(target.density, max(masked, 0.0)),
        precision=target.served.precision,
        sequence_length=target.sequence_length,
        score=report.headline.among(target.served.metrics),
        latency=target.served.latency,
    )


def _cells(run: ComparedRun, target: ComparedTarget) -> tuple[str, ...]:
    structural, total = target.measured("structural"), target.measured("total")
    difference = target.score.difference if target.score else None
    return (
        run.name,
        target.asked,
        run.method,
        run.granularity,
        f"{100 * target.weights_left:.1f} %",
        f"{structural.speedup:.2f}x in {target.precision}" if structural else "",
        f"{total.speedup:.2f}x at {total.sequence_length}" if total else "",
        _with_interval(target.score) if target.score else "",
        f"{difference.value:+.2f} ({difference.low:+.2f} to {difference.high:+.2f})" if difference else "",
    )


def _with_interval(metric: Metric) -> str:
    return f"{metric.value:.2f} ({metric.low:.2f} to {metric.high:.2f})"
