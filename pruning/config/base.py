"""What all parts of a recipe are, and which of their settings results depend on."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: frozen, and a field that it does not have is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def chosen(config: BaseModel) -> dict[str, Any]:
    """The settings that differ from their defaults, and names of methods: what results depend on, whichever version has more fields."""
    fields = type(config).model_fields
    values = {name: getattr(config, name) for name in fields}
    return {name: _plain(value) for name, value in values.items() if name == "name" or value != fields[name].get_default()}


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return chosen(value)
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
