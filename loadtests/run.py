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

import psutil

from loadtests.below import Below, below
from loadtests.compare import Bench, Progress, compare_task
from loadtests.gates import Gate, verdicts
from loadtests.load import LoadGenerator
from loadtests.machine import Cores, available_cores, instruction_sets, on_cores, processor, share_cores
from loadtests.plan import Plan
from loadtests.results import Gemm, Machine, Result, TaskResult
from loadtests.servers import HOST
from loadtests.targets import Target, artifacts_of, pids_of, servers_of
from loadtests.texts import TASKS, Task
from loadtests.writing import REQUESTS, whole_folder, write

PACKAGES = ("secateur", "onnxruntime", "openvino", "torch", "tokenizers", "numpy", "fastapi", "uvicorn", "locust", "gevent")
FOR_ATTRIBUTION = ("dense", "dense-int8", "compact", "compact-int8")


@dataclass(frozen=True)
class Setting:
    """What all tasks share.

    Attributes:
        plan: what is compared.
        target: of which service.
        cores: which are whose.
        generator: makes the load.
        folder: of results.
        progress: is told what begins.
    """

    plan: Plan
    target: Target
    cores: Cores
    generator: LoadGenerator
    folder: Path
    progress: Progress


def run(
    plan: Plan, target: Target, *, gates: Sequence[Gate], output: Path, progress: Progress, metrics: tuple[str, int] | None = None
) -> Result:
    """Compare, and write `output`, which must not be there yet. Whatever happens, nothing that was started goes on.

    Args:
        plan: what is compared.
        target: of which service.
        gates: what it has to show.
        output: folder that is made.
        progress: is told what begins.
        metrics: address and port at which Prometheus may watch.
    """
    began, clock, machine = datetime.now(UTC), time.monotonic(), this_machine()
    cores = share_cores(available_cores())
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(output))
        progress(f"{cores}; starting")
        address, port = metrics or (None, None)
        with on_cores(cores.generator):
            generator = stack.enter_context(LoadGenerator(metrics_port=port, metrics_address=address or HOST))
        setting = Setting(plan, target, cores, generator, folder, progress)
        measured = [measure(setting, TASKS[name]) for name in plan.tasks]
        tasks = tuple(task for task, _ in measured)
        result = Result(
            began=began.isoformat(timespec="seconds"),
            seconds=time.monotonic() - clock,
            machine=replace(machine, gemms=measured[0][1]),
            cores=target.where(cores),
            plan={**asdict(plan), "lengths": str(plan.lengths or ""), "texts": str(plan.texts or ""), "times": asdict(plan.times)},
            tasks=tasks,
            verdicts=verdicts(gates, [ratio for task in tasks for ratio in task.ratios], {task.task: task.lengths for task in tasks}),
        )
        write(result, folder)
    return result


def stages(plan: Plan, target: Target) -> int:
    """How often `run` tells its progress."""
    below_http = 2 * (plan.below and target.models is not None)
    return 1 + len(plan.tasks) * (2 + len(plan.subjects) * (1 + plan.rounds) + below_http)


def measure(setting: Setting, task: Task) -> tuple[TaskResult, tuple[Gemm, ...]]:
    """A task over HTTP, and then, where its artifacts are at hand, what lies below."""
    target, cores = setting.target, setting.cores
    plan = setting.plan.within(setting.plan.slo_ms or task.slo_ms)
    setting.progress(f"/{task.name}: starting the service")
    also = FOR_ATTRIBUTION if plan.below else ()
    with artifacts_of(target, task, plan.subjects, also=also) as artifacts:
        with servers_of(target, artifacts, plan.subjects, cores) as servers, on_cores(cores.generator):
            bench = Bench(plan, setting.generator, servers, setting.folder / REQUESTS, pids=pids_of(target), progress=setting.progress)
            result = compare_task(bench, task)
        if artifacts is None:
            return replace(result, notes=(*result.notes, "what lies below HTTP is measured only where artifacts are at hand")), ()
        tokens = max(result.tokens)
        found = below(plan, task, artifacts, tokens=tokens, cores=cores, progress=setting.progress) if plan.below else Below()
    raw, made = found.raw, (f"{variant} was made for this comparison" for variant in artifacts.made)
    notes = (*result.notes, *made, *raw.notes)
    return replace(result, layers=found.layers, sessions=raw.sessions, factors=raw.factors, rooflines=raw.rooflines, notes=notes), raw.gemms


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
