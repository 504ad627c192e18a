"""One page per run: what was asked, what it won, what it cost; as JSON, as markdown, and as one HTML file that needs no network.

`RunReport` is what the pipeline fills in; it is also the JSON. The page opens with one sentence, then a table, then pictures. Wherever a
speed-up stands, it says of which kind: *structural* is over the dense model in the same precision, *total* is over dense fp32.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pruning.config import DensityTarget, GenerationTarget, MacsTarget, ParametersTarget, SpeedupTarget, Target
from pruning.errors import DataError
from pruning.mask_summary import MaskSummary
from pruning.metrics import Interval
from pruning.pictures import Picture, mask_pictures
from pruning.plots import Prediction, TradeOff, layers_left, predicted_and_measured, sizes, trade_off
from pruning.storage import write_text_atomic
from service.artifact import Counts, Latency, LayerShape, Machine, Macs, Metric, Precision, TaskName, Variant

HTML_NAME, MARKDOWN_NAME, JSON_NAME = "report.html", "report.md", "report.json"
SpeedupKind = Literal["structural", "total"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageReport(_Part):
    """What one stage of the run took."""

    name: str = Field(description="train, prune, recover speedup-1.5-int8-128, …")
    seconds: float = Field(ge=0, description="Wall-clock time.")
    peak_memory_bytes: int | None = Field(default=None, ge=0, description="Highest resident memory of the process; none if not known.")
    reused: bool = Field(default=False, description="Whether an earlier run's output was used; the time is then that run's.")


class VariantReport(_Part):
    """One artifact: a model in one precision."""

    artifact: str = Field(description="`<name>/<variant>`; names it in differences and references.")
    variant: Variant = Field(description="Which of the model's variants this is.")
    precision: Precision = Field(description="Arithmetic of the linear layers.")
    size_bytes: int = Field(gt=0, description="Size of what serves it: graph, weights, tokenizer.")
    metrics: tuple[Metric, ...] = Field(default=(), description="Accuracy, with the paired difference against dense.")
    latency: tuple[Latency, ...] = Field(default=(), description="Measured latency, structural and total, at each length.")

    def measured(self, kind: SpeedupKind, sequence_length: int | None = None) -> Latency | None:
        """The measured speed-up of this kind at this length (the first one at any length without it); None if not measured."""
        fitting = [each for each in self.latency if each.kind == kind and sequence_length in (None, each.sequence_length)]
        return fitting[0] if fitting else None


class ModelReport(_Part):
    """The dense model, or a pruned one, in all of its variants."""

    parameters: Counts = Field(description="Parameters.")
    macs: Macs = Field(description="Multiply-accumulates for one row.")
    density: float = Field(ge=0, le=1, description="Linear weights of the layers left over those of the dense model.")
    layers: tuple[LayerShape, ...] = Field(min_length=1, description="What is left of each of the dense model's layers.")
    variants: tuple[VariantReport, ...] = Field(min_length=1, description="Its artifacts.")

    def variant(self, precision: Precision) -> VariantReport:
        """Its artifact in this precision; the first one if there is none."""
        return next((each for each in self.variants if each.precision == precision), self.variants[0])


class TargetReport(ModelReport):
    """What became of one target of the run."""

    target: Target | None = Field(description="What was asked for; none for a method that was left to its own penalty or density.")
    predicted_speedup: float | None = Field(default=None, gt=0, description="Structural speed-up that the latency table predicted.")
    before_recovery: tuple[Metric, ...] = Field(
        default=(), description="What the artifact in the target's precision scored before recovery training; empty if there was none."
    )
    masks: MaskSummary | None = Field(default=None, description="What fine-pruning left of each matrix; none without it.")

    @property
    def asked(self) -> str:
        """The target in a few characters: 1.5x, 40 % of the weights, 40 % of the MACs."""
        match self.target:
            case SpeedupTarget() | GenerationTarget():
                return f"{self.target.speedup:g}x"
            case DensityTarget():
                return f"{100 * self.target.density:g} % of the weights"
            case MacsTarget():
                return f"{100 * self.target.macs:g} % of the MACs"
            case ParametersTarget():
                return f"{100 * self.target.parameters:g} % of the parameters"
            case None:
                return "fine-pruned"

    @property
    def precision(self) -> Precision:
        """The precision that it is for: the target's own, or int8 where it names none."""
        return self.target.precision if isinstance(self.target, SpeedupTarget | GenerationTarget) else "int8"

    @property
    def sequence_length(self) -> int | None:
        """The length that it is for; none where it names none."""
        return length_of(self.target)

    @property
    def served(self) -> VariantReport:
        """The artifact in the precision that it is for."""
        return self.variant(self.precision)

    def measured(self, kind: SpeedupKind) -> Latency | None:
        """The measured speed-up of the served artifact, at the target's own length; None if not measured."""
        return self.served.measured(kind, self.sequence_length)


class Headline(_Part):
    """The one score that the page is about."""

    metric: str = Field(description="accuracy, f1, …")
    dataset: str = Field(description="Name of the dataset.")
    split: str = Field(description="Split of the dataset.")

    def among(self, metrics: Sequence[Metric]) -> Metric | None:
        """This score among others; None if it is not there."""
        wanted = (self.metric, self.dataset, self.split)
        return next((each for each in metrics if (each.name, each.dataset, each.split) == wanted), None)


class RunReport(_Part):
    """Everything that the page of one run says."""

    run: str = Field(description="Name of the run.")
    task: TaskName = Field(description="The task, by its standard name.")
    date: datetime = Field(description="When it finished.")
    producer: str = Field(description="`secateur <version>`.")
    machine: Machine = Field(description="Where everything was measured.")
    recipe: str = Field(description="The resolved recipe, as YAML.")
    headline: Headline = Field(description="The score that the page is about.")
    dense: ModelReport = Field(description="The model before pruning; its first variant is dense fp32.")
    targets: tuple[TargetReport, ...] = Field(default=(), description="One for each target of the run, in the order asked.")
    chosen: int | None = Field(default=None, ge=0, description="Position of the target that the first sentence is about; none: see `best`.")
    tolerated_loss: float = Field(default=1.0, ge=0, description="Points that a target may lose and still be the best one.")
    stages: tuple[StageReport, ...] = Field(default=(), description="What each stage took, in order.")
    notes: tuple[str, ...] = Field(default=(), description="What a reader must know: a smoke sample, for example.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunReport":
        if self.chosen is not None and self.chosen >= len(self.targets):
            raise ValueError(f"`chosen` is {self.chosen}, and there are {len(self.targets)} targets")
        for each in self.targets:
            if len(each.layers) != len(self.dense.layers):
                raise ValueError(
                    f"a target has {len(each.layers)} layers, and dense {len(self.dense.layers)}; a removed layer is one of zeros"
                )
        return self

    @property
    def best(self) -> TargetReport | None:
        """The chosen target; else the fastest that lost no more than is tolerated; else the one that lost least."""
        if self.chosen is not None:
            return self.targets[self.chosen]
        tolerated = [each for each in self.targets if self._lost(each) <= self.tolerated_loss]
        if tolerated:
            return max(tolerated, key=_speed)
        return min(self.targets, key=self._lost, default=None)

    def name_of(self, target: TargetReport) -> str:
        """What a target is called in tables and pictures: precision and length are said where the run's targets differ in them."""
        settings = {(each.precision, each.sequence_length) for each in self.targets}
        if len(settings) == 1:
            return target.asked
        length = f" {target.sequence_length}" if target.sequence_length else ""
        return f"{target.asked} {target.precision}{length}"

    def _lost(self, target: TargetReport) -> float:
        metric = self.headline.among(target.served.metrics)
        return -metric.difference.value if metric and metric.difference else math.inf


def length_of(target: Target | None) -> int | None:
    """Tokens in the row, or in the source, that a target is for; None where it names none."""
    match target:
        case SpeedupTarget() | MacsTarget():
            return target.sequence_length
        case GenerationTarget():
            return target.source_length
    return None


class Story(NamedTuple):
    """The pictures of one target, and whether they are shown at once."""

    name: str
    shown: bool
    pictures: tuple[Picture, ...]


class Row(NamedTuple):
    """One row of the page's first table."""

    name: str
    artifact: VariantReport
    model: ModelReport
    metric: Metric | None
    structural: Latency | None
    total: Latency | None
    predicted: float | None
    best: bool


def write_report(report: RunReport, folder: Path) -> Path:
    """Write the page as HTML, markdown and JSON into `folder`, each in one step; returns the HTML file's path.

    Raises:
        StorageError: a file cannot be written.
    """
    texts = {JSON_NAME: report.model_dump_json(indent=1) + "\n", MARKDOWN_NAME: to_markdown(report), HTML_NAME: to_html(report)}
    for name, text in texts.items():
        write_text_atomic(folder / name, text)
    return folder / HTML_NAME


def to_html(report: RunReport) -> str:
    """The page as one HTML file: styles and pictures are inside, and nothing is fetched."""
    return _render("report.html.j2", report, layers=layer_pictures(report), curves=curve_pictures(report), masks=mask_stories(report))


def to_markdown(report: RunReport) -> str:
    """The page as markdown, with tables in place of pictures."""
    return _render("report.md.j2", report)


def to_text(report: RunReport) -> str:
    """The first table and sentence, for a terminal."""
    header = ("", "artifact", "asked", _score_name(report), "lost", "structural", "predicted", "total", "size")
    table = aligned([header, *(_cells(row) for row in rows(report))])
    return "\n".join([*table, "", _capital(summary(report)), *report.notes])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, cells padded to the widest of their column."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _score_name(report: RunReport) -> str:
    return f"{metric_name(report.headline.metric)}, {report.headline.dataset} {report.headline.split}"


def _cells(row: Row) -> tuple[str, ...]:
    metric, structural, total = row.metric, row.structural, row.total
    lost = metric.difference if metric else None
    return (
        "*" if row.best else "",
        row.artifact.artifact,
        "" if row.name == "dense" else row.name,
        f"{metric.value:.2f} ({metric.low:.2f} to {metric.high:.2f})" if metric else "",
        f"{-lost.value:z.2f} ({-lost.high:z.2f} to {-lost.low:z.2f})" if lost else "",
        f"{structural.speedup:.2f}x" if structural else "",
        f"{row.predicted:.2f}x" if row.predicted else "",
        f"{total.speedup:.2f}x at {total.sequence_length}" if total else "",
        megabytes(row.artifact.size_bytes),
    )


def read_report(folder: Path) -> RunReport:
    """Read what `write_report` wrote.

    Raises:
        DataError: there is no report, or it is not one.
    """
    path = folder / JSON_NAME
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); finish the run first") from error
    except ValidationError as error:
        raise DataError(f"{path}: not a report of this version ({error.errors()[0]['msg']}); run again") from error


def summary(report: RunReport) -> str:
    """The first sentence of the page: how fast, how small, for how much."""
    best = report.best
    if best is None:
        return "The dense model, not pruned."
    dense = report.dense.variants[0]
    parts = []
    if total := best.measured("total"):
        parts.append(f"{total.speedup:.1f} times as fast in total")
    elif structural := best.measured("structural"):
        parts.append(f"{structural.speedup:.2f} times as fast by structure alone")
    parts.append(f"{megabytes(best.served.size_bytes)} instead of {megabytes(dense.size_bytes)}")
    metric = report.headline.among(best.served.metrics)
    if metric and metric.difference:
        parts.append(_cost(metric))
    return ", ".join(parts) + "."


def explanation(report: RunReport) -> str:
    """What stands below the first sentence: which model, and the same figures in full, with their intervals."""
    best = report.best
    if best is None:
        return f"This run stopped at the dense model; it has {millions(report.dense.parameters.total)} parameters."
    sentences = [f"{best.served.artifact} was asked for {best.asked} and keeps {100 * best.density:.0f} % of the layers' weights."]
    if total := best.measured("total"):
        sentences.append(
            f"Total speed-up, over dense fp32 at {total.sequence_length} tokens: {total.speedup:.2f}x "
            f"({total.speedup_low:.2f} to {total.speedup_high:.2f})."
        )
    if structural := best.measured("structural"):
        sentences.append(
            f"Structural speed-up, over dense in the same precision ({best.served.precision}): {structural.speedup:.2f}x "
            f"({structural.speedup_low:.2f} to {structural.speedup_high:.2f})."
        )
    if metric := report.headline.among(best.served.metrics):
        sentences.append(_score_sentence(metric))
    return " ".join(sentences)


def rows(report: RunReport) -> list[Row]:
    """The first table: the dense model's variants, then the served artifact of each target."""
    best = report.best
    dense = [
        Row("dense", each, report.dense, report.headline.among(each.metrics), None, each.measured("total", _length(best)), None, False)
        for each in report.dense.variants
    ]
    pruned = [
        Row(
            report.name_of(each),
            each.served,
            each,
            report.headline.among(each.served.metrics),
            each.measured("structural"),
            each.measured("total"),
            each.predicted_speedup,
            each is best,
        )
        for each in report.targets
    ]
    return dense + pruned


def layer_pictures(report: RunReport) -> list[Picture]:
    """For each target, what is left in each layer."""
    return [
        Picture(
            report.name_of(each),
            f"{sum(layer.heads for layer in each.layers)} of {sum(layer.heads for layer in report.dense.layers)} heads and "
            f"{sum(layer.intermediate for layer in each.layers)} of {sum(layer.intermediate for layer in report.dense.layers)} neurons.",
            Markup(layers_left(report.dense.layers, each.layers, name=f"layers-{index}", title=f"What is left at {report.name_of(each)}")),
        )
        for index, each in enumerate(report.targets)
    ]


def mask_stories(report: RunReport) -> list[Story]:
    """For each fine-pruned target, how its masks came about and what they left."""
    return [
        Story(report.name_of(each), each is report.best, tuple(mask_pictures(each.masks, name=f"masks-{index}")))
        for index, each in enumerate(report.targets)
        if each.masks
    ]


def curve_pictures(report: RunReport) -> list[Picture]:
    """Score against speed-up for each precision and length of the targets, predicted beside measured, and sizes."""
    return [*_trade_offs(report), *_predictions(report), _size_picture(report)]


def _trade_offs(report: RunReport) -> Iterator[Picture]:
    """One picture for each precision, length and kind of speed-up that was measured."""
    dense = report.headline.among(report.dense.variants[0].metrics)
    settings = list(dict.fromkeys((each.precision, each.sequence_length) for each in report.targets))
    for number, setting in enumerate(settings):
        targets = [each for each in report.targets if (each.precision, each.sequence_length) == setting]
        for kind in get_args(SpeedupKind):
            points = [point for each in targets if (point := _trade_off_point(report, each, kind))]
            if dense and points:
                metric = metric_name(dense.name)
                svg = trade_off(points, _score_interval(dense), metric=metric, kind=kind, name=f"trade-off-{number}-{kind}")
                over = "dense fp32" if kind == "total" else f"dense in {setting[0]}"
                where = f"at {setting[1]} tokens" if setting[1] else "at the measured length"
                caption = f"In {setting[0]}, {where}; {kind}: over {over}. Bars and band: 95 % intervals."
                yield Picture(f"{metric} against {kind} speed-up", caption, Markup(svg))


def _trade_off_point(report: RunReport, target: TargetReport, kind: SpeedupKind) -> TradeOff | None:
    """The target as a point; None if its score or its speed-up was not measured."""
    metric, latency = report.headline.among(target.served.metrics), target.measured(kind)
    before = report.headline.among(target.before_recovery)
    if not metric or not latency:
        return None
    return TradeOff(target.asked, _speedup_interval(latency), _score_interval(metric), _score_interval(before) if before else None)


def _predictions(report: RunReport) -> Iterator[Picture]:
    points = [
        Prediction(report.name_of(each), each.predicted_speedup, _speedup_interval(latency))
        for each in report.targets
        if each.predicted_speedup and (latency := each.measured("structural"))
    ]
    if points:
        svg = predicted_and_measured(points, name="predictions")
        caption = "Structural. On the dashed line the latency table was right; the band is 10 % either way."
        yield Picture("Predicted and measured", caption, Markup(svg))


def _size_picture(report: RunReport) -> Picture:
    bars: list[tuple[str, int]] = [(each.variant, each.size_bytes) for each in report.dense.variants]
    bars += [(f"{report.name_of(each)}, {variant.variant}", variant.size_bytes) for each in report.targets for variant in each.variants]
    return Picture("Size on disk", "Everything that serving needs: graph, weights, tokenizer.", Markup(sizes(bars, name="sizes")))


def _length(target: TargetReport | None) -> int | None:
    return target.sequence_length if target else None


def _speed(target: TargetReport) -> float:
    """What targets are ranked by: total speed-up, else structural, else nothing."""
    latency = target.measured("total") or target.measured("structural")
    return latency.speedup if latency else 0.0


def _cost(metric: Metric) -> str:
    """The difference in words."""
    assert metric.difference is not None
    points, name = round(metric.difference.value, 1), metric_name(metric.name)
    if points == 0:
        return f"with the same {name}"
    amount = f"{abs(points):.1f} {'point' if abs(points) == 1 else 'points'}"
    return f"for {amount} of {name}" if points < 0 else f"with {amount} more {name}"


def _score_sentence(metric: Metric) -> str:
    found = f"{_capital(metric_name(metric.name))} on {metric.dataset} {metric.split} ({metric.examples:,} examples): {metric.value:.1f} %"
    if metric.difference is None:
        return f"{found} ({metric.low:.1f} to {metric.high:.1f})."
    difference = metric.difference
    chance = "; the interval includes 0, so it may be chance" if difference.low <= 0 <= difference.high else ""
    return (
        f"{found}, {difference.value:+.1f} points against {difference.against} ({difference.low:+.1f} to {difference.high:+.1f}{chance})."
    )


def _score_interval(metric: Metric) -> Interval:
    return Interval(metric.value, metric.low, metric.high)


def _speedup_interval(latency: Latency) -> Interval:
    return Interval(latency.speedup, latency.speedup_low, latency.speedup_high)


def metric_name(name: str) -> str:
    """A metric as people write it: F1, exact match, ROUGE-L."""
    return name.replace("_", " ").replace("f1", "F1").replace("rouge", "ROUGE-")


def megabytes(size_bytes: float) -> str:
    """Bytes as megabytes (10^6)."""
    return f"{size_bytes / 1e6:.1f} MB"


def millions(count: float) -> str:
    """A count in millions."""
    return f"{count / 1e6:.1f} M"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8.1 s, 2 min 05 s, 1 h 02 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _plain(text: object) -> Markup:
    """Text for one cell or sentence of markdown: on one line, with what markdown or HTML would act on taken literally."""
    literal = re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(str(text).split()))
    return Markup(escape(literal, quote=False))


def _code_block(text: str) -> Markup:
    """Text as an indented code block of markdown, in which nothing is acted on."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))


def templates(*, autoescape: bool) -> Environment:
    """The templates of this package; a name that a template does not get is an error."""
    return Environment(
        loader=PackageLoader("pruning"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def page_environment() -> Environment:
    """The templates of pages, with filters that write numbers and names as people do."""
    environment = templates(autoescape=True)
    filters: dict[str, Callable[..., str]] = {
        "metric_name": metric_name,
        "capital": _capital,
        "megabytes": megabytes,
        "millions": millions,
        "duration": duration,
        "plain": _plain,
        "code_block": _code_block,
    }
    environment.filters.update(filters)
    return environment


def _render(template: str, report: RunReport, **pictures: Sequence[Picture | Story]) -> str:
    return (
        page_environment()
        .get_template(template)
        .render(report=report, summary=_capital(summary(report)), explanation=explanation(report), rows=rows(report), **pictures)
    )
