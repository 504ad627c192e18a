"""Which service is measured: one that runs already, or those that are started for it, one for each variant."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from loadtests.artifacts import Artifacts, folders_in, gathered, manifest_of
from loadtests.client import Client
from loadtests.errors import ServiceError
from loadtests.machine import Cores, listeners
from loadtests.plan import Subject
from loadtests.servers import HOST, Server, running, service_command, service_environment
from loadtests.texts import TASKS, Task


@dataclass(frozen=True)
class Target:
    """A service at `url`; or services that are started, of this project with these `models`, or by `command`."""

    command: tuple[str, ...] = ()
    url: str | None = None
    models: Path | None = None

    def where(self, cores: Cores) -> str:
        """Which cores are whose, in words."""
        if self.url is None:
            return str(cores)
        return f"core {', '.join(map(str, cores.generator))} for the generator; the service is where it was"


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
    """Those of the subjects, and others that can be had; None where services are not started from a folder."""
    if target.models is None:
        yield None
        return
    with gathered(target.models, task, [subject.variant for subject in subjects], also=also) as artifacts:
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
    """Processes of a service that we did not start; None where they cannot be found. Those that we started are our children."""
    if target.url is None:
        return ()
    parts = urlsplit(target.url)
    here = parts.hostname in ("localhost", HOST, "::1")
    return (listeners(parts.port or 80) or None) if here else None
