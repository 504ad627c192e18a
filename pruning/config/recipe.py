"""Recipes: YAML with dotted overrides, read into a `RunConfig`, and written beside every result. `load_recipe` is the only reader."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pruning.config.run import RunConfig
from pruning.config.targets import GenerationTarget, SpeedupTarget
from pruning.errors import ConfigError

RECIPES = Path(__file__).parents[1] / "recipes"


def load_recipe(recipe: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a recipe by path, or by the name of one that ships, with `key.path=value` overrides (values are YAML).

    Raises:
        ConfigError: no such recipe, not YAML, an unknown field, or an impossible value; one line that names the field.
    """
    path = _find_recipe(recipe)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({_first_line(error)})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of fields at the top, as in the recipes that ship")
    for override in overrides:
        apply_override(content, override)
    return parse_config(content, origin=str(path))


def parse_config(content: dict[str, Any], *, origin: str) -> RunConfig:
    """Validate a recipe's content; every problem becomes one line."""
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        said = first["msg"].replace("a valid tuple", "a list")
        raise ConfigError(f"{origin}: {where}: {said}{more}") from None


def dump_config(config: BaseModel) -> str:
    """The resolved config as YAML, as it is written beside results."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def with_speedups(config: RunConfig, speedups: Sequence[float]) -> RunConfig:
    """The recipe with these speed-ups for targets, in the precision, runtime and length of its first one.

    Raises:
        ConfigError: the recipe does not prune, or a speed-up is impossible.
    """
    section = config.prune or config.fine_prune
    if section is None:
        raise ConfigError(f"recipe {config.name} has no `prune` and no `fine_prune` section: nothing says how to prune")
    speedups_before = (target for target in config.targets if isinstance(target, SpeedupTarget | GenerationTarget))
    first = next(speedups_before, SpeedupTarget(speedup=2.0))
    name = "fine_prune" if config.fine_prune else "prune"
    targets = [{**first.model_dump(), "speedup": speedup} for speedup in speedups]
    return parse_config(config.model_dump(exclude={name}) | {name: section.model_dump() | {"targets": targets}}, origin=config.name)


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one field of a recipe's content, `key.path=value`, in place; the value is YAML."""
    key, sep, value = override.partition("=")
    if not sep or not key:
        raise ConfigError(f"override {override!r}: expected key.path=value")
    node: Any = content
    *parents, last = key.split(".")
    for part in parents:
        node = _child(node, part, override)
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not YAML ({_first_line(error)})") from None
    if isinstance(node, list):
        node[_index(node, last, override)] = parsed
    else:
        node[last] = parsed


def _find_recipe(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = RECIPES / f"{recipe}.yaml"
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
    raise ConfigError(f"no recipe {str(recipe)!r}: give a YAML file, or one of: {names}")


def _child(node: Any, part: str, override: str) -> Any:  # noqa: ANN401 - YAML: a mapping or a list
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if node.get(part) is None:
        node[part] = {}
    if not isinstance(node[part], dict | list):
        raise ConfigError(f"override {override!r}: {part!r} is a value, not a section")
    return node[part]


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"override {override!r}: {part!r} is not a position in a list of {len(node)}")
    return int(part)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
