"""Which service is measured: one that runs already, or those that are started for it, one for each variant."""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.artifacts import Artifacts, folders_in, gathered, manifest_of
from loadtests.client import OK, Client
from loadtests.errors import ServiceError
from loadtests.machine import Cores, cores_of, listeners, started_at
from loadtests.plan import Subject
from loadtests.servers import HOST, Server, running, service_command, service_environment
from loadtests.texts import TASKS, Task

_CLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Target:
    """A service at `url`; or services that are started, of this project with these `models`, or by `command`."""

    command: tuple[str, ...] = ()
    url: str | None = None
    models: Path | None = None

    def __post_init__(self) -> None:
        if self.url is not None:
            object.__setattr__(self, "url", self.url.rstrip("/"))

    def where(self, cores: Cores) -> str:
        """Which cores are whose, in words."""
        if self.url is None:
            return str(cores)
        return f"core {', '.join(map(str, cores.generator))} for the generator; the service is where it was"


def target_of(url: str | None, models: Path) -> Target:
    """The service at an address, or services that are started with these models."""
    return Target(url=url) if url else Target(models=models)


def tasks_of(target: Target) -> tuple[str, ...]:
    """Names of the tasks that it has a model for; `ServiceError` for none."""
    if target.url is not None:
        found = tuple(name for name, task in TASKS.items() if Client(target.url).served(task))
    else:
        there = {manifest.get("task") for manifest in map(manifest_of, folders_in(target.models or Path()))}
        found = tuple(name for name, task in TASKS.items() if task.served_as in there)
    if not found:
        raise ServiceError(f"{target.url or target.models} has no model for {', '.join(TASKS)}; name another by --url or --models")
    return found


@contextmanager
def artifacts_of(target: Target, task: Task, subjects: Sequence[Subject], *, also: Sequence[str] = ()) -> Iterator[Artifacts | None]:
    """Those of the subjects, and others, as far as they can be had; None where services are not started from a folder."""
    if target.models is None:
        yield None
        return
    with gathered(target.models, task, [*(subject.variant for subject in subjects), *also]) as artifacts:
        yield artifacts


@contextmanager
def servers_of(target: Target, artifacts: Artifacts | None, subjects: Sequence[Subject], cores: Cores) -> Iterator[dict[str, Server]]:
    """A service for each subject, by label, with nothing else in it; all of them the same one where it runs already."""
    if target.url is not None:
        yield {subject.label: Server(target.url) for subject in subjects}
        return
    command = target.command if artifacts is None else service_command(artifacts.folder)
    with ExitStack() as stack:
        servers = {
            subject.label: stack.enter_context(
                running(command, environment=service_environment(subject.variant, runtime=subject.runtime), cores=cores.service)
            )
            for subject in subjects
        }
        yield servers


def pids_of(target: Target) -> tuple[int, ...] | None:
    """Processes of a service that we did not start; None where they cannot be told apart. Those that we started are our children.

    Who listens on its port here may be a proxy of a container: it is the service only if it began when the service says that it did.
    """
    if target.url is None:
        return ()
    parts, began = urlsplit(target.url), _began(Client(target.url))
    if began is None or parts.hostname not in ("localhost", HOST, "::1"):
        return None
    found = ((pid, started_at(pid)) for pid in listeners(parts.port or 80))
    return tuple(pid for pid, start in found if start is not None and abs(start - began) < _CLOCK_SECONDS) or None


def shared_cores(target: Target, pids: Sequence[int] | None, cores: Cores) -> Iterator[str]:
    """A note where a service that runs already has no cores of its own on a machine of few, or where that is not known.

    Args:
        target: which service.
        pids: its processes; None where they are not known.
        cores: which should be whose.
    """
    if target.url is None or not cores.pinned:
        return
    service, generator = ",".join(map(str, cores.service)), ",".join(map(str, cores.generator))
    advice = (
        f"start it on others by `taskset --cpu-list {service}`, or in containers with SERVICE_CPUSET={service} LOADTEST_CPUSET={generator}"
    )
    if pids is None:
        yield f"whether the service may use core {generator}, on which load is made, is not known; {advice}"
    elif set(cores.generator) & set(cores_of(pids)):
        yield f"the service may use core {generator}, on which load is made, and is slowed down by it; {advice}"


def _began(client: Client) -> float | None:
    """When the service's process began, in seconds of the epoch, as its metrics say; None where they do not."""
    reply = client.request("GET", "/metrics")
    found = re.search(r"^process_start_time_seconds (\S+)$", reply.body, re.MULTILINE) if reply.status == OK else None
    return float(found[1]) if found else None
