"""What a run's artifacts score and how fast they are: evaluated and timed once, written into their manifests, and put on one page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from transformers import AutoModel, PreTrainedModel

from pruning import checkpoint
from pruning.analysis import summarise
from pruning.baselines import FIRST, MOST_SIMILAR, first_sentences, most_similar_sentences
from pruning.config import DataSource, GenerationTarget, RunConfig, SpeedupTarget, Target, chosen, dump_config
from pruning.data_sources import source_name
from pruning.errors import ConfigError
from pruning.evaluation import Evaluation, evaluate, evaluation_of, rescored, rouge
from pruning.examples import SummaryExample
from pruning.export import update_manifest
from pruning.families.bart import layers_to_copy
from pruning.report import Headline, ModelReport, RunReport, StageReport, TargetReport, VariantReport, length_of, metric_name, write_report
from pruning.run import Run, data_identity, model_identity
from pruning.serving_latency import Decoding, measure_latency, own_decoding
from pruning.stages import StageRecord
from pruning.targets import goal_of
from service.artifact import Latency, LayerShape, Manifest, Metric, read_manifest
from service.model import AnyModel, load_model
from service.runtime.onnx import machine

HEADLINES = {"question-answering": "f1", "text-classification": "accuracy", "summarization": "rougeL"}
TOLERATED_LOSS = {"question-answering": 1.5, "text-classification": 1.0, "summarization": 1.0}
UNSEEN = "unseen summaries"
TOLERANCE = 0.05
"""What is left after fine-pruning may differ by this much from what was asked for."""
Pair = tuple[StageRecord, StageRecord]
Evaluations = Mapping[tuple[str, str], Evaluation]


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


def score(current: Run, artifact: StageRecord) -> Evaluations:
    """Evaluations of an artifact on the run's validation sets, by dataset and split."""
    sources = current.config.data.validation

    def make(folder: Path) -> None:
        model = load_model(current.stages.path(artifact.name))
        found = [evaluation for source in sources for evaluation in evaluate_source(current, model, source)]
        for number, evaluation in enumerate(found):
            evaluation.save(folder / f"{number}.json")

    inputs = {
        "artifact": artifact.key,
        "data": data_identity(sources),
        "positive_label": current.config.evaluate.positive_label,
        **_trained_on(current),
    }
    scored = current.stages.get(f"scores/{artifact.name.removeprefix('artifacts/')}", inputs, make)
    paths = sorted(current.stages.path(scored.name).glob("*.json"), key=lambda path: int(path.stem))
    return {(evaluation.dataset, evaluation.split): evaluation for evaluation in map(Evaluation.load, paths)}


def evaluate_source(current: Run, model: AnyModel, source: DataSource) -> list[Evaluation]:
    """Accuracy of an artifact on one dataset; where training has had some of its summaries, also against the others alone."""
    examples, positive = current.examples([source]), current.config.evaluate.positive_label
    whole = evaluate(model, examples, dataset=source_name(source), split=source.split, positive_label=positive)
    unseen = current.unseen(examples)
    return [whole, rescored(whole, unseen, split=unseen_split(source))] if unseen else [whole]


def unseen_split(source: DataSource) -> str:
    """What the part of a split is called whose summaries training has not had."""
    return f"{source.split}, {UNSEEN}"


def unseen_notes(current: Run, split: Literal["validation", "test"] = "validation") -> tuple[str, ...]:
    """How much of each set of the split training has not had, a line for each set of which it has had some."""
    sources = current.config.data.validation if split == "validation" else current.config.data.test
    sets = [(source, examples, current.unseen(examples)) for source in sources for examples in [current.examples([source])]]
    return tuple(
        f"{source_name(source)}, {unseen_split(source)}: {sum(len(each.summaries) for each in unseen)} of the "
        f"{sum(len(each.summaries) for each in examples if isinstance(each, SummaryExample))} summaries, of {len(unseen)} of the "
        f"{len(examples)} documents; each of the others is also the summary of a training document."
        for source, examples, unseen in sets
        if unseen is not None
    )


def _trained_on(current: Run) -> dict[str, object]:
    """What scores of summaries depend on beside: the summaries that training has had."""
    return {"trained_on": data_identity(current.config.data.train)} if current.config.task == "summarization" else {}


def baseline_notes(current: Run, split: Literal["validation", "test"] = "validation") -> tuple[str, ...]:
    """What a summarizer has to beat on each set of the split, a line for each baseline; nothing for other tasks."""
    sources = current.config.data.validation if split == "validation" else current.config.data.test
    if current.config.task != "summarization" or not sources:
        return ()

    def make(folder: Path) -> dict[str, list[str]]:
        encoder = None if current.config.warm_start is None else checkpoint.load(current.config.model, auto_class=AutoModel)
        return {"lines": [line for source in sources for line in _baselines(current, source, encoder)]}

    inputs = {
        "data": data_identity(sources),
        "model": model_identity(current.config.model),
        "length": current.config.max_length,
        **_trained_on(current),
    }
    return tuple(current.stages.get(f"baselines/{split}", inputs, make).details["lines"])


def _baselines(current: Run, source: DataSource, encoder: PreTrainedModel | None) -> list[str]:
    examples = [each for each in current.examples([source]) if isinstance(each, SummaryExample)]
    documents = [each.document for each in examples]
    predictions = {FIRST: first_sentences(documents)}
    if encoder is not None:
        predictions[MOST_SIMILAR] = most_similar_sentences(documents, encoder, current.tokenizer, max_length=current.config.max_length)
    unseen = current.unseen(examples)
    lines = []
    for name, written in predictions.items():
        found = evaluation_of(written, rouge(written, examples), examples, dataset=source_name(source), split=source.split)
        evaluations = [found, rescored(found, unseen, split=unseen_split(source))] if unseen else [found]
        lines += [_baseline_line(name, evaluation) for evaluation in evaluations]
    return lines


def _baseline_line(name: str, found: Evaluation) -> str:
    values = ", ".join(f"{metric_name(metric.name)} {metric.value:.2f} ({metric.low:.2f} to {metric.high:.2f})" for metric in found.metrics)
    return f"Baseline on {found.dataset}, {found.split}, {name} of the document: {values}."


def time_artifacts(current: Run, artifacts: Sequence[StageRecord]) -> dict[str, tuple[Latency, ...]]:
    """Latency of all artifacts of the run, measured in one interleaved run; by stage name."""
    config = current.config
    asked = {each for target in config.targets if (each := length_of(target)) is not None}
    lengths = sorted({*config.evaluate.sequence_lengths, *asked})
    decoding = decoding_of(current)

    def make(folder: Path) -> Mapping[str, Any]:
        folders = {_short(record.name): current.stages.path(record.name) for record in artifacts}
        found = measure_latency(
            folders,
            sequence_lengths=lengths,
            callers=config.evaluate.callers,
            seconds=config.evaluate.seconds,
            decoding=decoding,
            progress=True,
        )
        return {name: [latency.model_dump(mode="json") for latency in latencies] for name, latencies in found.items()}

    inputs = {
        "artifacts": [record.key for record in artifacts],
        "evaluate": chosen(config.evaluate),
        "machine": machine().model_dump(),
        **({} if decoding is None else {"decoding": asdict(decoding)}),
    }
    timed = current.stages.get("latency", inputs, make)
    return {record.name: tuple(Latency.model_validate(each) for each in timed.details[_short(record.name)]) for record in artifacts}


def decoding_of(current: Run) -> Decoding | None:
    """What is generated while the run's latencies are measured: what its targets say, else what the dense model does; None for encoders."""
    return asked_decoding(current.config) or own_decoding(_dense_manifest(current))


def asked_decoding(config: RunConfig) -> Decoding | None:
    """What the recipe's targets expect to be generated; None where they do not say.

    Raises:
        ConfigError: they differ; a run measures what it has made under one condition.
    """
    targets = [target for target in config.targets if isinstance(target, GenerationTarget)]
    found = {Decoding(target.target_length, target.beams, target.requests) for target in targets}
    if len(found) > 1:
        raise ConfigError("targets of one run differ in `target_length`, `beams` or `requests`; give all the same, or make two runs")
    return next(iter(found), None)


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


def speed_notes(current: Run) -> tuple[str, ...]:
    """What was timed, of a model that generates."""
    decoding = decoding_of(current)
    if decoding is None:
        return ()
    several = "" if decoding.requests == 1 else f", {decoding.requests} requests together"
    return (
        f"Latencies are of generation through the engine that serves, from the source, whose tokens are stated, to the last of "
        f"{decoding.target_length} tokens {decoding.how}{several}.",
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


def _variant(current: Run, artifact: StageRecord, manifest: Manifest) -> VariantReport:
    return VariantReport(
        artifact=f"{current.config.name}/{_short(artifact.name)}",
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


def _short(stage: str) -> str:
    """`artifacts/dense/dense-int8` -> `dense-int8`; `artifacts/<label>/compact` -> `<label>/compact`."""
    return stage.removeprefix("artifacts/").removeprefix("dense/")
