"""What the service says of its variants, read without trust: what it does not say is None. And arithmetic that follows from it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loadtests.client import OK, Client
from loadtests.errors import ServiceError
from loadtests.plan import RUNTIMES, Subject
from loadtests.results import Accuracy, Artifact, Difference
from loadtests.texts import Task

DENSE = "dense"


def served_row(client: Client, task: Task, subject: Subject) -> dict[str, Any]:
    """The line about a subject; `ServiceError` where it is not served."""
    rows = client.served(task)
    found = next((row for row in rows if row["variant"] == subject.variant), None)
    if found is None:
        there = ", ".join(row["variant"] for row in rows) or "none"
        raise ServiceError(f"{client.url} does not serve {subject.variant} for {task.path}; its variants are {there}")
    return found


def artifact_of(client: Client, row: Mapping[str, Any], subject: Subject, *, tokens: int) -> Artifact:
    """What a subject is; `ServiceError` where it runs in another runtime than was asked for.

    Args:
        client: of the service.
        row: its line.
        subject: what was asked for.
        tokens: of the longest text, for the multiply-accumulates.
    """
    said = _said_of(client, row)
    runtime = str(said.get("runtime", ""))
    if runtime and not runtime.startswith(subject.runtime):
        named = f"{subject.variant}@{runtime.split()[0]}"
        raise ServiceError(f"{client.url} runs {subject.variant} in {runtime}, not in {subject.runtime}; name it {named}")
    return Artifact(
        model=str(row["model"]),
        variant=str(row["variant"]),
        runtime=runtime,
        precision=str(row.get("precision", "")),
        density=row.get("density"),
        size_bytes=int(row.get("size_bytes", 0)),
        parameters=(said.get("parameters") or {}).get("total"),
        macs=macs_at(said, tokens),
        revision=str(said.get("revision", "")),
        sha256=dict(said.get("sha256") or {}),
    )


def listed(client: Client, task: Task) -> tuple[Subject, ...]:
    """Every variant that a service lists for a task, in the runtime that it runs in, the dense one first."""
    rows = client.served(task)
    found = [_subject(str(row["variant"]), str(_said_of(client, row).get("runtime") or RUNTIMES[0]).split()[0]) for row in rows]
    return tuple(sorted(found, key=lambda subject: subject.variant != DENSE))


def scores_of(row: Mapping[str, Any]) -> tuple[Accuracy, ...]:
    """All scores of a line; one that lacks a member is passed over."""
    return tuple(_scores(row.get("metrics") or ()))


def accuracy_of(task: Task, scores: Sequence[Accuracy]) -> Accuracy | None:
    """The task's own score, on the data set that is named first."""
    return next((score for score in scores if score.name == task.score), None)


def macs_at(manifest: Mapping[str, Any], tokens: int) -> float | None:
    """Multiply-accumulates of a row of so many tokens, from those of the manifest's length.

    The attention core grows with the square of the length, 2 x heads x head size for each pair of tokens, and all else with the length.
    None where the manifest does not say, or tells of a model that generates.
    """
    macs, head_size = manifest.get("macs") or {}, manifest.get("head_size")
    if "total" not in macs or not head_size or manifest.get("generation"):
        return None
    length, pairs = macs["sequence_length"], 2 * head_size * sum(layer["heads"] for layer in manifest.get("layers", ()))
    return float((macs["total"] - pairs * length**2) * tokens / length + pairs * tokens**2)


def _said_of(client: Client, row: Mapping[str, Any]) -> dict[str, Any]:
    """What the variant's own address says of it; nothing where there is none."""
    reply = client.request("GET", f"/v2/models/{row['model']}/versions/{row['variant']}")
    said: dict[str, Any] = reply.json().get("parameters", {}) if reply.status == OK else {}
    return said


def _subject(variant: str, runtime: str) -> Subject:
    return Subject(variant if runtime == RUNTIMES[0] else f"{variant}@{runtime}", variant, runtime)


def _scores(metrics: Sequence[Mapping[str, Any]]) -> Iterator[Accuracy]:
    names = ("name", "value", "low", "high", "examples", "dataset", "split")
    for metric in metrics:
        other = metric.get("difference")
        if all(name in metric for name in names):
            difference = Difference(**{name: other[name] for name in ("against", "value", "low", "high")}) if other else None
            yield Accuracy(**{name: metric[name] for name in names}, difference=difference)
