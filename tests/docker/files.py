"""The files of docker/ as tests read them."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))


def script(path: str) -> ModuleType:
    """A script of docker/ as a module; it finds those that lie beside it, as when it is run."""
    sys.path.insert(0, str((DOCKER / path).parent))
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCKER / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def parsed(path: str) -> Any:
    """A YAML file of docker/."""
    return yaml.safe_load((DOCKER / path).read_text(encoding="utf-8"))


def services() -> dict[str, Any]:
    """The services of the compose file."""
    return parsed("compose.yaml")["services"]


def dashboard(path: Path) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    return json.loads(path.read_text(encoding="utf-8"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile with their arguments, continued lines joined, comments left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines()) if word]


def final_stage(path: Path) -> list[tuple[str, str]]:
    """The instructions that an image is made of in the end, with those of stages that the last one begins with."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions(path):
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = list(stages.get(base, []))
        elif name:
            stages[name].append((word, rest))
    return stages[name]
