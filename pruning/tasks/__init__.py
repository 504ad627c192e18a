"""The tasks that can be trained and pruned; to add one, add a file and a line here."""

from pruning.errors import ConfigError
from pruning.tasks.base import Task
from pruning.tasks.classify import Classification
from pruning.tasks.qa import QuestionAnswering
from pruning.tasks.summarization import Summarization

TASKS: tuple[Task, ...] = (QuestionAnswering(), Classification(), Summarization())


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        ConfigError: there is none; the message lists those that exist.
    """
    for task in TASKS:
        if task.name == name:
            return task
    raise ConfigError(f"no task {name!r}; there are {', '.join(task.name for task in TASKS)}")
