"""What is measured: the variants of each model that are in the folder and can be run on this machine, loaded in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.artifact import MANIFEST_NAME, read_manifest
from service.errors import ArtifactError, GoldenError
from service.model import Model
from service.packages import version_of
from service.runtime import RuntimeName, RuntimeOptions

ONNX: RuntimeName = "onnxruntime"
RUNTIMES: dict[str, RuntimeName] = {"dense": ONNX, "compact-int8": ONNX, "compact": "openvino"}


@dataclass(frozen=True)
class Subject:
    """One variant of a model, in one runtime.

    Attributes:
        folder: of the artifact.
        variant: its name.
        runtime: which loads it.
        model: loaded in this process, one thread per call.
    """

    folder: Path
    variant: str
    runtime: RuntimeName
    model: Model

    @property
    def key(self) -> str:
        """`<name>/<variant>`, as settings name it."""
        return f"{self.model.manifest.name}/{self.variant}"

    @property
    def label(self) -> str:
        """As tables show it."""
        return self.variant if self.runtime == ONNX else f"{self.variant}, {self.runtime}"


def find_subjects(models: Path, variants: Sequence[str], *, note: Callable[[str], None]) -> list[list[Subject]]:
    """The variants of each model, loaded, in this order; `ArtifactError` when there is none.

    Args:
        models: folder of the artifacts.
        variants: which to look for.
        note: is told what is left out, and why: a runtime that is not installed, or golden outputs that this machine does not give.
    """
    for variant, runtime in lacking(variants).items():
        note(f"{variant}: not installed: pip install {runtime}")
    usable = [variant for variant in variants if variant not in lacking(variants)]
    folders = [path for path in sorted(models.glob("*")) if path.is_dir()]
    groups = [[subject for variant in usable if (subject := _load(model / variant, note))] for model in folders]
    if not any(groups):
        raise ArtifactError(f"{models}: none of {', '.join(variants)} is there and can be run; name another folder or variant")
    return [group for group in groups if group]


def lacking(variants: Sequence[str]) -> dict[str, RuntimeName]:
    """Variants whose runtime is not installed, with the runtime."""
    return {variant: runtime for variant in variants if version_of(runtime := RUNTIMES.get(variant, ONNX)) is None}


def _load(folder: Path, note: Callable[[str], None]) -> Subject | None:
    if not (folder / MANIFEST_NAME).is_file():
        return None
    if read_manifest(folder).generation is not None:
        note(f"{folder.parent.name}/{folder.name}: it generates, which is not measured here")
        return None
    runtime = RUNTIMES.get(folder.name, ONNX)
    try:
        return Subject(folder, folder.name, runtime, Model.load(folder, options=RuntimeOptions(name=runtime, threads=1)))
    except GoldenError as error:
        note(str(error))
        return None
