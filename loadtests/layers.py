"""The layers of the service, raw session, engine and HTTP, as `secateur-serve bench --json` measures them."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtests.artifacts import Artifacts
from loadtests.children import run_child
from loadtests.errors import MeasurementError
from loadtests.plan import Plan, Subject
from loadtests.results import Layer
from loadtests.statistics import Interval

RAW = "raw"
EFFICIENCIES = {"engine": "engine's efficiency", "http": "efficiency"}

_ENDINGS = (0, 1)  # 1: one of the benchmark's own promises was broken, which is not ours to judge


@dataclass(frozen=True)
class Layers:
    """What the benchmark found, and what it left out."""

    layers: tuple[Layer, ...] = ()
    notes: tuple[str, ...] = ()


def layers_of(plan: Plan, artifacts: Artifacts, *, tokens: int, within_s: float) -> Layers:
    """Of each variant, in the runtime that the benchmark chooses for it; `MeasurementError` when it fails, or takes too long.

    Args:
        plan: what is compared.
        artifacts: what there is.
        tokens: of each text; no more than the model takes.
        within_s: seconds that it may take.
    """
    variants = dict.fromkeys(subject.variant for subject in plan.subjects)
    rounds, seconds = (1, 0.4) if plan.quick else (plan.rounds, 1.0)
    with TemporaryDirectory(prefix="secateur-bench-") as name:
        target = Path(name) / "bench.json"
        command = [sys.executable, "-m", "service", "--models", str(artifacts.folder), "bench", "--no-peers", "--json", str(target)]
        options = [*(f"--variant={variant}" for variant in variants), f"--rounds={rounds}", f"--seconds={seconds}", f"--tokens={tokens}"]
        done = run_child([*command, *options], seconds=within_s)
        if done.code not in _ENDINGS or not target.is_file():
            raise MeasurementError(f"secateur-serve bench failed: {done.last_words}")
        report = json.loads(target.read_text(encoding="utf-8"))
    layers = tuple(read_layers(report))
    return Layers(layers, (*differences(plan.subjects, layers), *(f"layers of the service: {note}" for note in report["notes"])))


def differences(subjects: Sequence[Subject], layers: Sequence[Layer]) -> Iterator[str]:
    """Where the benchmark measured another runtime than was compared, or nothing."""
    measured = dict.fromkeys(layer.subject for layer in layers)
    for subject in subjects:
        others = [label for label in measured if label.partition("@")[0] == subject.variant]
        if subject.label not in measured:
            yield f"layers of the service have no {subject.label}" + "".join(f", but {label}" for label in others)


def read_layers(report: Mapping[str, Any]) -> Iterator[Layer]:
    """Layers of the first load, which is of one text per request."""
    rows: Sequence[Mapping[str, Any]] = report["rows"]
    compared = {(each["load"], each["variant"], each["name"]): Interval(**each["interval"]) for each in report["comparisons"]}
    for row in rows:
        if row["load"] == rows[0]["load"]:
            yield Layer(
                subject="@".join(row["variant"].split(", ")),
                layer=row["layer"],
                requests_per_second=row["requests_per_second"],
                p50_ms=row["p50_ms"],
                p99_ms=row["p99_ms"],
                cpu_ms_per_request=row["cpu_ms_per_request"],
                tokens=row["tokens_per_request"],
                efficiency=compared.get((row["load"], row["variant"], EFFICIENCIES.get(row["layer"], ""))),
            )
