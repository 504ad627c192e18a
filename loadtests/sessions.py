"""Raw sessions, from what a child (`loadtests.probe`) measured: latency by length, what each step won, and how near matrix products come
to the fastest that one core does.
"""

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests.artifacts import Artifacts
from loadtests.children import run_child
from loadtests.described import macs_at
from loadtests.errors import MeasurementError
from loadtests.machine import instruction_sets
from loadtests.plan import RUNTIMES, Plan
from loadtests.results import Factor, Gemm, Roofline, Session
from loadtests.statistics import Interval, bootstrap
from loadtests.texts import Task

LENGTHS, QUICK_LENGTHS = (16, 32, 64, 128, 256, 384), (32, 128, 384)
QUICK_ROUNDS, QUICK_SECONDS, SECONDS = 3, 0.1, 0.3
GRAPH = "model.onnx"
ONNX, OPENVINO = RUNTIMES
TORCH = "torch"
CHAINS = {
    "compact-int8": ("dense@torch", "dense", "dense-int8", "compact-int8"),
    "compact@openvino": ("dense@torch", "dense", "compact", "compact@openvino"),
}
STEPS = {
    ("dense@torch", "dense"): "ONNX Runtime",
    ("dense", "dense-int8"): "8 bits",
    ("dense-int8", "compact-int8"): "pruning",
    ("dense", "compact"): "pruning",
    ("compact", "compact@openvino"): "second runtime",
}

Rounds = NDArray[np.float64]
Times = Mapping[str, Mapping[int, Rounds]]


@dataclass(frozen=True)
class Probed:
    """A raw session; `label` is the variant and, where it is not ONNX Runtime, what runs it."""

    label: str
    variant: str
    runtime: str
    precision: str


@dataclass(frozen=True)
class Raw:
    """What was found; see `loadtests.results`."""

    sessions: tuple[Session, ...] = ()
    factors: tuple[Factor, ...] = ()
    rooflines: tuple[Roofline, ...] = ()
    gemms: tuple[Gemm, ...] = ()
    notes: tuple[str, ...] = ()


def raw_of(plan: Plan, task: Task, artifacts: Artifacts, *, tokens: int, within_s: float) -> Raw:
    """Sessions of the subjects and of what lies on the way to them; `MeasurementError` when nothing is measured.

    Args:
        plan: what is compared.
        task: of which.
        artifacts: what there is.
        tokens: of the load; one of the lengths.
        within_s: seconds that it may take.
    """
    probed = probed_of(plan, artifacts)
    wanted = products_of(probed)
    longest = min(manifest["max_length"] for manifest in artifacts.manifests.values())
    lengths = sorted({min(tokens, longest), *(length for length in (QUICK_LENGTHS if plan.quick else LENGTHS) if length <= longest)})
    job = {
        "sessions": [{**asdict(each), "path": str(artifacts.path(each.variant)), "task": task.served_as} for each in probed],
        "lengths": lengths,
        "rounds": QUICK_ROUNDS if plan.quick else plan.rounds,
        "seconds": QUICK_SECONDS if plan.quick else SECONDS,
        "gemms": [{"runtime": runtime, "precision": precision} for runtime, precision in wanted],
    }
    found = probe(job, within_s=within_s)
    times = {label: {int(length): np.array(each) for length, each in rows.items()} for label, rows in found["milliseconds"].items()}
    gemms = tuple(Gemm(*of, giga) for of, giga in zip(wanted, found["gemms"], strict=True))
    return Raw(
        sessions=tuple(sessions_of(times, plan.subjects[0].label)),
        factors=tuple(factors_of(times, min(tokens, longest))),
        rooflines=tuple(rooflines_of(times, probed, artifacts.manifests, gemms)),
        gemms=gemms,
        notes=notes_of({**absent_of(plan, artifacts), **found["failed"]}),
    )


def notes_of(left_out: Mapping[str, str]) -> tuple[str, ...]:
    """Of what was left out, by label; a step to it is joined with the next one, or missing where it is the last."""
    return tuple(f"{label} was left out of raw sessions and of what each step won: {reason}" for label, reason in left_out.items())


def probe(job: dict[str, Any], *, within_s: float) -> dict[str, Any]:
    """What the child says to a job within so many seconds; see `loadtests.probe.measure`."""
    done = run_child(
        [sys.executable, "-m", "loadtests.probe"], seconds=within_s, text=json.dumps(job), environment={"OMP_NUM_THREADS": "1"}
    )
    if done.code != 0:
        raise MeasurementError(f"raw sessions could not be measured: {done.last_words}")
    found: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return found


def probed_of(plan: Plan, artifacts: Artifacts) -> list[Probed]:
    """The subjects, then the other ends of the steps, as far as they are there."""
    return [
        Probed(label, variant, runtime, precision_in(runtime, artifacts.manifests[variant]))
        for label, (variant, runtime) in wanted_of(plan).items()
        if absence(artifacts, variant, runtime) is None
    ]


def absent_of(plan: Plan, artifacts: Artifacts) -> dict[str, str]:
    """Why one of those cannot be measured, by its label."""
    reasons = {label: absence(artifacts, variant, runtime) for label, (variant, runtime) in wanted_of(plan).items()}
    return {label: reason for label, reason in reasons.items() if reason is not None}


def wanted_of(plan: Plan) -> dict[str, tuple[str, str]]:
    """Variant and runtime of each session, by its label."""
    labels = [*(subject.label for subject in plan.subjects), *(label for chain in CHAINS.values() for label in chain)]
    parts = {label: label.partition("@") for label in labels}
    return {label: (variant, runtime or ONNX) for label, (variant, _, runtime) in parts.items()}


def absence(artifacts: Artifacts, variant: str, runtime: str) -> str | None:
    """Why a variant cannot be measured in a runtime; None where it can. A model of several graphs has no single one."""
    if variant in artifacts.missing:
        return artifacts.missing[variant]
    if not (artifacts.path(variant) / GRAPH).is_file():
        return f"{variant} has no {GRAPH}"
    return None if importlib.util.find_spec(runtime) else f"{runtime} is not installed"


def precision_in(runtime: str, manifest: Mapping[str, Any]) -> str:
    """Of matrix products; OpenVINO takes bf16 on a processor with AMX, as the service lets it."""
    if runtime == OPENVINO and manifest["precision"] == "fp32" and "amx_bf16" in instruction_sets():
        return "bf16"
    return "int8" if str(manifest["precision"]).startswith("int8") else str(manifest["precision"])


def products_of(probed: Sequence[Probed]) -> list[tuple[str, str]]:
    """Runtimes and precisions whose matrix products are measured."""
    return list(dict.fromkeys((each.runtime, each.precision) for each in probed if each.runtime != TORCH))


def sessions_of(times: Times, first: str) -> Iterator[Session]:
    """Latency, and how many times as fast as the first subject's."""
    for label, rows in times.items():
        for tokens, values in sorted(rows.items()):
            if first in times:
                latency = bootstrap(len(values), partial(median_of, values))
                yield Session(label, tokens, latency, ratio_of(times[first][tokens], values))


def median_of(values: Rounds, pick: NDArray[np.int64]) -> float:
    """Over the rounds of those numbers."""
    return float(np.median(values[pick]))


def factors_of(times: Times, tokens: int) -> Iterator[Factor]:
    """Steps of each chain; one whose middle is missing is joined with the next."""
    for end, chain in CHAINS.items():
        there = [label for label in chain if label in times]
        for before, after in pairwise(there):
            if end in there:
                yield Factor(
                    step_name(chain, before, after), before, after, tokens, ratio_of(times[before][tokens], times[after][tokens]), end
                )


def step_name(chain: Sequence[str], before: str, after: str) -> str:
    """Of one step, or of several that were not measured apart."""
    between = chain[chain.index(before) : chain.index(after) + 1]
    return " and ".join(STEPS[pair] for pair in pairwise(between))


def ratio_of(before: Rounds, after: Rounds) -> Interval:
    """Geometric mean over rounds, so that ratios along a chain multiply."""
    return bootstrap(len(before), lambda pick: float(np.exp(np.mean(np.log(before[pick] / after[pick])))))


def rooflines_of(
    times: Times, probed: Sequence[Probed], manifests: Mapping[str, Mapping[str, Any]], gemms: Sequence[Gemm]
) -> Iterator[Roofline]:
    """Operations of each session and length over the fastest matrix product of the same runtime and precision."""
    fastest = {(each.runtime, each.precision): each.giga_per_second for each in gemms}
    for each in probed:
        for tokens, values in sorted(times.get(each.label, {}).items()):
            macs, best = macs_at(manifests[each.variant], tokens), fastest.get((each.runtime, each.precision))
            if macs and best:
                reached = 2e-6 * macs / float(np.median(values))
                yield Roofline(each.label, each.precision, tokens, reached, reached / best)
