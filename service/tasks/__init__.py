"""The tasks that can be served: one line each."""

from typing import Any

from service.errors import ArtifactError
from service.tasks.base import GeneratingTask, Task
from service.tasks.classify import Classification
from service.tasks.qa import QuestionAnswering
from service.tasks.summarize import Summarization

TASKS: tuple[Task[Any, Any], ...] = (QuestionAnswering(), Classification())
GENERATING: tuple[GeneratingTask[Any, Any], ...] = (Summarization(),)


def task_named(name: str) -> Task[Any, Any]:
    """The task of that standard name."""
    for task in TASKS:
        if task.name == name:
            return task
    raise _unknown(name)


def generating_task_named(name: str) -> GeneratingTask[Any, Any]:
    """The task of that standard name, which generates."""
    for task in GENERATING:
        if task.name == name:
            return task
    raise _unknown(name)


def _unknown(name: str) -> ArtifactError:
    known = ", ".join([*(task.name for task in TASKS), *(task.name for task in GENERATING)])
    return ArtifactError(f"unknown task {name!r}; this version serves {known}: upgrade secateur")
