"""One page per run, as JSON, as markdown, and as one HTML file that needs no network.

The page opens with one sentence, then a table, then pictures.
"""

import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from pruning.errors import DataError
from pruning.pictures import Picture
from pruning.report.contents import ModelReport, RunReport, TargetReport, VariantReport
from pruning.report.drawing import Story, curve_pictures, layer_pictures, mask_stories
from pruning.report.wording import capital, duration, explanation, megabytes, metric_name, millions, summary
from pruning.storage import write_text_atomic
from service.artifact import Latency, Metric

HTML_NAME, MARKDOWN_NAME, JSON_NAME = "report.html", "report.md", "report.json"


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
    return "\n".join([*table, "", capital(summary(report)), *report.notes])


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


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, cells padded to the widest of their column."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


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
        "capital": capital,
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
        .render(report=report, summary=capital(summary(report)), explanation=explanation(report), rows=rows(report), **pictures)
    )


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


def _length(target: TargetReport | None) -> int | None:
    return target.sequence_length if target else None


def _plain(text: object) -> Markup:
    """Text for one cell or sentence of markdown: on one line, with what markdown or HTML would act on taken literally."""
    literal = re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(str(text).split()))
    return Markup(escape(literal, quote=False))


def _code_block(text: str) -> Markup:
    """Text as an indented code block of markdown, in which nothing is acted on."""
    return Markup("\n".join(f"    {line}" for line in text.splitlines()))
