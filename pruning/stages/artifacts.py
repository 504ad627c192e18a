"""The stages that make artifacts of a model: exported in fp32, quantized beside that, each with what its manifest says of the run."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from pruning import checkpoint
from pruning.config import DataSource, chosen, dump_config
from pruning.data_sources import source_name
from pruning.evaluation import best_null_threshold
from pruning.examples import QuestionExample
from pruning.export import ArtifactSpec, export_artifact, update_manifest
from pruning.families import family_of
from pruning.quantization import quantize_artifact
from pruning.run import Run, data_identity
from pruning.stages.store import StageRecord
from pruning.structure import density
from pruning.tasks.base import Feature, collate, inputs_of
from service.artifact import MANIFEST_NAME, Manifest, TrainingData, Variant, read_manifest, revision
from service.model import Model

GOLDEN_EXAMPLES = 3
THRESHOLD_QUESTIONS = 1000


def make_artifacts(current: Run, label: str, model: StageRecord, *, parent: StageRecord | None) -> tuple[StageRecord, StageRecord]:
    """The servable forms of a model, fp32 and quantized; without a parent it is the dense one."""
    exported = export_stage(current, label, model, parent=parent)
    return exported, quantize_stage(current, exported)


def export_stage(current: Run, label: str, model: StageRecord, *, parent: StageRecord | None) -> StageRecord:
    """The fp32 artifact of a model; without a parent it is the dense one."""
    config = current.config
    variant: Variant = "compact" if parent else "dense"

    def export(folder: Path) -> None:
        above = None if parent is None else read_manifest(current.stages.path(parent.name))
        loaded = current.load(model.name)
        export_artifact(loaded, current.tokenizer, folder, spec=_artifact_spec(current, loaded, variant, parent=above))
        _set_null_threshold(current, folder)

    inputs = {
        "model": model.key,
        "name": config.name,
        "parent": parent.key if parent else None,
        "validation": data_identity(config.data.validation),
    }
    return current.stages.get(f"artifacts/{label}/{variant}", inputs, export)


def quantize_stage(current: Run, exported: StageRecord) -> StageRecord:
    """The quantized artifact beside an exported one."""
    config = current.config

    def quantize(folder: Path) -> None:
        quantize_artifact(
            current.stages.path(exported.name),
            folder,
            scheme=config.quantize.scheme,
            calibration=calibration_inputs(current) if config.quantize.needs_calibration else (),
            method=config.quantize.calibration,
            skip_worst=config.quantize.skip_worst,
            smoothed=config.quantize.smooth,
        )
        _set_null_threshold(current, folder)

    inputs = {
        "exported": exported.key,
        "quantize": chosen(config.quantize),
        "validation": data_identity(config.data.validation),
    }
    return current.stages.get(f"{exported.name}-int8", inputs, quantize)


def export_checkpoint(current: Run, source: Path, folder: Path) -> Manifest:
    """Export one checkpoint to an artifact; one from which nothing was removed is the variant `dense`."""
    model = checkpoint.load(source, auto_class=current.task.auto_class)
    variant: Variant = "dense" if density(model) == 1.0 else "compact"
    return export_artifact(model, checkpoint.load_tokenizer(source), folder, spec=_artifact_spec(current, model, variant, parent=None))


def calibration_inputs(current: Run) -> list[dict[str, NDArray[np.int64]]]:
    """Rows of training data for quantization, int64 `[1, sequence]` each, unpadded."""
    examples = current.training_examples(current.last_training)
    drawn = Random(current.config.seed).sample(examples, min(len(examples), current.config.quantize.calibration_examples))
    return [_as_arrays(current, feature) for feature in current.features(drawn)]


def short_name(stage: str) -> str:
    """What reports call an artifact: `artifacts/dense/dense-int8` -> `dense-int8`; `artifacts/<label>/compact` -> `<label>/compact`."""
    return stage.removeprefix("artifacts/").removeprefix("dense/")


def _artifact_spec(current: Run, model: PreTrainedModel, variant: Variant, *, parent: Manifest | None) -> ArtifactSpec:
    """What the manifest says beyond what the graph itself tells."""
    config = current.config
    sources = (*config.data.validation, *config.data.train)[:1]
    golden = current.features(current.examples(sources)[:GOLDEN_EXAMPLES])[:GOLDEN_EXAMPLES]
    return ArtifactSpec(
        name=config.name,
        variant=variant,
        task=config.task,
        family=family_of(model).name,
        density=density(model),
        labels=config.labels,
        multi_label=config.multi_label,
        max_length=config.max_length,
        target_length=config.target_length,
        stride=config.stride,
        handles_no_answer=bool(_impossible(current)),
        macs_sequence_length=max(config.evaluate.sequence_lengths),
        recipe=dump_config(config),
        parent=None if parent is None else revision(parent),
        training_data=_training_data(current, variant),
        golden=tuple(_as_arrays(current, feature) for feature in golden),
    )


def _training_data(current: Run, variant: Variant) -> tuple[TrainingData, ...]:
    """What the weights have seen: in this run, and before it as far as the artifact that it started from says so."""
    config, path = current.config, Path(current.config.model)
    if config.train:
        used = {i for stage in config.stages or [range(len(config.data.train))] for i in stage}
        return _described(current, [config.data.train[i] for i in sorted(used)])
    before = read_manifest(path).training_data if (path / MANIFEST_NAME).is_file() else ()
    is_trained = variant != "dense" and (config.fine_prune or config.recover)
    now, known = _described(current, config.data.train) if is_trained else (), {each.name for each in before}
    return (*before, *(each for each in now if each.name not in known))


def _described(current: Run, sources: Sequence[DataSource]) -> tuple[TrainingData, ...]:
    return tuple(
        TrainingData(name=f"{source_name(each)} ({each.split})", licence=each.licence, examples=len(current.training_examples([each])))
        for each in sources
    )


def _impossible(current: Run) -> list[QuestionExample]:
    """Validation questions without an answer; none for other tasks."""
    return [e for e in current.examples(current.config.data.validation) if isinstance(e, QuestionExample) and not e.answers]


def _set_null_threshold(current: Run, artifact: Path) -> None:
    """Give the artifact the no-answer threshold that does best on a sample of the validation questions, where some have no answer."""
    impossible = _impossible(current)
    if not impossible:
        return
    answerable = [e for e in current.examples(current.config.data.validation) if isinstance(e, QuestionExample) and e.answers]
    random = Random(current.config.seed)
    share = min(len(impossible), THRESHOLD_QUESTIONS // 4)
    sample = random.sample(impossible, share) + random.sample(answerable, min(len(answerable), THRESHOLD_QUESTIONS - share))
    update_manifest(artifact, null_threshold=best_null_threshold(Model.load(artifact), sample))


def _as_arrays(current: Run, feature: Feature) -> dict[str, NDArray[np.int64]]:
    """One row as the graph takes it, int64 `[1, sequence]` each, unpadded; of a model that generates, as its encoder does."""
    batch = inputs_of(collate([feature], current.tokenizer), current.task)
    return {name: tensor.numpy() for name, tensor in batch.items() if name != "decoder_input_ids"}
