"""The tasks that can be served: one line each."""

from typing import Any

from service.errors import ArtifactError
from service.tasks.base import Task
from service.tasks.classify import Classification
from service.tasks.qa import QuestionAnswering

TASKS: tuple[Task[Any, Any], ...] = (QuestionAnswering(), Classification())


def task_named(name: str) -> Task[Any, Any]:
    """The task of that standard name."""
    for task in TASKS:
        if task.name == name:
            return task
    raise ArtifactError(f"unknown task {name!r}; this version serves {', '.join(task.name for task in TASKS)}: upgrade secateur")
