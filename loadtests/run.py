"""A whole comparison: the services that it needs, the generator, every task, verdicts, and the folder of results."""

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadtests.compare import Bench, Progress, compare_task
from loadtests.gates import Gate, verdicts
from loadtests.load import LoadGenerator
from loadtests.machine import Cores, available_cores, listeners, on_cores, share_cores
from loadtests.plan import Plan
from loadtests.results import REQUESTS, Result, whole_folder, write
from loadtests.servers import HOST, running, service_command, service_environment
from loadtests.texts import TASKS

PACKAGES = ("secateur", "locust", "gevent", "onnxruntime", "openvino", "tokenizers", "numpy")


@dataclass(frozen=True)
class Target:
    """What is measured: a service at `url`, or, without one, one that `command` starts for each runtime."""

    command: tuple[str, ...]
    url: str | None = None

    @classmethod
    def of(cls, url: str | None, models: Path) -> "Target":
        """A running service, or this project's with these models."""
        return cls(tuple(service_command(models)), url)


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
    began, clock = datetime.now(UTC), time.monotonic()
    cores = share_cores(available_cores())
    with ExitStack() as stack:
        folder = stack.enter_context(whole_folder(output))
        progress(f"{cores}; starting")
        urls = stack.enter_context(_services(plan, target, cores))
        stack.enter_context(on_cores(cores.generator))
        address, port = metrics or (None, None)
        generator = stack.enter_context(LoadGenerator(metrics_port=port, metrics_address=address or HOST))
        bench = Bench(plan, generator, urls, folder / REQUESTS, pids=_pids(target), progress=progress)
        tasks = tuple(compare_task(bench, TASKS[name]) for name in plan.tasks)
        result = Result(
            began=began.isoformat(timespec="seconds"),
            seconds=time.monotonic() - clock,
            machine=this_machine(),
            cores=str(cores) if target.url is None else f"core {cores.generator} for the generator; the service is where it was",
            plan={**asdict(plan), "lengths": str(plan.lengths or ""), "texts": str(plan.texts or ""), "times": asdict(plan.times)},
            tasks=tasks,
            verdicts=verdicts(gates, [ratio for task in tasks for ratio in task.ratios], {task.task: task.lengths for task in tasks}),
        )
        write(result, folder)
    return result


def stages(plan: Plan) -> int:
    """How often `run` tells its progress."""
    return 1 + len(plan.tasks) * (1 + len(plan.subjects) * (1 + plan.rounds))


def this_machine() -> dict[str, Any]:
    """Processor, cores, system and versions."""
    return {
        "processor": _processor(),
        "cores": len(available_cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


@contextmanager
def _services(plan: Plan, target: Target, cores: Cores) -> Iterator[dict[str, str]]:
    """Addresses by label: one service for each runtime, which holds all variants that run in it."""
    if target.url is not None:
        yield {subject.label: target.url for subject in plan.subjects}
        return
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        for runtime in dict.fromkeys(subject.runtime for subject in plan.subjects):
            group = [subject for subject in plan.subjects if subject.runtime == runtime]
            environment = service_environment([subject.variant for subject in group], runtime=runtime)
            url = stack.enter_context(running(target.command, environment=environment, cores=cores.service))
            urls |= {subject.label: url for subject in group}
        yield urls


def _pids(target: Target) -> tuple[int, ...] | None:
    """Processes of a service that we did not start; None where they cannot be found. Those that we started are our children."""
    if target.url is None:
        return ()
    parts = urlsplit(target.url)
    here = parts.hostname in ("localhost", HOST, "::1")
    return (listeners(parts.port or 80) or None) if here else None


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
