"""What is served: the artifacts of a folder, loaded, warmed and checked, and which of them answers a request.

A registry never changes. A reload makes another one beside it, and only when that is whole does it take the first one's place; so
a request that has been given a model keeps it to the end.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from service.artifact import MANIFEST_NAME, Manifest, TaskName, read_manifest, revision
from service.errors import ArtifactError, GoldenError, NotFoundError, SettingsError
from service.generation import GenerationSettings, generate
from service.model import AnyModel, GeneratingModel, load_model
from service.runtime import RuntimeOptions
from service.runtime.machine import instruction_sets
from service.settings import Settings

WARM_LENGTHS = (1, 32, 128)
WARM_TOKENS = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One variant that answers.

    Attributes:
        model: loaded, warm and checked.
        revision: of its manifest and files.
    """

    model: AnyModel
    revision: str

    @property
    def manifest(self) -> Manifest:
        """What the artifact says about itself."""
        return self.model.manifest

    @property
    def key(self) -> str:
        """`<name>/<variant>`."""
        return f"{self.manifest.name}/{self.manifest.variant}"

    @cached_property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Who it is, for every answer."""
        values = (self.manifest.name, self.manifest.variant, self.revision, self.model.session.runtime)
        names = (b"x-model-name", b"x-model-variant", b"x-model-revision", b"x-runtime")
        return tuple((name, value.encode("latin-1", "replace")) for name, value in zip(names, values, strict=True))


@dataclass(frozen=True)
class LeftOut:
    """A variant that does not give its golden outputs on this machine.

    Attributes:
        manifest: what it says about itself.
        reason: one line.
    """

    manifest: Manifest
    reason: str


@dataclass(frozen=True)
class Registry:
    """All that is served.

    Attributes:
        served: by model name and variant.
        left_out: likewise.
        preference: variants, the one that answers by default first.
        weights: by model name: share of the requests that each variant answers, where the request does not say.
    """

    served: Mapping[tuple[str, str], Served]
    left_out: Mapping[tuple[str, str], LeftOut] = field(default_factory=dict)
    preference: Sequence[str] = ()
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def load(cls, settings: Settings) -> "Registry":
        """Load what the settings name; `ArtifactError` or `SettingsError` says what is in the way, and then nothing is served.

        A variant whose golden outputs this machine does not reproduce is left out, if another variant of the model can answer.
        """
        served: dict[tuple[str, str], Served] = {}
        left_out: dict[tuple[str, str], LeftOut] = {}
        for folder in _folders(settings):
            manifest = read_manifest(folder)
            key = manifest.name, manifest.variant
            if key in served or key in left_out:
                raise ArtifactError(f"{folder}: {'/'.join(key)} is in {settings.models} twice; remove one of them")
            try:
                options = _options(settings, manifest)
                _require_runtime(settings, manifest, options)
                model = load_model(folder, options=options)
            except GoldenError as error:
                _log.warning("left out: %s", error)
                left_out[key] = LeftOut(manifest, str(error))
            else:
                warm(model)
                served[key] = Served(model, revision(manifest))
        _require_an_answer(served, left_out)
        registry = cls(served, left_out, settings.prefer, settings.weights)
        registry._check_weights()
        return registry

    def models(self) -> list[str]:
        """Names of models, in alphabetical order."""
        return list(self._variants)

    def variants(self, name: str) -> list[Served]:
        """Variants of a model, the one that answers by default first."""
        return self._variants.get(name, [])

    def engines(self, task: TaskName) -> list[AnyModel]:
        """The models of all variants that do a task."""
        return [served.model for served in self.served.values() if served.manifest.task == task]

    def choose(self, task: TaskName, *, model: str | None = None, variant: str | None = None, sticky: str = "") -> Served:
        """Which variant answers; `NotFoundError` lists what there is.

        Args:
            task: of the route.
            model: its name; without it, the first that does this task.
            variant: as asked for; one that was left out is answered for by the default.
            sticky: requests with the same one get the same variant, where weights decide.
        """
        name = self._model(task, model)
        found = self.variants(name)
        if variant is None or (name, variant) in self.left_out:
            weights = self.weights.get(name)
            return self.served[name, drawn(weights, sticky)] if weights and variant is None else found[0]
        chosen = self.served.get((name, variant))
        if chosen is None:
            known = ", ".join(served.manifest.variant for served in found)
            raise NotFoundError(f"{name} has no variant {variant!r}; its variants are {known}")
        return chosen

    @cached_property
    def _variants(self) -> dict[str, list[Served]]:
        ordered = sorted(self.served.values(), key=lambda served: (served.manifest.name, self._rank(served.manifest.variant)))
        return {name: list(group) for name, group in groupby(ordered, key=lambda served: served.manifest.name)}

    def _model(self, task: TaskName, model: str | None) -> str:
        able = [name for name in self.models() if self.variants(name)[0].manifest.task == task]
        if model is None and able:
            return able[0]
        if model in able:
            return str(model)
        known = ", ".join(able)
        if not known:
            raise NotFoundError(f"no model for {task} is loaded; put an artifact for it into the models folder and reload")
        raise NotFoundError(f"no model {model!r} for {task}; loaded: {known}")

    def _rank(self, variant: str) -> tuple[int, str]:
        return (self.preference.index(variant) if variant in self.preference else len(self.preference), variant)

    def _check_weights(self) -> None:
        for name, weights in self.weights.items():
            unknown = [variant for variant in weights if (name, variant) not in self.served]
            if unknown or not sum(weights.values()) > 0 or min(weights.values()) < 0:
                known = ", ".join(served.manifest.variant for served in self.variants(name)) or "none"
                raise SettingsError(f"weights of {name} are {json.dumps(dict(weights))}: variants served are {known}, shares are positive")


def drawn(weights: Mapping[str, float], sticky: str) -> str:
    """The variant that a request id falls to: always the same one, and each in proportion to its weight over many ids."""
    point = int.from_bytes(hashlib.sha256(sticky.encode()).digest()[:8], "big") / 2**64 * sum(weights.values())
    for variant, weight in weights.items():
        point -= weight
        if point < 0:
            return variant
    return next(variant for variant in reversed(list(weights)) if weights[variant] > 0)


def warm(model: AnyModel) -> None:
    """Run rows of several lengths, the longest included, so that no request is the first one."""
    longest = model.manifest.generation.source_length if model.manifest.generation else model.manifest.max_length
    lengths = sorted({min(length, longest) for length in (*WARM_LENGTHS, longest)})
    if isinstance(model, GeneratingModel):
        settings = GenerationSettings(max_new_tokens=min(WARM_TOKENS, longest), num_beams=2)
        generate(model.generator, [[0] * length for length in lengths], settings)
        return
    for length in lengths:
        ones = np.ones((1, length), dtype=np.int64)
        model.session.run({name: ones if name == "attention_mask" else 0 * ones for name in model.session.inputs})


def _folders(settings: Settings) -> list[Path]:
    every = sorted(path.parent for path in settings.models.glob(f"*/*/{MANIFEST_NAME}"))
    if not every:
        raise ArtifactError(f"{settings.models}: no artifact there; expected <name>/<variant>/{MANIFEST_NAME}; set SECATEUR_MODELS")
    wanted = [folder for folder in every if _is_wanted(folder, settings.variants)]
    if not wanted:
        known = ", ".join(f"{folder.parent.name}/{folder.name}" for folder in every)
        raise SettingsError(f"no artifact is called {' or '.join(settings.variants)}; {settings.models} holds {known}")
    return wanted


def _is_wanted(folder: Path, patterns: Sequence[str]) -> bool:
    full = f"{folder.parent.name}/{folder.name}"
    return not patterns or any(fnmatch(full if "/" in pattern else folder.name, pattern) for pattern in patterns)


def _options(settings: Settings, manifest: Manifest) -> RuntimeOptions:
    """The runtime that the settings name for this variant, `<name>/<variant>` or `*`; in OpenVINO, bf16 where the processor has AMX."""
    name = settings.runtime.get(f"{manifest.name}/{manifest.variant}", settings.runtime.get("*", "onnxruntime"))
    return RuntimeOptions(
        name=name,
        device=settings.device,
        threads=settings.threads or 1,
        callers=settings.runners,
        precision="bf16" if name == "openvino" and "amx_bf16" in instruction_sets() else "f32",
    )


def _require_runtime(settings: Settings, manifest: Manifest, options: RuntimeOptions) -> None:
    """Refuse another runtime that is named for a model that generates; warn where it, or a GPU, is asked for all models."""
    if manifest.generation is None or (options.name, options.device) == ("onnxruntime", "cpu"):
        return
    key = f"{manifest.name}/{manifest.variant}"
    if key in settings.runtime and options.name != "onnxruntime":
        raise SettingsError(f"the runtime of {key} is {options.name}, but a model that generates runs in onnxruntime only; leave it out")
    _log.warning("%s generates, so it runs in onnxruntime on the CPU, whatever is set (%s, %s)", key, options.name, options.device)


def _require_an_answer(served: Mapping[tuple[str, str], Served], left_out: Mapping[tuple[str, str], LeftOut]) -> None:
    for (name, _), out in left_out.items():
        if not any(model == name for model, _ in served):
            raise GoldenError(f"{out.reason}; no other variant of {name} is served")
