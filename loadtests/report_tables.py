"""The report's tables: the figures of a result as people write them. A column or a table of which nothing is known is left out."""

import math
from collections.abc import Iterator
from typing import Any

from loadtests.chart_style import TIMES
from loadtests.gates import CAPACITY, RATE, Bound, Ratio
from loadtests.report_cells import Cell, Table, between, figure, megabytes, score_name, signed, without_empty_columns
from loadtests.results import Accuracy, Machine, Point, Result, Split, SubjectResult, TaskResult
from loadtests.statistics import Interval, Step

PARTS = {"lag": "sent late", "queue": "queue", "tokenize": "tokenize", "infer": "infer", "post": "post", "http": "HTTP"}


def rate_text(subject: SubjectResult) -> str:
    """The rate within the objective; where it lies at an end of what was visited, with a sign that it may lie beyond."""
    if not subject.rate.value:
        return "none"
    if subject.inside or not subject.curve:
        return figure(subject.rate.value)
    nearest = min(subject.curve, key=lambda point: abs(point.step.rate - subject.rate.value))
    return f"{'at most' if nearest is subject.curve[0] else 'at least'} {figure(subject.rate.value)}"


def ratio_of(task: TaskResult, subject: SubjectResult, of: str = RATE) -> Ratio | None:
    """Rate or capacity of a variant over that of the first one; None for the first one, and where it was not to be had."""
    return next((ratio for ratio in task.ratios if (ratio.subject, ratio.of) == (subject.label, of)), None)


def at_knee(subject: SubjectResult) -> Point | None:
    """The rate of the rounds that is nearest to the variant's knee."""
    return min(subject.curve, key=lambda point: abs(point.share - 1.0), default=None)


def split_parts(split: Split) -> dict[str, float]:
    """Milliseconds by the name of the part; those that are known."""
    values = {text: getattr(split, name) for name, text in PARTS.items()}
    return {text: value for text, value in values.items() if math.isfinite(value)}


def main_table(task: TaskResult) -> Table:
    """A row for each variant: what it keeps up with, what it scores, what it takes."""
    first = task.subjects[0].label
    score = next((score_name(each.accuracy.name) for each in task.subjects if each.accuracy), "score")
    header = (
        "variant",
        f"requests/s at p99 \N{LESS-THAN OR EQUAL TO} {task.slo_ms:g}\N{NO-BREAK SPACE}ms",
        f"times {first}",
        "most requests/s",
        f"times {first}, at most",
        f"{score} (%)",
        "points against dense",
        "memory",
        "files",
    )
    return without_empty_columns(Table(f"/{task.task}", header, tuple(_main_row(task, each) for each in task.subjects)))


def task_tables(task: TaskResult) -> list[Table]:
    """All else that is known of a task, in full."""
    found = (
        Table(
            "Every ratio",
            ("variant", "over", "of", "times"),
            tuple((Cell(each.subject), Cell(each.baseline), Cell(each.of), _ratio_cell(each.interval, each.bound)) for each in task.ratios),
        ),
        Table(
            "Latency at each rate, in the rounds",
            ("variant", "requests/s", "of the knee", "requests", "without a right answer", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"),
            tuple(_step_row(each.label, point.step, f"{point.share:.0%}") for each in task.subjects for point in each.curve),
        ),
        Table(
            "The search for the knee",
            ("variant", "requests/s", "requests", "without a right answer", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms"),
            tuple(_step_row(each.label, step) for each in task.subjects for step in each.search),
        ),
        Table("Where the time of a request goes, in ms", ("variant", "requests/s", *PARTS.values()), tuple(_split_rows(task))),
        Table("Raw session, engine and HTTP, in a closed loop on all cores", _LAYER_HEADER, tuple(_layer_rows(task))),
        Table("The raw session by length", ("variant", "tokens", "ms a row", "times the first"), tuple(_session_rows(task))),
        Table("What each step of the gain is worth", ("step", "from", "to", "tokens", "times"), tuple(_factor_rows(task))),
        Table(
            "Share of the fastest matrix product",
            ("variant", "precision", "tokens", "GFLOP/s or Gop/s", "share"),
            tuple(
                (
                    Cell(each.subject),
                    Cell(each.precision),
                    Cell(str(each.tokens)),
                    Cell(figure(each.giga_per_second)),
                    Cell(f"{each.share:.0%}"),
                )
                for each in task.rooflines
            ),
        ),
        Table(
            "Every score, as the artifact states it",
            ("variant", "metric", "data", "%", "points against dense"),
            tuple(_score_row(each.label, score) for each in task.subjects for score in each.scores),
        ),
        Table("Conditions", ("condition", "found"), tuple(_condition_rows(task))),
    )
    return [without_empty_columns(table) for table in found if table.rows]


def page_tables(result: Result) -> list[Table]:
    """Of the whole result: machine, versions, artifacts and what was asked for."""
    machine = result.machine
    found = (
        Table("Machine", ("", "found"), tuple(_machine_rows(machine))),
        Table("Versions", ("package", "version"), tuple((Cell(name), Cell(text)) for name, text in machine.packages.items())),
        Table(
            "Fastest matrix products, on one core",
            ("runtime", "precision", "GFLOP/s or Gop/s"),
            tuple((Cell(each.runtime), Cell(each.precision), Cell(figure(each.giga_per_second))) for each in machine.gemms),
        ),
        Table("Artifacts and hashes", ("artifact", "runtime", "revision or SHA-256"), tuple(_artifact_rows(result))),
        Table(
            "What was asked for",
            ("setting", "value"),
            tuple((Cell(name), Cell(text, words=True)) for name, value in result.plan.items() if (text := _text(value))),
        ),
    )
    return [table for table in found if table.rows]


_LAYER_HEADER = ("variant", "layer", "requests/s", "p50 ms", "p99 ms", "CPU ms a request", "of the raw session")


def _main_row(task: TaskResult, subject: SubjectResult) -> tuple[Cell, ...]:
    ratios, score, memory = [ratio_of(task, subject, of) for of in (RATE, CAPACITY)], subject.accuracy, subject.memory
    rate_ratio, capacity_ratio = (_ratio_cell(each.interval, each.bound) if each else Cell("") for each in ratios)
    parameters = subject.artifact.parameters
    return (
        Cell(subject.label, f"{subject.artifact.precision}, {subject.artifact.runtime}"),
        Cell(rate_text(subject), between(subject.rate) if subject.rate.value else f"nothing keeps {task.slo_ms:g} ms"),
        rate_ratio,
        Cell(figure(subject.capacity.value), between(subject.capacity)),
        capacity_ratio,
        Cell(f"{score.value:.1f}", f"{score.low:.1f} to {score.high:.1f}") if score else Cell(""),
        _difference_cell(score),
        Cell(megabytes(memory.loaded_bytes), f"{megabytes(memory.loaded_peak_bytes)} after loads") if memory else Cell(""),
        Cell(megabytes(subject.artifact.size_bytes), "" if parameters is None else f"{figure(parameters / 1e6)} M weights"),
    )


def _ratio_cell(ratio: Interval, bound: Bound = "") -> Cell:
    return Cell(f"{bound} {figure(ratio.value)}{TIMES}".lstrip(), between(ratio))


def _difference_cell(score: Accuracy | None) -> Cell:
    if score is None or score.difference is None:
        return Cell("")
    found = score.difference
    return Cell(signed(found.value), f"{signed(found.low)} to {signed(found.high)}")


def _step_row(label: str, step: Step, *beside: str) -> tuple[Cell, ...]:
    percentiles = (step.p50_ms, step.p90_ms, step.p99_ms, step.p999_ms)
    return (
        Cell(label),
        Cell(figure(step.rate)),
        *map(Cell, beside),
        Cell(f"{step.requests:,}"),
        Cell(f"{step.failed_share:.2%}"),
        *(Cell(figure(value)) for value in percentiles),
    )


def _split_rows(task: TaskResult) -> Iterator[tuple[Cell, ...]]:
    for subject in task.subjects:
        for point in subject.curve:
            if point.split is not None:
                values = (getattr(point.split, name) for name in PARTS)
                yield (Cell(subject.label), Cell(figure(point.step.rate)), *(Cell(figure(value)) for value in values))


def _layer_rows(task: TaskResult) -> Iterator[tuple[Cell, ...]]:
    for layer in task.layers:
        share = layer.efficiency
        yield (
            Cell(layer.subject),
            Cell(layer.layer),
            *(Cell(figure(value)) for value in (layer.requests_per_second, layer.p50_ms, layer.p99_ms, layer.cpu_ms_per_request)),
            Cell("") if share is None else Cell(f"{share.value:.0%}", f"{share.low:.0%} to {share.high:.0%}"),
        )


def _session_rows(task: TaskResult) -> Iterator[tuple[Cell, ...]]:
    for each in task.sessions:
        latency = Cell(figure(each.latency_ms.value), between(each.latency_ms))
        yield (Cell(each.subject), Cell(str(each.tokens)), latency, _ratio_cell(each.speedup))


def _factor_rows(task: TaskResult) -> Iterator[tuple[Cell, ...]]:
    for each in task.factors:
        yield (Cell(each.name), Cell(each.before), Cell(each.after), Cell(str(each.tokens)), _ratio_cell(each.ratio))


def _score_row(label: str, score: Accuracy) -> tuple[Cell, ...]:
    data = Cell(f"{score.dataset} {score.split}", f"{score.examples:,} examples", words=True)
    value = Cell(f"{score.value:.1f}", f"{score.low:.1f} to {score.high:.1f}")
    return (Cell(label), Cell(score_name(score.name)), data, value, _difference_cell(score))


def _condition_rows(task: TaskResult) -> Iterator[tuple[Cell, ...]]:
    found, tokens = task.conditions, task.tokens
    texts = f"{len(tokens)} of {min(tokens)} to {max(tokens)} tokens, {task.texts}" if tokens else task.texts
    yield (Cell("texts"), Cell(texts, words=True))
    yield (Cell("requests were sent late by, p99"), Cell(f"{figure(found.lag_p99_ms)} ms"))
    yield (Cell("the generator was busy"), Cell(f"{found.generator_share:.0%}"))
    for where, each in (("", found), (" in the search", task.conditions_search), (" below HTTP", task.conditions_below)):
        if each is not None:
            others = f"{each.others_share:.1%}" if math.isfinite(each.others_share) else "not known"
            yield (Cell(f"other processes took of the machine{where}"), Cell(others))
            yield (Cell(f"the hypervisor took of the machine{where}"), Cell(f"{each.stolen_share:.1%}"))


def _machine_rows(machine: Machine) -> Iterator[tuple[Cell, ...]]:
    texts = {
        "processor": machine.processor,
        "cores": str(machine.cores),
        "instruction sets": ", ".join(machine.isa),
        "memory": f"{figure(machine.memory_bytes / 1e9)} GB",
        "system": machine.system,
        "Python": machine.python,
        "load before": figure(machine.load_before),
    }
    yield from ((Cell(name), Cell(text, words=True)) for name, text in texts.items() if text)


def _artifact_rows(result: Result) -> Iterator[tuple[Cell, ...]]:
    for task in result.tasks:
        for subject in task.subjects:
            artifact = subject.artifact
            yield (Cell(f"/{task.task} {subject.label}"), Cell(artifact.runtime), Cell(artifact.revision, words=True))
            for name, found in artifact.sha256.items():
                yield (Cell(f"{subject.label}: {name}"), Cell(""), Cell(found, words=True))


def _text(value: Any) -> str:  # noqa: ANN401 - JSON
    """JSON as people write it."""
    if isinstance(value, dict):
        return str(value["label"]) if "label" in value else ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
