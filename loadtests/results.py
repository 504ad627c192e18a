"""What a comparison found, and how it is written: JSON, tables as CSV and every request, in a folder that is there whole or not at all."""

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loadtests.errors import LoadTestError
from loadtests.gates import Ratio, Verdict
from loadtests.machine import Conditions
from loadtests.statistics import Interval, Step

SCHEMA_VERSION = "1.0"
RESULT, STEPS, RATIOS, REQUESTS = "result.json", "steps.csv", "ratios.csv", "requests"


@dataclass(frozen=True)
class SubjectResult:
    """One variant in one task.

    Attributes:
        label: as it was asked for.
        served: what the service says of it: accuracy, size, revision and so on.
        capacity: requests per second of a closed loop.
        rate: requests per second that keep the objective.
        inside: whether that lies between rates that were visited; otherwise it may be beyond them.
        search: steps of the search for the knee.
        steps: rates of the rounds, all rounds together.
    """

    label: str
    served: dict[str, Any]
    capacity: Interval
    rate: Interval
    inside: bool
    search: tuple[Step, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class TaskResult:
    """One task.

    Attributes:
        task: its name.
        slo_ms: the objective for p99.
        lengths: distribution of the texts' tokens, as it was asked for; empty for a file.
        texts: where they come from.
        tokens: of each text, as the service counts them.
        subjects: what was compared.
        ratios: over the first subject.
        conditions: of the rounds.
        void: why it does not count; empty where it does.
        notes: what a reader should know.
    """

    task: str
    slo_ms: float
    lengths: str
    texts: str
    tokens: tuple[int, ...]
    subjects: tuple[SubjectResult, ...]
    ratios: tuple[Ratio, ...]
    conditions: Conditions
    void: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """All of it; `began` is in ISO 8601, `cores` and `plan` say how it was measured, `machine` where."""

    began: str
    seconds: float
    machine: dict[str, Any]
    cores: str
    plan: dict[str, Any]
    tasks: tuple[TaskResult, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def void(self) -> tuple[str, ...]:
        """Why it does not count; empty where it does."""
        return tuple(f"{task.task}: {reason}" for task in self.tasks for reason in task.void)

    @property
    def failed(self) -> bool:
        """Whether a promise was broken."""
        return any(verdict.passed is False for verdict in self.verdicts)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends well and is gone when it does not."""
    if target.exists():
        raise LoadTestError(f"{target} is there already; choose another --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write(result: Result, folder: Path) -> None:
    """`result.json`, `steps.csv` and `ratios.csv`."""
    document = {"schema_version": SCHEMA_VERSION, "void": result.void, **asdict(result)}
    (folder / RESULT).write_text(json.dumps(plain(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    _write_table(folder / STEPS, list(_step_rows(result)))
    _write_table(folder / RATIOS, [_flat(asdict(ratio)) for task in result.tasks for ratio in task.ratios])


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same without numbers that JSON has not: those are null."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(result: Result) -> list[str]:
    """For people."""
    found = [line for task in result.tasks for line in _task_lines(task)]
    found += [verdict.line for verdict in result.verdicts]
    found += [f"VOID  {reason}" for reason in result.void]
    return found


def _task_lines(task: TaskResult) -> list[str]:
    tokens = f"{min(task.tokens)} to {max(task.tokens)}" if len(set(task.tokens)) > 1 else f"{task.tokens[0]}"
    return [
        f"/{task.task}, {tokens} tokens, p99 within {task.slo_ms:g} ms",
        *(_subject_line(subject) for subject in task.subjects),
        *(f"  {ratio.subject} over {ratio.baseline}, {ratio.of}: {_shown(ratio.interval)}" for ratio in task.ratios),
        *(f"  note: {note}" for note in task.notes),
    ]


def _subject_line(subject: SubjectResult) -> str:
    return f"  {subject.label:<18} {_shown(subject.rate)} requests/s within the objective, {_shown(subject.capacity)} at most"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _step_rows(result: Result) -> Iterator[dict[str, Any]]:
    for task in result.tasks:
        for subject in task.subjects:
            for stage, steps in (("search", subject.search), ("rounds", subject.steps)):
                yield from ({"task": task.task, "subject": subject.label, "stage": stage, **asdict(step)} for step in steps)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    interval = row.pop("interval")
    return {**row, **interval}


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
