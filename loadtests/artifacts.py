"""Artifacts as folders: which ones a task needs, gathered in a folder of links; one that is missing is made by the pruning side.

Nothing here imports that side or the service: a folder's `manifest.json` says what it is, and commands do the rest.
"""

import importlib.util
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.children import run_child
from loadtests.errors import MeasurementError, ServiceError
from loadtests.texts import Task

MANIFEST = "manifest.json"
QUANTIZED = "-int8"
NEEDED_TO_QUANTIZE = ("torch", "onnx", "transformers")

_QUANTIZE_SECONDS = 300.0


@dataclass(frozen=True)
class Artifacts:
    """A folder that the service takes as its models, with one model in it.

    Attributes:
        folder: of the models.
        model: its name.
        manifests: by variant.
        made: variants that were not there before.
        missing: why a variant that was asked for is not there, by its name.
    """

    folder: Path
    model: str
    manifests: dict[str, dict[str, Any]]
    made: tuple[str, ...]
    missing: dict[str, str] = field(default_factory=dict)

    def require(self, variant: str) -> None:
        """`ServiceError` where it is not there."""
        if variant in self.missing:
            raise ServiceError(self.missing[variant])

    def path(self, variant: str) -> Path:
        """Of one artifact."""
        return self.folder / self.model / variant


@contextmanager
def gathered(models: Path, task: Task, variants: Sequence[str]) -> Iterator[Artifacts]:
    """These variants of the task's model, until the block ends.

    Args:
        models: folder of all artifacts.
        task: whose model is taken; of several, the first by name.
        variants: which; one in 8 bits is made, where it is missing and the other is there.
    """
    with tempfile.TemporaryDirectory(prefix="secateur-models-") as name:
        found = folders_of(models, task)
        model = next(iter(found.values())).parent.name
        target, made, missing = Path(name) / model, list[str](), dict[str, str]()
        target.mkdir()
        for variant in dict.fromkeys(variants):
            if variant in found:
                (target / variant).symlink_to(found[variant].resolve(), target_is_directory=True)
                continue
            try:
                make(variant, found, task, target / variant)
                made.append(variant)
            except (ServiceError, MeasurementError) as error:
                missing[variant] = str(error)
                shutil.rmtree(target / variant, ignore_errors=True)
        manifests = {path.name: manifest_of(path) for path in sorted(target.iterdir()) if (path / MANIFEST).is_file()}
        yield Artifacts(Path(name), model, manifests, tuple(made), missing)


def folders_of(models: Path, task: Task) -> dict[str, Path]:
    """Folders of a task's model by variant; `ServiceError` where there is none."""
    paths = [path for path in folders_in(models) if manifest_of(path).get("task") == task.served_as]
    if not paths:
        raise ServiceError(f"{models} holds no model for {task.path}; name another folder by --models, or other tasks by --task")
    return {path.name: path for path in paths if path.parent == paths[0].parent}


def folders_in(models: Path) -> list[Path]:
    """Of all artifacts, `<name>/<variant>`, in order."""
    return [path.parent for path in sorted(models.glob(f"*/*/{MANIFEST}"))]


def make(variant: str, found: dict[str, Path], task: Task, target: Path) -> None:
    """Quantize what is there into `target`; `ServiceError` where that cannot be done."""
    source = found.get(variant.removesuffix(QUANTIZED))
    if not variant.endswith(QUANTIZED) or source is None:
        raise ServiceError(f"{variant} is not there for {task.path}; its variants are {', '.join(found)}")
    if not all(importlib.util.find_spec(name) for name in NEEDED_TO_QUANTIZE):
        raise ServiceError(f"{variant} is not there for {task.path}; to have it made: pip install '.[pruning]' in the clone")
    done = run_child([sys.executable, "-m", "pruning", "quantize", str(source), "--output", str(target)], seconds=_QUANTIZE_SECONDS)
    if done.code != 0:
        raise ServiceError(f"{variant} could not be made of {source.name}: {done.last_words}")


def manifest_of(folder: Path) -> dict[str, Any]:
    """What an artifact says of itself; `ServiceError` where it cannot be read."""
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ServiceError(f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    return document if isinstance(document, dict) else {}
