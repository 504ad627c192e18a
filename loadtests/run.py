"""A whole comparison: the services that it needs, the generator, every task, what lies below HTTP, verdicts, and the folder of results."""

import os
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from loadtests.below import Below, below
from loadtests.bench import Bench, Progress
from loadtests.compare import compare_task
from loadtests.deadline import Deadline
from loadtests.errors import LoadTestError
from loadtests.gates import Gate, shipped_gates, verdicts
from loadtests.jobs import Jobs
from loadtests.load import LoadGenerator
from loadtests.machine import available_cores, instruction_sets, on_cores, processor
from loadtests.results import Gemm, Machine, Result, TaskResult
from loadtests.servers import HOST
from loadtests.targets import pids_of, servers_of, shared_cores
from loadtests.writing import REQUESTS, whole_folder, write

PACKAGES = ("secateur", "onnxruntime", "openvino", "torch", "tokenizers", "numpy", "fastapi", "uvicorn", "locust", "gevent")

QUICK_NOTE = "--quick is to see that it works: it decides no gate, and its figures rest on few requests"


@dataclass(frozen=True)
class Setting:
    """What all tasks share.

    Attributes:
        jobs: what is measured.
        generator: makes the load.
        folder: of results.
        progress: is told what begins.
    """

    jobs: Jobs
    generator: LoadGenerator
    folder: Path
    progress: Progress


@dataclass(frozen=True)
class Measured:
    """What was found; and the task that failed and its error, where one did."""

    tasks: tuple[TaskResult, ...]
    gemms: tuple[Gemm, ...]
    failed: str = ""
    error: Exception | None = None


def run(jobs: Jobs, *, gates: Sequence[Gate], output: Path, progress: Progress, metrics: tuple[str, int] | None = None) -> Result:
    """Compare, and write `output`, which must not be there yet. Whatever happens, nothing that was started goes on.

    Tasks that are done are kept when a later one fails; the result is then void.

    Args:
        jobs: what is measured.
        gates: what it has to show; without any, the project's own of the models that ship.
        output: folder that is made.
        progress: is told what begins.
        metrics: address and port at which Prometheus may watch.

    Raises:
        LoadTestError: the first task came to nothing.
    """
    began, clock, machine, where = datetime.now(UTC), time.monotonic(), this_machine(), jobs.target.where(jobs.cores)
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(output))
        progress(f"{where}; starting")
        address, port = metrics or (None, None)
        with on_cores(jobs.cores.generator):
            generator = stack.enter_context(LoadGenerator(metrics_port=port, metrics_address=address or HOST))
        found = measure_all(Setting(jobs, generator, folder, progress))
        ratios, lengths = [ratio for task in found.tasks for ratio in task.ratios], {task.task: task.lengths for task in found.tasks}
        result = Result(
            began=began.isoformat(timespec="seconds"),
            seconds=time.monotonic() - clock,
            machine=replace(machine, gemms=found.gemms),
            cores=where,
            plan=plan_document(jobs),
            tasks=found.tasks,
            verdicts=verdicts(gates or gates_of(jobs), ratios, lengths, machine.isa),
            notes=(*jobs.notes, *([QUICK_NOTE] if jobs.plan.quick else [])),
            stopped="" if found.error is None else f"/{found.failed} came to nothing: {found.error}",
        )
        write(result, folder)
    if found.error is not None and not isinstance(found.error, LoadTestError):
        raise found.error
    return result


def stages(jobs: Jobs) -> int:
    """How often `run` tells its progress."""
    below_http = 2 * (jobs.plan.below and jobs.target.models is not None)
    return 1 + sum(3 + len(job.plan.subjects) * (1 + job.plan.rounds) + below_http for job in jobs.tasks)


def measure_all(setting: Setting) -> Measured:
    """One task after another, up to the first that fails; its error is raised where there is nothing to keep."""
    tasks, gemms = list[TaskResult](), tuple[Gemm, ...]()
    for number, job in enumerate(setting.jobs.tasks):
        try:
            task, found = measure(setting, number)
        except Exception as error:  # whatever it is, what was measured is kept
            if not tasks:
                raise
            for log in (setting.folder / REQUESTS).glob(f"{job.task.name}-*"):
                log.unlink()
            return Measured(tuple(tasks), gemms, job.task.name, error)
        tasks.append(task)
        gemms = gemms or found
    return Measured(tuple(tasks), gemms)


def measure(setting: Setting, number: int) -> tuple[TaskResult, tuple[Gemm, ...]]:
    """A task over HTTP, and then, where its artifacts are at hand, what lies below."""
    jobs, progress = setting.jobs, setting.progress
    job, target, cores = jobs.tasks[number], jobs.target, jobs.cores
    plan, artifacts = job.plan, job.artifacts
    jobs.deadline.check()
    progress(f"/{job.task.name}: starting the service")
    with servers_of(target, artifacts, plan.subjects, cores) as servers, on_cores(cores.generator):
        folder, pids = setting.folder / REQUESTS, pids_of(target)
        bench = Bench(plan, setting.generator, servers, folder, pids=pids, progress=progress, deadline=jobs.deadline)
        result = compare_task(bench, job.task)
    result = replace(result, notes=(*result.notes, *job.notes, *shared_cores(target, pids, cores)))
    if artifacts is None:
        return replace(result, notes=(*result.notes, "what lies below HTTP is measured only where artifacts are at hand")), ()
    before_others = Deadline(jobs.deadline.began, jobs.deadline.seconds - sum(each.plan.seconds for each in jobs.tasks[number + 1 :]))
    tokens = max(result.tokens)
    found = (
        below(plan, job.task, artifacts, tokens=tokens, deadline=before_others, cores=cores, progress=progress) if plan.below else Below()
    )
    return with_below(result, found, artifacts.made), found.raw.gemms


def with_below(result: TaskResult, found: Below, made: Sequence[str]) -> TaskResult:
    """A task with what lies below HTTP; what disturbed that makes it void, too."""
    raw = found.raw
    return replace(
        result,
        layers=found.layers,
        sessions=raw.sessions,
        factors=raw.factors,
        rooflines=raw.rooflines,
        conditions_below=found.conditions,
        void=(*result.void, *(f"below HTTP, {reason}" for reason in (found.conditions.reasons if found.conditions else ()))),
        notes=(*result.notes, *(f"{variant} was made for this comparison" for variant in made), *raw.notes),
    )


def gates_of(jobs: Jobs) -> tuple[Gate, ...]:
    """The project's own, of those models that ship and of what is asked for; a quick run decides none."""
    labels = [subject.label for subject in jobs.plan.subjects]
    models = {job.task.name: job.artifacts.model for job in jobs.tasks if job.artifacts}
    return () if jobs.plan.quick else shipped_gates(jobs.target.models, models, labels)


def plan_document(jobs: Jobs) -> dict[str, Any]:
    """What was asked for, and what that came to for each task."""
    plan = asdict(jobs.plan)
    labels = dict.fromkeys(subject for job in jobs.tasks for subject in job.plan.subjects)
    return {
        **plan,
        "subjects": [asdict(subject) for subject in labels],
        "lengths": str(jobs.plan.lengths or ""),
        "texts": str(jobs.plan.texts or ""),
        "connections": {job.task.name: job.plan.connections for job in jobs.tasks},
        "times": {job.task.name: asdict(job.plan.times) for job in jobs.tasks},
        "most_minutes": jobs.deadline.seconds / 60,
    }


def this_machine() -> Machine:
    """Before the run."""
    return Machine(
        processor=processor(),
        system=platform.platform(),
        python=platform.python_version(),
        cores=len(available_cores()),
        memory_bytes=int(psutil.virtual_memory().total),
        isa=instruction_sets(),
        load_before=round(os.getloadavg()[0], 2),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
