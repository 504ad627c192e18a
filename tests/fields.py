"""What the documentation lists of configs, settings and errors: `python -m tests.fields` writes the tables into both READMEs again."""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pruning.config import RECIPES, RunConfig
from service.problems import INTERNAL, KINDS
from service.settings import PREFIX, Settings

README = RECIPES / "README.md"
SERVICE_README = RECIPES.parents[1] / "service" / "README.md"
BEGIN, END = "<!-- fields: written by `python -m tests.fields` -->\n", "<!-- end of fields -->\n"


def models_in(root: type[BaseModel]) -> list[type[BaseModel]]:
    """The model and every model that its fields hold, each once, in the order in which a reader meets them."""
    found = [root]
    for model in found:  # grows while it is read
        for field in model.model_fields.values():
            found += [inner for inner in _models_of(field.annotation) if inner not in found]
    return found


def tables(root: type[BaseModel]) -> str:
    """One section for each model: what it is, and its fields with kind, default and meaning."""
    return "\n".join(_section(model) for model in models_in(root))


def with_tables(readme: str) -> str:
    """The recipes' README with its tables as the code has them now."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{tables(RunConfig)}\n{END}{rest.split(END)[1]}"


def with_settings(readme: str) -> str:
    """The service's README with its tables of settings and errors as the code has them now."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{settings_table()}\n{errors_table()}\n{END}{rest.split(END)[1]}"


def settings_table() -> str:
    """Every variable, with its default and meaning."""
    rows = [f"| `{PREFIX}{name.upper()}` | {_default(field)} | {field.description} |" for name, field in Settings.model_fields.items()]
    return "\n".join(["### Settings", "", "| variable | default | meaning |", "|---|---|---|", *rows, ""])


def errors_table() -> str:
    """Every kind of problem document."""
    kinds = [(kind.status, f"`{kind.name}`", (error.__doc__ or "").splitlines()[0]) for error, kind in KINDS.items()]
    kinds.append((INTERNAL.status, f"`{INTERNAL.name}`", "The server's own fault; its log says more, under the request id."))
    rows = [f"| {status} | {name} | {text} |" for status, name, text in sorted(kinds)]
    return "\n".join(["### Errors", "", "| status | `error_type` | when |", "|---|---|---|", *rows, ""])


def _section(model: type[BaseModel]) -> str:
    first_line = (model.__doc__ or "").strip().splitlines()[0]
    rows = [
        f"| `{name}` | {_kind(field.annotation)} | {_default(field)} | {field.description} |" for name, field in model.model_fields.items()
    ]
    return "\n".join([f"### {model.__name__}", "", first_line, "", "| field | kind | default | meaning |", "|---|---|---|---|", *rows, ""])


def _models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_of(part)


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in parts if part is not type(None))
    if origin is tuple:
        return f"list of {_kind(parts[0])}"
    plain = {str: "text", int: "whole number", float: "number", bool: "yes or no"}
    return plain.get(annotation, f"[{annotation.__name__}](#{annotation.__name__.lower()})")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value == {}:
        return "empty"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`" if value else "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
    SERVICE_README.write_text(with_settings(SERVICE_README.read_text(encoding="utf-8")), encoding="utf-8")
