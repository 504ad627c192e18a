"""What a comparison measures of each task, made sure of before the first load: nothing is lost to a variant that turns out not to be there.

Each variant is started once, alone, or asked for where a service runs; of one task whose variants are all named, that is left to the
measurement's own start. A default one that a task cannot have is left out with a note; one that was named is an error.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from loadtests.artifacts import Artifacts
from loadtests.client import Client
from loadtests.deadline import Deadline
from loadtests.described import artifact_of, listed, served_row
from loadtests.errors import ServiceError
from loadtests.machine import Cores, available_cores, share_cores
from loadtests.plan import Plan, Subject, most_seconds, require_time
from loadtests.targets import Target, artifacts_of, servers_of
from loadtests.texts import TASKS, Task

FOR_ATTRIBUTION = ("dense", "dense-int8", "compact", "compact-int8")


@dataclass(frozen=True)
class Job:
    """One task.

    Attributes:
        task: what is asked.
        plan: of this task alone, with the subjects that it can have.
        artifacts: of its model; None where services are not started from a folder.
        notes: what was left out.
    """

    task: Task
    plan: Plan
    artifacts: Artifacts | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Jobs:
    """A whole comparison.

    Attributes:
        plan: what was asked for.
        target: of which service.
        cores: which are whose.
        tasks: one after another.
        notes: tasks that were left out.
        deadline: when all of it has to be over.
    """

    plan: Plan
    target: Target
    cores: Cores
    tasks: tuple[Job, ...]
    notes: tuple[str, ...]
    deadline: Deadline

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Of the tasks, too."""
        return (*self.notes, *(f"/{job.task.name}: {note}" for job in self.tasks for note in job.notes))


@contextmanager
def jobs_of(plan: Plan, target: Target) -> Iterator[Jobs]:
    """What can be measured, with its artifacts until the block ends.

    Raises:
        ServiceError: a subject that was named cannot be had, or there is nothing to compare.
    """
    began, cores = time.monotonic(), share_cores(available_cores())
    with ExitStack() as stack:
        jobs, notes = list[Job](), list[str]()
        for name in plan.tasks:
            job = _job_of(plan, target, TASKS[name], cores, stack)
            if len(job.plan.subjects) > 1:
                jobs.append(job)
            else:
                reasons = "".join(f"; {note}" for note in job.notes)
                notes.append(f"/{name} was left out: it has fewer than two variants to compare{reasons}")
        if not jobs:
            raise ServiceError(" ".join(notes))
        deadline = Deadline(began, most_seconds([job.plan for job in jobs]))
        yield Jobs(plan, target, cores, tuple(jobs), tuple(notes), deadline)


def missing(artifacts: Artifacts | None, subjects: Sequence[Subject]) -> dict[str, str]:
    """Why the artifact of a subject is not there, by its label."""
    reasons = {} if artifacts is None else artifacts.missing
    return {each.label: reasons[each.variant] for each in subjects if each.variant in reasons}


def refusals(target: Target, task: Task, artifacts: Artifacts | None, subjects: Sequence[Subject], cores: Cores) -> dict[str, str]:
    """Why a subject cannot be had, by its label."""
    found = missing(artifacts, subjects)
    for subject in subjects:
        if subject.label not in found:
            try:
                with servers_of(target, artifacts, (subject,), cores) as servers:
                    client = Client(servers[subject.label].url)
                    artifact_of(client, served_row(client, task, subject), subject, tokens=1)
            except ServiceError as error:
                found[subject.label] = str(error)
    return found


def _job_of(plan: Plan, target: Target, task: Task, cores: Cores, stack: ExitStack) -> Job:
    subjects = plan.subjects
    if target.url is not None and not subjects:
        subjects = listed(Client(target.url), task)
    require_time(plan.of_task(task, subjects, cores=len(cores.service)))
    also = FOR_ATTRIBUTION if plan.below and not task.generates else ()
    artifacts = stack.enter_context(artifacts_of(target, task, subjects, also=also))
    starts_first = plan.named and len(plan.tasks) == 1  # then the measurement's own start comes before any load, and says the same
    refused = missing(artifacts, subjects) if starts_first else refusals(target, task, artifacts, subjects, cores)
    if refused and plan.named:
        raise ServiceError("; ".join(f"{label} cannot be measured for {task.path}: {reason}" for label, reason in refused.items()))
    kept = tuple(each for each in subjects if each.label not in refused)
    notes = tuple(f"{label} was left out: {reason}" for label, reason in refused.items())
    return Job(task, plan.of_task(task, kept, cores=len(cores.service)), artifacts, notes)
