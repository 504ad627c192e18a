"""The result of a run: for people as tables, for machines as JSON that is written beside and then moved into place."""

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path

from service.bench.compare import Comparison, Row
from service.bench.gates import Verdict
from service.errors import BenchError
from service.packages import versions_of
from service.runtime.machine import core_count, cpu_name, instruction_sets

PACKAGES = ("secateur", "onnxruntime", "openvino", "numpy", "tokenizers", "fastapi", "uvicorn", "uvloop", "httptools")
PEER_PACKAGES = ("torch", "transformers", "optimum-onnx", "litserve")


@dataclass(frozen=True)
class Machine:
    """Where it was measured.

    Attributes:
        cpu, isa, kernel, python: names.
        cores: that this process may use.
        packages: versions.
        load_before: processes that wanted to run in the minute before; more than nearly none means that others use the machine.
        stolen_share: of the machine's processor time, kept by the hypervisor during the run.
    """

    cpu: str
    cores: int
    isa: tuple[str, ...]
    kernel: str
    python: str
    packages: dict[str, str]
    load_before: float
    stolen_share: float = 0.0


@dataclass(frozen=True)
class Report:
    """One run.

    Attributes:
        machine: where.
        rounds: how often each cell was visited, forwards and backwards in turn.
        seconds: length of each visit.
        rows: a cell each.
        comparisons: within rounds.
        verdicts: whether promises were kept.
        notes: what was left out, and why.
    """

    machine: Machine
    rounds: int
    seconds: float
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]


def this_machine() -> Machine:
    """The machine before the run."""
    return Machine(
        cpu=cpu_name(),
        cores=core_count(),
        isa=instruction_sets(),
        kernel=platform.release(),
        python=platform.python_version(),
        packages=versions_of((*PACKAGES, *PEER_PACKAGES)),
        load_before=round(os.getloadavg()[0], 2),
    )


def write_json(result: object, path: Path) -> None:
    """Write a dataclass as JSON in one step: whoever reads it sees all of it or the old one. What is not a number becomes null."""
    if not is_dataclass(result) or isinstance(result, type):
        raise TypeError(f"{type(result).__name__} is no result")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(_plain(asdict(result)), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise BenchError(f"{path}: cannot be written ({error.strerror}); choose another file") from error


def rendered(report: Report) -> str:
    """All tables, one below the other."""
    parts = [machine_line(report.machine)]
    for load in dict.fromkeys(row.load for row in report.rows):
        parts += ["", load, "", *_rows_table([row for row in report.rows if row.load == load])]
        parts += ["", *_comparisons_table([each for each in report.comparisons if each.load == load])]
    parts += ["", *[verdict.line for verdict in report.verdicts]]
    return "\n".join([*parts, *[f"note: {note}" for note in report.notes]])


def machine_line(machine: Machine) -> str:
    """The machine in one line."""
    packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
    isa = " ".join(machine.isa) or "none known"
    quiet = f"load before {machine.load_before:g}, stolen {100 * machine.stolen_share:.1f} %"
    return f"{machine.cpu}, {machine.cores} cores, {isa}; {packages}; {quiet}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: the first two to the left, figures to the right."""
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    def aligned(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [aligned(line) for line in [header, *lines]]


def figure(value: float, digits: int = 1) -> str:
    """A figure, or a dash for what is not a number."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _rows_table(rows: Sequence[Row]) -> list[str]:
    header = ("variant", "layer", "requests/s", "tokens/s", "p50 ms", "p99 ms", "CPU ms/request", "generator CPU %", "wrong")
    lines = [
        (
            row.variant,
            row.layer,
            figure(row.requests_per_second),
            figure(row.tokens_per_second, 0),
            figure(row.p50_ms, 2),
            figure(row.p99_ms, 2),
            figure(row.cpu_ms_per_request, 3),
            figure(100 * row.generator_share),
            f"{row.failed}+{row.unexpected}" if row.failed or row.unexpected else "0",
        )
        for row in rows
    ]
    return table(header, lines)


def _comparisons_table(comparisons: Sequence[Comparison]) -> list[str]:
    lines = [
        (each.variant, each.name, figure(each.interval.value, 3), f"{figure(each.interval.low, 3)} to {figure(each.interval.high, 3)}")
        for each in comparisons
    ]
    return table(("variant", "compared", "median", "95 % interval"), lines)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
