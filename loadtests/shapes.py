"""Loads with a shape, on one variant: steps up to the knee and beyond, a spike and what follows it, and a steady rate for long.

The load is open: latency counts from when a request was due, so what piles up in a spike is seen until it is worked off. Rates are shares
of what a closed loop could do just before, unless a rate is given.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from loadtests.arrivals import Load, phase_of, soak, spike, step_ramp
from loadtests.bench import Bench, Met, Progress, meet, sample_of, texts_for
from loadtests.breakdown import split_of
from loadtests.described import served_row
from loadtests.load import LoadGenerator
from loadtests.machine import Conditions, available_cores, on_cores, resident_bytes, share_cores
from loadtests.plan import Plan
from loadtests.request_log import RequestLog
from loadtests.results import Artifact, Machine, Split
from loadtests.run import this_machine
from loadtests.servers import HOST
from loadtests.statistics import Objective, Step, step_of
from loadtests.targets import Target, artifacts_of, pids_of, servers_of
from loadtests.texts import TASKS
from loadtests.validity import conditions_of, wrong_answers
from loadtests.writing import REQUESTS, whole_folder, write_document

RAMP = (0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.3)
SPIKE_FACTOR, BEFORE_SPIKE, SOAK = 3.0, 0.5, 0.7
CLOSED_SECONDS = 3.0
MOST_GROWTH = 0.1
MOST_LATE = 0.01
MOST_RECOVERY_SECONDS = 10.0

Kind = Literal["ramp", "spike", "soak"]

_SAMPLE_SECONDS = 1.0
_SETTLED = 0.1


@dataclass(frozen=True)
class PhaseResult:
    """One phase of the load: when it began, its length, the figures, and where time went."""

    name: str
    began_s: float
    seconds: float
    step: Step
    split: Split | None


@dataclass(frozen=True)
class MemoryPoint:
    """Resident bytes of the service at a time of the load."""

    at_s: float
    resident_bytes: int


@dataclass(frozen=True)
class Findings:
    """What a shape is made to show.

    Attributes:
        knee: ramp: the highest rate up to which every step kept the objective; 0 where the first did not.
        recovery_s: spike: seconds after it, from which on 99 of 100 answers came in time; None where that was not seen.
        growth: soak: of the service's memory, after the first tenth of the load, as a share; None where it is not known.
        promises: what is asked of the shape, and whether it was so.
    """

    knee: float | None = None
    recovery_s: float | None = None
    growth: float | None = None
    promises: dict[str, bool] | None = None


@dataclass(frozen=True)
class ShapeResult:
    """One load.

    Attributes:
        kind: its shape.
        began: in ISO 8601.
        task, label, artifact: what was asked.
        slo_ms: the objective for p99.
        capacity: requests per second of a closed loop, before.
        phases: in order.
        findings: what they come to.
        memory: of the service, as time went by; empty where it is not known.
        conditions, void: as in a comparison.
        cores, machine: where.
    """

    kind: Kind
    began: str
    task: str
    label: str
    artifact: Artifact
    slo_ms: float
    capacity: float
    phases: tuple[PhaseResult, ...]
    findings: Findings
    memory: tuple[MemoryPoint, ...]
    conditions: Conditions
    void: tuple[str, ...]
    cores: str
    machine: Machine

    @property
    def failed(self) -> bool:
        """Whether it did not show what was asked of it."""
        return not all((self.findings.promises or {}).values())


def run_shape(
    kind: Kind, plan: Plan, target: Target, *, rate: float | None, output: Path, progress: Progress, metrics: tuple[str, int] | None = None
) -> ShapeResult:
    """Make the load and write `output`, which must not be there yet. Whatever happens, nothing that was started goes on.

    Args:
        kind: shape of the load.
        plan: its first task and subject, and the minutes.
        target: of which service.
        rate: of 1 on the shape's scale, in requests per second; None for the capacity that is found.
        output: folder that is made.
        progress: is told what begins.
        metrics: address and port at which Prometheus may watch.
    """
    task, subject, cores = TASKS[plan.tasks[0]], plan.subjects[0], share_cores(available_cores())
    plan = plan.of_task(task, plan.subjects, cores=len(cores.service))
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(output))
        progress(f"{target.where(cores)}; starting")
        artifacts = stack.enter_context(artifacts_of(target, task, plan.subjects))
        if artifacts is not None:
            artifacts.require(subject.variant)
        servers = stack.enter_context(servers_of(target, artifacts, plan.subjects, cores))
        stack.enter_context(on_cores(cores.generator))
        address, port = metrics or (None, None)
        generator = stack.enter_context(LoadGenerator(metrics_port=port, metrics_address=address or HOST))
        bench = Bench(plan, generator, servers, folder / REQUESTS, pids=pids_of(target), progress=progress)
        row = served_row(bench.client(subject), task, subject)
        met = meet(bench, task, subject, row, texts_for(bench, task, {subject.label: row}))
        result = shaped(kind, bench, met, rate=rate, where=target.where(cores))
        write_document(asdict(result), folder)
    return result


def shaped(kind: Kind, bench: Bench, met: Met, *, rate: float | None, where: str) -> ShapeResult:
    """The load on a subject that answers, and what came of it; see `run_shape`."""
    plan, task, machine, began = bench.plan, TASKS[bench.plan.tasks[0]], this_machine(), datetime.now(UTC)
    objective = Objective(plan.slo_ms or task.slo_ms, plan.failures)
    capacity = bench.closed(met, connections=plan.connections, seconds=CLOSED_SECONDS, name="closed")
    bench.made.clear()
    load = load_of(kind, rate or capacity, plan.minutes)
    bench.progress(f"/{task.name}: {kind} of {60 * plan.minutes:.0f} s")
    before = bench.read()
    with sampled_memory(bench.servers[met.label].pid) as memory:
        log = bench.shape(met, load, seed=plan.seed, name=kind)
    phases = tuple(phases_of(load, log))
    conditions = conditions_of(bench.made, before, bench.read(), known=bench.pids is not None)
    return ShapeResult(
        kind=kind,
        began=began.isoformat(timespec="seconds"),
        task=task.name,
        label=met.label,
        artifact=met.artifact,
        slo_ms=objective.slo_ms,
        capacity=capacity,
        phases=phases,
        findings=findings_of(kind, load, phases, log, memory, objective),
        memory=tuple(memory),
        conditions=conditions,
        void=(*conditions.reasons, *wrong_answers([log], plan)),
        cores=where,
        machine=machine,
    )


def load_of(kind: Kind, rate: float, minutes: float) -> Load:
    """The shape; `rate` is 1 on its scale."""
    seconds = 60.0 * minutes
    match kind:
        case "ramp":
            return step_ramp([share * rate for share in RAMP], seconds / len(RAMP))
        case "spike":
            return spike(BEFORE_SPIKE * rate, factor=SPIKE_FACTOR, before=0.25 * seconds, during=0.15 * seconds, after=0.6 * seconds)
        case "soak":
            return soak(SOAK * rate, minutes)


def phases_of(load: Load, log: RequestLog) -> Iterator[PhaseResult]:
    """Requests that were due in each phase."""
    ends = np.cumsum([phase.seconds for phase in load])
    of_phase = phase_of(log.intended_s, load)
    for number, phase in enumerate(load):
        part = log.where(of_phase == number)
        yield PhaseResult(
            phase.name, float(ends[number] - phase.seconds), phase.seconds, step_of(phase.rate, sample_of(part)), split_of(part)
        )


def findings_of(
    kind: Kind, load: Load, phases: Sequence[PhaseResult], log: RequestLog, memory: Sequence[MemoryPoint], objective: Objective
) -> Findings:
    """What the shape is made to show."""
    match kind:
        case "ramp":
            return Findings(knee=knee_of(phases, objective))
        case "spike":
            recovery = recovery_of(load, log, objective)
            return Findings(
                recovery_s=recovery,
                promises={f"in time again within {MOST_RECOVERY_SECONDS:g} s": recovery is not None and recovery <= MOST_RECOVERY_SECONDS},
            )
        case "soak":
            growth, kept = growth_of(memory), all(objective.kept(phase.step) for phase in phases)
            promises = {"every minute within the objective": kept}
            known = {} if growth is None else {f"memory grew by at most {MOST_GROWTH:.0%}": growth <= MOST_GROWTH}
            return Findings(growth=growth, promises=promises | known)


def knee_of(phases: Sequence[PhaseResult], objective: Objective) -> float:
    """The highest rate up to which every step kept the objective; 0 for none."""
    knee = 0.0
    for phase in phases:
        if not objective.kept(phase.step):
            break
        knee = phase.step.rate
    return knee


def recovery_of(load: Load, log: RequestLog, objective: Objective) -> float | None:
    """Seconds after the spike from which on 99 of 100 answers were right and in time; None where that was not seen."""
    end, shut = load[0].seconds + load[1].seconds, sum(phase.seconds for phase in load)
    bad = ~(log.good & (log.latency_ms <= objective.slo_ms))
    for start in np.arange(end, shut, _SAMPLE_SECONDS):
        after = bad[log.intended_s >= start]
        if len(after) and after.mean() <= MOST_LATE:
            return float(start - end)
    return None


def growth_of(memory: Sequence[MemoryPoint]) -> float | None:
    """Of memory after the first tenth of the load, as a share; None of less than two readings."""
    settled = [point.resident_bytes for point in memory if point.at_s >= _SETTLED * memory[-1].at_s]
    return settled[-1] / settled[0] - 1.0 if len(settled) > 1 else None


@contextmanager
def sampled_memory(pid: int | None) -> Iterator[list[MemoryPoint]]:
    """Readings of a process' memory, once a second while the block runs; none where there is no process."""
    points, over, began = list[MemoryPoint](), threading.Event(), time.monotonic()

    def watch() -> None:
        while not over.wait(_SAMPLE_SECONDS):
            if (found := resident_bytes(pid)) is not None:
                points.append(MemoryPoint(time.monotonic() - began, found))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield points
    finally:
        over.set()
        thread.join()


def shape_lines(result: ShapeResult) -> list[str]:
    """For people."""
    found = [f"/{result.task}, {result.label}, {result.kind}: p99 within {result.slo_ms:g} ms; {result.capacity:.3g} requests/s at most"]
    found += [f"  {_phase_line(phase)}" for phase in result.phases]
    findings = result.findings
    if findings.knee is not None:
        found.append(f"  knee: {findings.knee:.3g} requests/s" if findings.knee else "  knee: below the first step")
    if result.kind == "spike":
        seen = "was not seen" if findings.recovery_s is None else f"after {findings.recovery_s:g} s"
        found.append(f"  recovery: {seen}")
    if findings.growth is not None:
        found.append(f"  memory: {findings.growth:+.1%} after the first tenth")
    found += [f"{'pass' if kept else 'FAIL'}  {promise}" for promise, kept in (findings.promises or {}).items()]
    return found + [f"VOID  {reason}" for reason in result.void]


def _phase_line(phase: PhaseResult) -> str:
    step = phase.step
    return (
        f"{phase.name:<12} {step.rate:8.2f}/s  p50 {step.p50_ms:8.1f} ms  p99 {step.p99_ms:8.1f} ms  "
        f"{step.failed_share:6.1%} of {step.requests} failed"
    )
