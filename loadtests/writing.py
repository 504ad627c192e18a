"""How a result is written: JSON, tables as CSV and every request, in a folder that is there whole or not at all; and lines for people."""

import csv
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.errors import LoadTestError
from loadtests.gates import CAPACITY, RATE
from loadtests.results import RESULT, SCHEMA_VERSION, Result, SubjectResult, TaskResult
from loadtests.statistics import Interval

STEPS, RATIOS, REQUESTS = "steps.csv", "ratios.csv", "requests"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `target` when the block ends well and is gone when it does not."""
    require_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def require_new(target: Path) -> None:
    """`LoadTestError` where something is there already."""
    if target.exists():
        raise LoadTestError(f"{target} is there already; choose another --output")


def write(result: Result, folder: Path) -> None:
    """`result.json`, `steps.csv` and `ratios.csv`."""
    write_document({"void": result.void, **asdict(result)}, folder)
    _write_table(folder / STEPS, list(_step_rows(result)))
    _write_table(folder / RATIOS, [_flat(asdict(ratio)) for task in result.tasks for ratio in task.ratios])


def write_document(document: dict[str, Any], folder: Path) -> None:
    """`result.json` of anything."""
    whole = {"schema_version": SCHEMA_VERSION, **document}
    (folder / RESULT).write_text(json.dumps(plain(whole), indent=1, allow_nan=False) + "\n", encoding="utf-8")


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
    found += [f"note: {note}" for note in result.notes]
    found += [f"VOID  {reason}" for reason in result.void]
    return found


def _task_lines(task: TaskResult) -> list[str]:
    tokens = f"{min(task.tokens)} to {max(task.tokens)}" if len(set(task.tokens)) > 1 else f"{task.tokens[0]}"
    return [
        f"/{task.task}, {tokens} tokens, p99 within {task.slo_ms:g} ms",
        *(_subject_line(task, subject) for subject in task.subjects),
        *(f"  note: {note}" for note in task.notes),
    ]


def _subject_line(task: TaskResult, subject: SubjectResult) -> str:
    rate, capacity = (_with_ratio(task, subject, of, interval) for of, interval in ((RATE, subject.rate), (CAPACITY, subject.capacity)))
    return f"  {subject.label:<18} {rate} requests/s within the objective, {capacity} at most"


def _with_ratio(task: TaskResult, subject: SubjectResult, of: str, interval: Interval) -> str:
    """A figure, and how many times the first subject's it is."""
    ratio = next((each for each in task.ratios if (each.subject, each.of) == (subject.label, of)), None)
    times = f"{ratio.bound} {_shown(ratio.interval)}".lstrip() if ratio else ""
    return f"{_shown(interval)}{f' [{times} times {ratio.baseline}]' if ratio else ''}"


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"


def _step_rows(result: Result) -> Iterator[dict[str, Any]]:
    for task in result.tasks:
        for subject in task.subjects:
            for stage, steps in (("search", subject.search), ("rounds", tuple(point.step for point in subject.curve))):
                yield from ({"task": task.task, "subject": subject.label, "stage": stage, **asdict(step)} for step in steps)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    interval = row.pop("interval")
    return {**row, **interval}


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
