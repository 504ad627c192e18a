"""What a run comes to: its artifacts are scored and timed, that is written into their manifests, and all of it is put on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from typing import Any

from pruning.analysis import summarise
from pruning.config import GenerationTarget, SpeedupTarget, Target, dump_config
from pruning.data_sources import source_name
from pruning.export import update_manifest
from pruning.families.bart import layers_to_copy
from pruning.report import Headline, ModelReport, RunReport, StageReport, TargetReport, VariantReport, length_of, write_report
from pruning.run import Run
from pruning.run_latency import speed_notes, time_artifacts
from pruning.scoring import HEADLINES, Evaluations, baseline_notes, score, unseen_notes
from pruning.stages import StageRecord
from pruning.stages.artifacts import short_name
from pruning.targets import goal_of
from service.artifact import Latency, LayerShape, Manifest, Metric, read_manifest
from service.runtime.onnx import machine

TOLERATED_LOSS = {"question-answering": 1.5, "text-classification": 1.0, "summarization": 1.0}
TOLERANCE = 0.05
"""What is left after fine-pruning may differ by this much from what was asked for."""
Pair = tuple[StageRecord, StageRecord]


@dataclass(frozen=True)
class FinishedTarget:
    """The stages of one target.

    Attributes:
        target: What was asked for; None for a method that was left to its own penalty or density.
        masked: The pruned model, with what pruning predicted and measured.
        artifacts: fp32 and quantized.
        before: The same before recovery training; None without one.
    """

    target: Target | None
    masked: StageRecord
    artifacts: Pair
    before: Pair | None


def report_on(current: Run, dense: Pair, targets: Sequence[FinishedTarget]) -> RunReport:
    """Evaluate and time what the run made, write that into the manifests, and write the report into the run's folder."""
    artifacts = [*dense, *(artifact for target in targets for artifact in target.artifacts)]
    reference = score(current, dense[0])
    latency = time_artifacts(current, artifacts)
    metrics = {artifact.name: _metrics(current, artifact, dense[0], reference) for artifact in artifacts}
    for artifact in artifacts:
        update_manifest(current.stages.path(artifact.name), metrics=metrics[artifact.name], latency=latency[artifact.name])
    report = RunReport(
        run=current.config.name,
        task=current.config.task,
        date=datetime.now(UTC),
        producer=f"secateur {version('secateur')}",
        machine=machine(),
        recipe=dump_config(current.config),
        headline=_headline(current),
        dense=ModelReport(**_model(current, dense)),
        targets=tuple(_target(current, target, dense[0], reference) for target in targets),
        tolerated_loss=TOLERATED_LOSS[current.config.task],
        stages=tuple(
            StageReport(name=record.name, seconds=record.seconds, peak_memory_bytes=record.peak_memory_bytes, reused=record.reused)
            for record in current.stages.records.values()
        ),
        notes=(
            *current.config.notes,
            *missed_notes(targets),
            *slower_notes(targets, latency),
            *speed_notes(current),
            *layer_notes(_dense_manifest(current)),
            *unseen_notes(current),
            *baseline_notes(current),
        ),
    )
    write_report(report, current.stages.folder / "report")
    return report


def missed_notes(targets: Sequence[FinishedTarget]) -> tuple[str, ...]:
    """Which targets were steered for and not met."""
    found = ((each.target, each.masked.details.get("left")) for each in targets)
    return tuple(
        f"{target.label} was not met: {100 * left:.1f} % of what it counts is left, and {100 * goal_of(target):.1f} % should be; "
        "a finer granularity or a longer ramp comes nearer."
        for target, left in found
        if target is not None and left is not None and abs(left / goal_of(target) - 1) > TOLERANCE
    )


def slower_notes(targets: Sequence[FinishedTarget], latency: Mapping[str, Sequence[Latency]]) -> tuple[str, ...]:
    """Which speed-ups were predicted and not measured."""
    found = (
        (each.target, structural)
        for each in targets
        if isinstance(each.target, SpeedupTarget | GenerationTarget)
        for structural in latency[each.artifacts[each.target.precision == "int8"].name]
        if structural.kind == "structural" and structural.sequence_length == length_of(each.target)
    )
    return tuple(
        f"{target.label}: {target.speedup:g}x was asked for, and {structural.speedup:.2f}x ({structural.speedup_low:.2f} to "
        f"{structural.speedup_high:.2f}) measured."
        for target, structural in found
        if structural.speedup < (1 - TOLERANCE) * target.speedup
    )


def layer_notes(dense: Manifest) -> tuple[str, ...]:
    """Which of the report's layers are where, of a model with a decoder."""
    if dense.generation is None:
        return ()
    encoder, decoder = len(dense.layers), len(dense.generation.decoder_layers)
    return (
        f"Layers 1 to {encoder} are the encoder's. Behind them are two for each of the {decoder} of the decoder: its self-attention, and "
        "its cross-attention with its feed-forward.",
    )


def size_bytes(manifest: Manifest) -> int:
    """Size of what the artifact's folder holds, the manifest left out."""
    return sum(entry.size_bytes for entry in manifest.files.values())


def layers_of(manifest: Manifest) -> tuple[LayerShape, ...]:
    """What an artifact has left of each layer, as its family lists them: behind the encoder's two for each layer of a decoder."""
    decoder = () if manifest.generation is None else manifest.generation.decoder_layers
    shapes = (
        (LayerShape(heads=each.heads, intermediate=0), LayerShape(heads=each.cross_heads, intermediate=each.intermediate))
        for each in decoder
    )
    return (*manifest.layers, *chain.from_iterable(shapes))


def layers_beside(manifest: Manifest, dense: Manifest) -> tuple[LayerShape, ...]:
    """The same, as many as the dense model has: a layer that went whole is one of zeros."""
    encoder, whole_encoder = len(manifest.layers), len(dense.layers)
    found, whole = layers_of(manifest), layers_of(dense)
    decoder, whole_decoder = (len(found) - encoder) // 2, (len(whole) - whole_encoder) // 2
    kept = [*layers_to_copy(whole_encoder, encoder)]
    if whole_decoder:
        kept += [whole_encoder + 2 * layer + part for layer in layers_to_copy(whole_decoder, decoder) for part in (0, 1)]
    places = dict(zip(kept, found, strict=True))
    return tuple(places.get(place, LayerShape(heads=0, intermediate=0)) for place in range(len(whole)))


def _metrics(current: Run, artifact: StageRecord, dense: StageRecord, reference: Evaluations) -> tuple[Metric, ...]:
    """Metrics of an artifact, each with its paired difference from the dense one."""
    found = score(current, artifact)
    if artifact is dense:
        return tuple(metric for evaluation in found.values() for metric in evaluation.metrics)
    against = f"{current.config.name}/dense"
    return tuple(metric for key, evaluation in found.items() for metric in evaluation.compared_with(reference[key], against=against))


def _headline(current: Run) -> Headline:
    first = (*current.config.data.validation, *current.config.data.train)[0]
    return Headline(metric=HEADLINES[current.config.task], dataset=source_name(first), split=first.split)


def _model(current: Run, artifacts: Pair) -> dict[str, Any]:
    """The fields that every model of the report has, from the manifests of its artifacts."""
    manifests = [read_manifest(current.stages.path(artifact.name)) for artifact in artifacts]
    first = manifests[0]
    return {
        "parameters": first.parameters,
        "macs": first.macs,
        "density": first.density,
        "layers": layers_beside(first, _dense_manifest(current)),
        "variants": tuple(_variant(current, artifact, manifest) for artifact, manifest in zip(artifacts, manifests, strict=True)),
    }


def _dense_manifest(current: Run) -> Manifest:
    return read_manifest(current.stages.path("artifacts/dense/dense"))


def _variant(current: Run, artifact: StageRecord, manifest: Manifest) -> VariantReport:
    return VariantReport(
        artifact=f"{current.config.name}/{short_name(artifact.name)}",
        variant=manifest.variant,
        precision=manifest.precision,
        size_bytes=size_bytes(manifest),
        metrics=manifest.metrics,
        latency=manifest.latency,
    )


def _target(current: Run, finished: FinishedTarget, dense: StageRecord, reference: Evaluations) -> TargetReport:
    before = () if finished.before is None else _metrics(current, finished.before[1], dense, reference)
    return TargetReport(
        **_model(current, finished.artifacts),
        target=finished.target,
        predicted_speedup=finished.masked.details["predicted"],
        before_recovery=before,
        masks=summarise(current.stages.path(finished.masked.name), finished.masked.details),
    )
