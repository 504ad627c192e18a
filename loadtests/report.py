"""The report of a comparison: one HTML file that needs no network, and its figures as one CSV, beside the `result.json` they are made from.

A result that is void says so before anything else.
"""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from loadtests.errors import LoadTestError
from loadtests.gates import CAPACITY, RATE, Ratio, Verdict
from loadtests.report_cells import Table, between, figure, score_name, signed
from loadtests.report_pictures import Picture, pictures_of
from loadtests.report_records import COLUMNS, records
from loadtests.report_tables import main_table, page_tables, rate_text, task_tables
from loadtests.results import Result, SubjectResult, TaskResult, read_result

HTML, CSV = "report.html", "report.csv"
_ALONE = "<style>\n{colours}svg {{ color: var(--ink); background: var(--card); }}\n</style>"


@dataclass(frozen=True)
class Promise:
    """A verdict as the page shows it; `kind` is kept, broken or open."""

    kind: str
    word: str
    text: str


@dataclass(frozen=True)
class Section:
    """All about one task."""

    name: str
    title: str
    void: Sequence[str]
    say: str
    table: Table
    notes: Sequence[str]
    pictures: Sequence[Picture]
    details: Sequence[Table]


@dataclass(frozen=True)
class Page:
    """What the template shows."""

    headline: str
    subtitle: str
    lede: str
    void: Sequence[str]
    void_what: str
    disturbed: bool
    all_void: bool
    notes: Sequence[str]
    verdicts: Sequence[Promise]
    sections: Sequence[Section]
    method: str
    details: Sequence[Table]
    footer: str


def write_report(folder: Path) -> Path:
    """Write `report.html` and `report.csv` beside the `result.json` of a folder; returns the path of the page.

    Raises:
        LoadTestError: there is no result, or nothing can be written.
    """
    result = read_result(folder)
    _replace(folder / CSV, to_csv(result))
    _replace(folder / HTML, to_html(result))
    return folder / HTML


def write_pictures(folder: Path, into: Path) -> list[Path]:
    """Write the pictures of a folder's result as files of their own, `<task>-<picture>.svg`, light or dark as their reader has it.

    Raises:
        LoadTestError: there is no result, or nothing can be written.
    """
    result = read_result(folder)
    style = _ALONE.format(colours=_colours())
    try:
        into.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LoadTestError(f"{into} cannot be made ({error.strerror}); choose a folder that can be") from error
    paths = []
    for task in result.tasks:
        for picture in pictures_of(task):
            paths.append(into / f"{task.task}-{picture.name}.svg")
            _replace(paths[-1], str(picture.svg).replace("</desc>", f"</desc>{style}", 1) + "\n")
    return paths


def _colours() -> str:
    """What the page's styles begin with: its colours, light and dark."""
    return files("loadtests").joinpath("templates", "report.css").read_text(encoding="utf-8").partition("* {")[0]


def to_html(result: Result) -> str:
    """The page: styles and pictures are inside, and nothing is fetched."""
    environment = Environment(
        loader=PackageLoader("loadtests"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(page=page_of(result)) + "\n"


def to_csv(result: Result) -> str:
    """Every figure of the page in one table, a line each; see `loadtests.report_records`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows(records(result))
    return text.getvalue()


def page_of(result: Result) -> Page:
    """What the page shows of a result."""
    began = datetime.fromisoformat(result.began)
    tasks = ", ".join(f"/{task.task}" for task in result.tasks)
    void = [task.task for task in result.tasks if task.void]
    version = result.machine.packages.get("secateur", "")
    return Page(
        headline=headline(result),
        subtitle=f"Load test of {tasks} \N{MIDDLE DOT} {began:%Y-%m-%d %H:%M %Z} \N{MIDDLE DOT} {result.machine.processor}",
        lede=" ".join(filter(None, (task_sentence(task) for task in counting(result)))),
        void=result.void,
        void_what=void_what(result),
        disturbed=bool(void),
        all_void=len(void) == len(result.tasks),
        notes=result.notes,
        verdicts=[promise(verdict, void) for verdict in result.verdicts],
        sections=[_section(task) for task in result.tasks],
        method=_method(result),
        details=page_tables(result),
        footer=f"Written by secateur-loadtest {version}. Made from result.json; the figures as one table are in report.csv.",
    )


def void_what(result: Result) -> str:
    """What does not count, in words; empty where all does."""
    void = [f"/{task.task}" for task in result.tasks if task.void]
    if not void:
        return "tasks are missing" if result.stopped else ""
    return "these figures do not count" if len(void) == len(result.tasks) else f"the figures of {', '.join(void)} do not count"


def headline(result: Result) -> str:
    """The greatest gain in one sentence: in rates within the objective, or, without any, in what a closed loop gets.

    It is of tasks that count, unless all of them are void.
    """
    tasks = counting(result)
    for of, words in ((RATE, "within p99 \N{LESS-THAN OR EQUAL TO} {slo:g} ms"), (CAPACITY, "in a closed loop")):
        found = [(ratio, task) for task in tasks if (ratio := best_ratio(task, of)) is not None]
        if found:
            ratio, task = max(found, key=lambda pair: pair[0].interval.value)
            gain = f"{times_of(ratio)} the requests of {ratio.baseline}"
            return f"{ratio.subject} serves {gain} on /{ratio.task} {words.format(slo=task.slo_ms)}"
    labels = dict.fromkeys(subject.label for task in result.tasks for subject in task.subjects)
    return f"Load test of {', '.join(labels)}"


def counting(result: Result) -> Sequence[TaskResult]:
    """Tasks that are not void; all of them where none counts."""
    return [task for task in result.tasks if not task.void] or result.tasks


def best_ratio(task: TaskResult, of: str = RATE) -> Ratio | None:
    """The greatest gain of a task that is no overstatement; None where there is none to compare."""
    found = (ratio for ratio in task.ratios if ratio.of == of and ratio.bound in ("", "at least"))
    return max(found, key=lambda ratio: ratio.interval.value, default=None)


def times_of(ratio: Ratio) -> str:
    """How many times, or at least how many."""
    return f"{ratio.bound} {figure(ratio.interval.value)} times".lstrip()


def task_sentence(task: TaskResult) -> str:
    """The gain of the best variant of a task, with its interval and what it costs; or that nothing keeps the objective."""
    ratio = best_ratio(task)
    if ratio is None:
        without = ", ".join(subject.label for subject in task.subjects if not subject.rate.value)
        return f"On /{task.task}, no rate of {without} keeps p99 within {task.slo_ms:g} ms." if without else ""
    subjects = {subject.label: subject for subject in task.subjects}
    best, first = subjects[ratio.subject], subjects[ratio.baseline]
    found = (
        f"On /{task.task}, with p99 within {task.slo_ms:g} ms, {best.label} answers {rate_text(best)} requests a second, and "
        f"{first.label} {rate_text(first)}: {times_of(ratio)} as many ({between(ratio.interval)})"
    )
    return f"{found}{_cost(best)}."


def promise(verdict: Verdict, void: Sequence[str]) -> Promise:
    """A verdict in words; those of void tasks are neither kept nor broken."""
    unknown = "not measured" if verdict.declared else "not declared here"
    kind, word = {True: ("kept", "kept"), False: ("broken", "BROKEN"), None: ("open", unknown)}[verdict.passed]
    if verdict.passed is not None and verdict.gate.partition(":")[0] in void:
        kind, word = "open", "void"
    bound = f"{verdict.bound} " if verdict.bound else ""
    value = "" if verdict.interval is None else f": {bound}{figure(verdict.interval.value)} times ({between(verdict.interval)})"
    return Promise(kind, word, f"{verdict.gate}{value}")


def _section(task: TaskResult) -> Section:
    tokens = f"{min(task.tokens)} to {max(task.tokens)} tokens" if len(set(task.tokens)) > 1 else f"{task.tokens[0]} tokens"
    return Section(
        name=task.task,
        title=f"/{task.task}: texts of {tokens}, p99 within {task.slo_ms:g} ms",
        void=task.void,
        say=(
            f"The same texts at the same times for every variant; ratios are over {task.subjects[0].label}. Small figures are 95 % "
            "intervals, from a bootstrap over rounds. The most requests per second are those of a closed loop, whatever the latency."
        ),
        table=main_table(task),
        notes=task.notes,
        pictures=pictures_of(task),
        details=task_tables(task),
    )


def _cost(subject: SubjectResult) -> str:
    score = subject.accuracy
    if score is None:
        return ""
    found = f", with {score_name(score.name)} {score.value:.1f} %"
    if score.difference is None:
        return found
    return f"{found} ({signed(score.difference.value)} points against {score.difference.against.rpartition('/')[2]})"


def _method(result: Result) -> str:
    spacing = "evenly spaced" if result.plan.get("spacing") == "fixed" else "Poisson"
    rounds = result.plan.get("rounds", "several")
    return (
        f"Open loop for latency ({spacing} arrivals; a request's time counts from when it was due), closed loop for capacity. Each "
        f"variant's knee was found once; then all variants were visited in {rounds} rounds, in one order and then in the other. Answers "
        f"were compared with those of the unloaded service. {result.cores[:1].upper()}{result.cores[1:]}. "
        f"It took {result.seconds / 60:.1f} minutes."
    )


def _replace(path: Path, text: str) -> None:
    """Write a file in one step: a reader sees the old one or all of the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise LoadTestError(f"{path} cannot be written ({error.strerror}); choose a folder that can be") from error
