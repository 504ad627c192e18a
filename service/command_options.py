"""Flags from settings: every field of `Settings` is an option of the same name, and says which variable does the same."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args, get_origin

import click

from service.settings import PREFIX, Settings

Command = TypeVar("Command", bound=Callable[..., Any])


def settings_options(command: Command) -> Command:
    """Give a command an option for each setting; what is not given stays None, so that the environment decides."""
    for name, field in reversed(Settings.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        default = "" if field.default in (None, (), {}) else f" [{_shown(field.default)}]"
        text = f"{field.description}{default} ({PREFIX}{name.upper()})"
        switch = field.annotation is bool
        option = click.option(
            f"{flag}/--no-{flag[2:]}" if switch else flag,
            name,
            default=None,
            help=text,
            metavar=None if switch else _metavar(field.annotation),
        )
        command = option(command)
    return command


def _metavar(annotation: Any) -> str:  # noqa: ANN401 - a type
    """What a value looks like."""
    kinds = [annotation, *get_args(annotation)]
    if any(get_origin(kind) is dict or kind is dict for kind in kinds):
        return "JSON"
    if any(get_origin(kind) is tuple for kind in kinds):
        return "A,B"
    if int in kinds or float in kinds:
        return "N"
    words = [kind for kind in get_args(annotation) if isinstance(kind, str)]
    return "|".join(words) if words else "TEXT"


def _shown(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
