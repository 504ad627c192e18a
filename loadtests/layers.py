"""The layers of the service, raw session, engine and HTTP, as `secateur-serve bench --json` measures them."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loadtests.artifacts import Artifacts
from loadtests.children import run_child
from loadtests.errors import MeasurementError
from loadtests.plan import Plan
from loadtests.results import Layer
from loadtests.statistics import Interval

RAW = "raw"
EFFICIENCIES = {"engine": "engine's efficiency", "http": "efficiency"}

_ENDINGS = (0, 1)  # 1: one of the benchmark's own promises was broken, which is not ours to judge


def layers_of(plan: Plan, artifacts: Artifacts, *, within_s: float) -> tuple[Layer, ...]:
    """Of each variant, in the runtime that the benchmark chooses for it; `MeasurementError` when it fails, or takes longer than so."""
    variants = dict.fromkeys(subject.variant for subject in plan.subjects)
    rounds, seconds = (1, 0.4) if plan.quick else (plan.rounds, 1.0)
    with TemporaryDirectory(prefix="secateur-bench-") as name:
        target = Path(name) / "bench.json"
        command = [sys.executable, "-m", "service", "--models", str(artifacts.folder), "bench", "--no-peers", "--json", str(target)]
        options = [*(f"--variant={variant}" for variant in variants), f"--rounds={rounds}", f"--seconds={seconds}"]
        done = run_child([*command, *options], seconds=within_s)
        if done.code not in _ENDINGS or not target.is_file():
            raise MeasurementError(f"secateur-serve bench failed: {done.last_words}")
        return tuple(read_layers(json.loads(target.read_text(encoding="utf-8"))))


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
                efficiency=compared.get((row["load"], row["variant"], EFFICIENCIES.get(row["layer"], ""))),
            )
