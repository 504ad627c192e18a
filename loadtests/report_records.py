"""The figures of a result as one long table: a line for each, with what it is of, its unit and the ends of its 95 % interval."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

from loadtests.results import Result, SubjectResult, TaskResult
from loadtests.statistics import Interval


class Record(NamedTuple):
    """One figure.

    Attributes:
        task, subject: what it is of; the subject is a variant.
        table: which of the report's tables or pictures shows it.
        at: rate, length, layer or step, where there are several.
        measure, unit: what it is.
        value, low, high: the figure and the ends of its interval; empty where there is none.
    """

    task: str
    subject: str
    table: str
    at: str
    measure: str
    unit: str
    value: float | str
    low: float | str = ""
    high: float | str = ""


COLUMNS = Record._fields


def records(result: Result) -> Iterator[Record]:
    """All of them, task by task; numbers are not rounded."""
    for task in result.tasks:
        for subject in task.subjects:
            yield from _subject(task, subject)
        for ratio in task.ratios:
            yield Record(task.task, ratio.subject, "headline", f"over {ratio.baseline}", ratio.of, "times", *_ends(ratio.interval))
        yield from _parts(task)


def _subject(task: TaskResult, subject: SubjectResult) -> Iterator[Record]:
    yield Record(task.task, subject.label, "headline", "", "rate within the objective", "1/s", *_ends(subject.rate))
    yield Record(task.task, subject.label, "headline", "", "capacity", "1/s", *_ends(subject.capacity))
    for score in subject.scores:
        at = f"{score.dataset} {score.split}"
        yield Record(task.task, subject.label, "scores", at, score.name, "%", score.value, score.low, score.high)
        if score.difference is not None:
            measure = f"{score.name} against {score.difference.against}"
            found = score.difference
            yield Record(task.task, subject.label, "scores", at, measure, "points", found.value, found.low, found.high)
    yield Record(task.task, subject.label, "headline", "", "files", "bytes", subject.artifact.size_bytes)
    if subject.memory is not None:
        yield Record(task.task, subject.label, "memory", "loaded", "resident", "bytes", subject.memory.loaded_bytes)
        yield Record(task.task, subject.label, "memory", "after loads", "resident", "bytes", subject.memory.loaded_peak_bytes)
    for point in subject.curve:
        at = f"{point.step.rate:g}/s"
        for name in ("requests", "failed_share", "p50_ms", "p90_ms", "p99_ms", "p999_ms"):
            yield Record(task.task, subject.label, "curve", at, name, _unit(name), _known(getattr(point.step, name)))
        for low, high, count in zip(task.edges_ms, task.edges_ms[1:], point.histogram, strict=False):
            if count:
                yield Record(task.task, subject.label, "distribution", at, f"{low:g} to {high:g} ms", "requests", count)
        if point.split is not None:
            for field in fields(point.split):
                yield Record(task.task, subject.label, "time", at, field.name, "ms", _known(getattr(point.split, field.name)))


def _parts(task: TaskResult) -> Iterator[Record]:
    for layer in task.layers:
        for name, unit in (("requests_per_second", "1/s"), ("p50_ms", "ms"), ("p99_ms", "ms"), ("cpu_ms_per_request", "ms")):
            yield Record(task.task, layer.subject, "layers", layer.layer, name, unit, _known(getattr(layer, name)))
        if layer.efficiency is not None:
            yield Record(task.task, layer.subject, "layers", layer.layer, "efficiency", "share", *_ends(layer.efficiency))
    for session in task.sessions:
        yield Record(task.task, session.subject, "lengths", f"{session.tokens} tokens", "latency", "ms", *_ends(session.latency_ms))
        yield Record(task.task, session.subject, "lengths", f"{session.tokens} tokens", "speedup", "times", *_ends(session.speedup))
    for factor in task.factors:
        at = f"{factor.before} to {factor.after}, {factor.tokens} tokens"
        yield Record(task.task, factor.chain, "gain", at, factor.name, "times", *_ends(factor.ratio))
    for roofline in task.rooflines:
        at = f"{roofline.precision}, {roofline.tokens} tokens"
        yield Record(task.task, roofline.subject, "roofline", at, "operations", "10^9/s", roofline.giga_per_second)
        yield Record(task.task, roofline.subject, "roofline", at, "of the fastest matrix product", "share", roofline.share)


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def _unit(name: str) -> str:
    return "ms" if name.endswith("_ms") else "share" if name.endswith("share") else "requests"


def _known(value: float) -> float | str:
    return value if math.isfinite(value) else ""
