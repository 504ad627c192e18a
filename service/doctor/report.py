"""What the doctor found: the machine, a row for each setting, the settings that follow, and the page that says so."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import geometric_mean
from typing import TypeVar

from service.runtime import DEFAULT_OPTIONS, RuntimeName

MARGIN = 1.05

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Layout:
    """How calls share the cores.

    Attributes:
        callers: calls at once.
        threads: threads inside each.
        spinning: whether waiting threads keep their cores busy; measured as a warning, never advised.
    """

    callers: int
    threads: int
    spinning: bool = False

    def __str__(self) -> str:
        return f"{self.callers} x {self.threads}" + (" spinning" if self.spinning else "")


@dataclass(frozen=True)
class Host:
    """The machine, as far as it decides speed.

    Attributes:
        cpu: model name of the processor.
        cores: what settings without a number take: the affinity mask, cut by the quota.
        affinity: cores of the affinity mask.
        quota: cores' worth of time that the cgroup grants; None without a limit.
        isa: instruction sets that matter.
        versions: of the runtimes; None where one is not installed.
        cuda: whether ONNX Runtime was built for CUDA.
    """

    cpu: str
    cores: int
    affinity: int
    quota: float | None
    isa: tuple[str, ...]
    versions: Mapping[RuntimeName, str | None]
    cuda: bool


@dataclass(frozen=True)
class Row:
    """One artifact in one runtime, layout and length, one row per call. The golden check passed.

    Attributes:
        artifact: `<name>/<variant>`.
        runtime: its name.
        layout: callers and threads.
        tokens: tokens in a row.
        tokens_per_s: of all callers together.
        latency_ms: median time of a call, all callers calling.
    """

    artifact: str
    runtime: RuntimeName
    layout: Layout
    tokens: int
    tokens_per_s: float
    latency_ms: float


@dataclass(frozen=True)
class Refusal:
    """An artifact that the service would not load in a runtime, and why: the golden check, among others."""

    artifact: str
    runtime: RuntimeName
    problem: str


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        host: the machine.
        rows: what was measured.
        refusals: what was not, and why.
        settings: environment variables with the values that gave the most tokens per second.
    """

    host: Host
    rows: tuple[Row, ...]
    refusals: tuple[Refusal, ...]
    settings: Mapping[str, str]

    def as_dict(self) -> dict[str, object]:
        """Plain data, for JSON."""
        return asdict(self)


def advised(rows: Iterable[Row]) -> dict[str, str]:
    """Environment variables for the most tokens per second over all artifacts and lengths; empty when nothing was measured.

    Another layout than a call on each core, and another runtime than the default, must be faster by a twentieth: less than that comes
    and goes with the machine's other work.
    """
    by_layout = _speeds(rows)
    if not by_layout:
        return {}
    layout = _first_or_faster({way: geometric_mean([max(by.values()) for by in speeds.values()]) for way, speeds in by_layout.items()})
    chosen = {artifact: _first_or_faster(by_runtime) for artifact, by_runtime in sorted(by_layout[layout].items())}
    others = {artifact: runtime for artifact, runtime in chosen.items() if runtime != DEFAULT_OPTIONS.name}
    settings = {"SECATEUR_RUNNERS": str(layout.callers), "SECATEUR_THREADS": str(layout.threads)}
    return settings | ({"SECATEUR_RUNTIME": json.dumps(others)} if others else {})


def render(report: Report) -> str:
    """The page: machine, table, what is refused, and lines to paste."""
    parts = [_host_lines(report.host), _table(report.rows), _refusal_lines(report.refusals), _setting_lines(report.settings)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _speeds(rows: Iterable[Row]) -> dict[Layout, dict[str, dict[RuntimeName, float]]]:
    """Tokens per second, mean over lengths, by layout, artifact and runtime, in the order of the rows; without spinning."""
    found: dict[Layout, dict[str, dict[RuntimeName, list[float]]]] = {}
    for row in rows:
        if not row.layout.spinning:
            by_artifact = found.setdefault(row.layout, {})
            by_artifact.setdefault(row.artifact, {}).setdefault(row.runtime, []).append(row.tokens_per_s)
    return {
        layout: {artifact: {name: geometric_mean(values) for name, values in by.items()} for artifact, by in by_artifact.items()}
        for layout, by_artifact in found.items()
    }


def _first_or_faster(speeds: Mapping[Choice, float]) -> Choice:
    """The fastest, if it beats the first by the margin; else the first."""
    first, fastest = next(iter(speeds)), max(speeds, key=lambda choice: speeds[choice])
    return fastest if speeds[fastest] > MARGIN * speeds[first] else first


def _host_lines(host: Host) -> list[str]:
    quota = "no quota" if host.quota is None else f"a quota of {host.quota:g}"
    return [
        f"{host.cpu}: {host.cores} cores to use ({host.affinity} by affinity, {quota})",
        f"instruction sets: {', '.join(host.isa) or 'none that matter'}",
        "runtimes: " + ", ".join(f"{name} {version or 'not installed'}" for name, version in host.versions.items()),
        "GPU: " + ("ONNX Runtime is built for CUDA" if host.cuda else "none that this ONNX Runtime could use"),
    ]


def _table(rows: Sequence[Row]) -> list[str]:
    """A line for each setting, all lengths in it."""
    if not rows:
        return []
    lines = [("artifact", "runtime", "callers x threads", "tokens: tokens/s, p50 of a call", "golden")]
    for (artifact, runtime, layout), same in groupby(rows, key=lambda row: (row.artifact, row.runtime, row.layout)):
        figures = [f"{row.tokens:>4}: {row.tokens_per_s:>8,.0f} {row.latency_ms:>8.2f} ms" for row in same]
        lines.append((artifact, runtime, str(layout), "  ".join(figures), "ok"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    warned = any(row.layout.spinning for row in rows)
    return (
        [*table, "spinning: waiting threads keep their cores busy, to the cost of whatever else runs; never advised"] if warned else table
    )


def _refusal_lines(refusals: Sequence[Refusal]) -> list[str]:
    if not refusals:
        return []
    return ["Refused here:", *(f"  {refusal.artifact} in {refusal.runtime}: {refusal.problem}" for refusal in refusals)]


def _setting_lines(settings: Mapping[str, str]) -> list[str]:
    """Lines that a shell or an environment file takes."""
    if not settings:
        return ["Nothing could be measured, so there is nothing to advise."]
    values = {name: value if value.isalnum() else f"'{value}'" for name, value in settings.items()}
    return ["# most tokens per second on this machine", *(f"{name}={value}" for name, value in values.items())]
