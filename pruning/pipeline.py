"""A run, top to bottom: dense model -> importance -> for each target prune, compact, recover -> artifacts -> evaluation -> report.

Every stage's output is kept under the run's folder and used again when nothing it depends on has changed; a run that was interrupted
goes on where it stopped. `run` is the whole of it; the functions below are its steps, which the command line also offers one by one.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModel, PreTrainedModel, set_seed

from pruning import checkpoint
from pruning.analysis import save_masks
from pruning.compaction import compact, live_structure
from pruning.config import (
    FinePruneConfig,
    GenerationTarget,
    PruneConfig,
    RunConfig,
    SpeedupTarget,
    Target,
    TrainConfig,
    chosen,
    dump_config,
)
from pruning.data import Example, QuestionExample, SummaryExample, source_name
from pruning.errors import ConfigError
from pruning.evaluation import best_null_threshold
from pruning.export import ArtifactSpec, export_artifact, update_manifest
from pruning.families import family_of
from pruning.filling import revive, zeros_held
from pruning.fine_pruning import fine_prune
from pruning.importance import Importance, fisher, output_probe
from pruning.post_training import Calibration, calibration_sample, prune
from pruning.processes import from_main
from pruning.pseudo_labels import with_pseudo_labels, write_summaries
from pruning.quantization import quantize_artifact
from pruning.quantization_aware import rounding
from pruning.report import RunReport
from pruning.results import FinishedTarget, asked_decoding, report_on
from pruning.run import Run, data_identity, model_identity
from pruning.shrinking import shrunk
from pruning.stages import StageRecord, Stages
from pruning.storage import write_text_atomic
from pruning.structure import density, shapes
from pruning.targets import goal_of, left_by, left_by_density
from pruning.tasks.base import Feature, collate, inputs_of
from pruning.training import TrainingResult, computes_in_bf16, train
from pruning.vocabulary import keep_vocabulary
from pruning.warm_start import encoder_decoder
from service.artifact import GENERATING_TASKS, MANIFEST_NAME, Manifest, TrainingData, Variant, read_manifest, revision
from service.model import Model
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)

DENSE = "checkpoints/dense"
PSEUDO_LABELS = "pseudo-labels"
GOLDEN_EXAMPLES = 3
THRESHOLD_QUESTIONS = 1000
VALIDATION_SHARE = 4


def run(config: RunConfig, folder: Path) -> RunReport:
    """All of it; returns what the report in `folder/report` says.

    Raises:
        ConfigError: targets that cannot be measured in one run, before anything is made.
    """
    asked_decoding(config)
    current = Run(config, Stages(folder))
    from_main(lambda: write_text_atomic(folder / "recipe.yaml", dump_config(config)))
    dense = train_dense(current)
    artifacts = make_artifacts(current, "dense", dense, parent=None)
    finished = [finish(current, pruned, artifacts[0]) for pruned in pruned_models(current, artifacts[0])]
    return from_main(lambda: report_on(current, artifacts, finished))


@dataclass(frozen=True)
class Pruned:
    """A masked model.

    Attributes:
        label: Names it in folders.
        target: What was asked for; None for a method that was left to its own penalty or density.
        masked: The stage that made it.
    """

    label: str
    target: Target | None
    masked: StageRecord


def pruned_models(current: Run, dense: StageRecord, *, label: str | None = None) -> Iterator[Pruned]:
    """The masked model of each target, made as they are asked for: with no training, or while training.

    `label` names the folder of a run that is one of several in it; it has one target.
    """
    config = current.config
    if config.prune is not None:
        importance = measure_importance(current, dense, config.prune)
        for target in config.prune.targets:
            yield Pruned(target.label, target, prune_to(current, target, dense, importance, config.prune))
    elif config.fine_prune is not None:
        for wanted in config.fine_prune.targets or (None,):
            name = label or (wanted.label if wanted else config.fine_prune.label)
            yield Pruned(name, wanted, fine_prune_to(current, name, wanted, dense, config.fine_prune))


def finish(current: Run, pruned: Pruned, dense: StageRecord) -> FinishedTarget:
    """From a masked model to artifacts: compact, recovered, exported, quantized."""
    small = compact_stage(current, pruned.label, pruned.masked)
    if current.config.vocabulary is not None:
        small = reduce_vocabulary(current, pruned.label, small, keep=current.config.vocabulary.keep)
    before = None
    if current.config.recover is not None:
        before = make_artifacts(current, f"{pruned.label}/before-recovery", small, parent=dense)
        small = recover(current, pruned.label, small, dense)
    pair = make_artifacts(current, pruned.label, small, parent=dense)
    return FinishedTarget(pruned.target, pruned.masked, pair, before)


def train_dense(current: Run) -> StageRecord:
    """Fine-tune the dense model, stage after stage; with nothing to train, take the model as it is."""
    config = current.config

    def make(folder: Path) -> Mapping[str, Any]:
        set_seed(config.seed)
        model = _untrained(current, next(iter(config.train), None))
        work = current.stages.work(DENSE, inputs)
        results = [_train_stage(current, model, number, folder=work / f"stage-{number}") for number in range(len(config.train))]
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {"training": [asdict(result) for result in results], "rows": _rows_seen(config)}

    inputs = {
        "model": model_identity(config.model),
        "task": config.task,
        "labels": config.labels,
        "length": (config.max_length, config.stride),
        **_generating(config),
        "seed": config.seed,
        "train": [chosen(stage) for stage in config.train],
        "data": [data_identity(config.sources_of_stage(number)) for number in range(len(config.train))],
    }
    return current.stages.get(DENSE, inputs, make, together=True)


def _generating(config: RunConfig) -> dict[str, Any]:
    """What stages of a task that generates depend on beside."""
    if config.task not in GENERATING_TASKS:
        return {}
    held_out = data_identity((*config.data.validation, *config.data.test))
    return {
        "target_length": config.target_length,
        "warm_start": chosen(config.warm_start) if config.warm_start else None,
        "generation": chosen(config.generation) if config.generation else None,
        "held_out": held_out,
    }


def _dropout(config: TrainConfig) -> dict[str, Any]:
    """What `checkpoint.load` takes; all stages of a training have the first one's."""
    return {"dropout": config.dropout, "attention_dropout": config.attention_dropout}


def _train_stage(current: Run, model: PreTrainedModel, number: int, *, folder: Path) -> TrainingResult:
    config = current.config
    return train(
        model,
        current.tokenizer,
        current.task,
        current.features(current.training_examples(config.sources_of_stage(number))),
        config.train[number],
        folder=folder,
        seed=config.seed + number,
        teacher=_teacher(current, config.train[number], own=None),
        validation=_validation_rows(current),
        events=current.events(f"{DENSE}/stage-{number}"),
    )


def _validation_rows(current: Run) -> list[Feature]:
    """Rows whose loss is logged while training: every fourth of the validation set, so that it costs little."""
    sources = current.config.data.validation
    return current.features(current.examples(sources))[::VALIDATION_SHARE] if sources else []


def _teacher(current: Run, config: TrainConfig, *, own: str | None) -> PreTrainedModel | None:
    """The model that a training distils from; `own` is the stage that holds the run's dense model."""
    if config.distillation is None:
        return None
    if config.distillation.teacher != "dense":
        return checkpoint.load(config.distillation.teacher, auto_class=current.task.auto_class, attn_implementation="sdpa")
    if own is None:
        raise ConfigError("train.distillation.teacher is `dense`, which is what is being trained; name a folder or a hub model")
    return current.load(own, attn_implementation="sdpa")


def _rows_seen(config: RunConfig) -> list[str]:
    return [source_name(source) for number in range(len(config.train)) for source in config.sources_of_stage(number)]


def prune_all(current: Run) -> list[StageRecord]:
    """The masked model of each target, and nothing behind it."""
    if current.config.prune is None and current.config.fine_prune is None:
        raise ConfigError("the recipe has no `prune` and no `fine_prune` section: nothing says what to prune to")
    return [pruned.masked for pruned in pruned_models(current, train_dense(current))]


def measure_importance(current: Run, dense: StageRecord, config: PruneConfig) -> StageRecord:
    """Fisher importance of heads and neurons of the dense model, on the calibration sample."""

    def make(folder: Path) -> Mapping[str, Any]:
        model = _shrunk(current, current.load(dense.name, attn_implementation="sdpa"))
        losses = output_probe(current.task.logits, seed=current.config.seed)
        found = fisher(model, calibration(current, config).batches, losses, bf16=computes_in_bf16(), progress=True)
        save_file(found.tensors(), folder / "importance.safetensors")
        return {"examples": len(found.heads[0])}

    inputs = {
        "dense": dense.key,
        "losses": "output_probe",
        "seed": current.config.seed,
        "examples": config.calibration_examples,
        "batch": config.batch_size,
        "data": data_identity(current.last_training),
        **_shrinking(current.config),
    }
    return current.stages.get("importance", inputs, make)


def _shrunk(current: Run, model: PreTrainedModel) -> PreTrainedModel:
    """The model that is pruned: without the layers that go whole."""
    asked = current.config.shrink
    return model if asked is None else shrunk(model, encoder_layers=asked.encoder_layers, decoder_layers=asked.decoder_layers)


def _shrinking(config: RunConfig) -> dict[str, Any]:
    """What stages that prune depend on beside, where layers go whole or fewer tokens will be left to choose from."""
    layers = {} if config.shrink is None else {"shrink": chosen(config.shrink)}
    return layers if config.vocabulary is None else layers | {"outputs": config.vocabulary.keep}


def _outputs(config: RunConfig) -> int | None:
    """Tokens that compact models choose from in the end; None for all."""
    return None if config.vocabulary is None else config.vocabulary.keep


def calibration(current: Run, settings: PruneConfig) -> Calibration:
    """The run's calibration sample."""
    config = current.config
    return calibration_sample(
        current.training_examples(current.last_training),
        current.tokenizer,
        current.task,
        settings,
        max_length=config.max_length,
        stride=config.stride,
        seed=config.seed,
        target_length=config.target_length,
    )


def prune_to(current: Run, target: Target, dense: StageRecord, importance: StageRecord, settings: PruneConfig) -> StageRecord:
    """The masked model of one target: removed groups are zero, survivors are refitted."""
    config = current.config

    def make(folder: Path) -> Mapping[str, Any]:
        model = _shrunk(current, current.load(dense.name, attn_implementation="sdpa"))
        found = prune(
            model,
            current.task,
            Importance.from_tensors(load_file(current.stages.path(importance.name) / "importance.safetensors")),
            calibration(current, settings),
            target,
            settings,
            seed=config.seed,
            outputs=_outputs(config),
        )
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        fit = found.fit
        measured = None if fit is None else asdict(fit.measured)
        return {
            "structure": [asdict(layer) for layer in found.structure],
            "predicted": None if fit is None else fit.predicted,
            "measured": measured,
            "reconstruction": [asdict(block) for block in found.blocks],
        }

    inputs = {
        "dense": dense.key,
        "importance": importance.key,
        "target": chosen(target),
        "search_trials": settings.search_trials,
        "reconstruct": settings.reconstruct,
        "seed": config.seed,
        "machine": machine().model_dump() if isinstance(target, SpeedupTarget | GenerationTarget) else None,
        **_shrinking(config),
    }
    return current.stages.get(f"checkpoints/{target.label}/masked", inputs, make)


def fine_prune_to(current: Run, label: str, target: Target | None, dense: StageRecord, settings: FinePruneConfig) -> StageRecord:
    """The masked model of one target, pruned while it was trained; with `rewind`, the second time from the pretrained weights."""
    if not settings.rewind:
        return _fine_prune_stage(current, f"checkpoints/{label}/masked", target, dense, settings, guide=None)
    guide = _fine_prune_stage(current, f"checkpoints/{label}/guide", target, dense, settings, guide=None)
    return _fine_prune_stage(current, f"checkpoints/{label}/masked", target, dense, settings, guide=guide)


def _fine_prune_stage(
    current: Run, name: str, target: Target | None, dense: StageRecord, settings: FinePruneConfig, *, guide: StageRecord | None
) -> StageRecord:
    config = current.config
    pretrained = settings.start == "pretrained" or guide is not None

    def make(folder: Path) -> Mapping[str, Any]:
        set_seed(config.seed)
        protected = None if guide is None else live_structure(current.load(guide.name))
        model = _untrained(current, settings.train) if pretrained else _trainable(current, dense.name, settings.train)
        model = _shrunk(current, model)
        reference = left_by_density(model) if target is None else left_by(target, model, current.task.name, outputs=_outputs(config))
        found = fine_prune(
            model,
            current.tokenizer,
            current.task,
            current.features(current.training_examples(current.last_training)),
            settings,
            left=reference,
            target=None if target is None else goal_of(target),
            folder=current.stages.work(name, inputs),
            seed=config.seed,
            teacher=_teacher(current, settings.train, own=dense.name),
            validation=_validation_rows(current),
            events=current.events(name),
            protected=protected,
            finished=lambda masks: save_masks(masks, folder),
        )
        logger.info("fine-pruned to %s: %.4f left, density %.4f", name, found.left, found.density)
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {
            "structure": [asdict(layer) for layer in live_structure(model)],
            "predicted": 1 / found.left if isinstance(target, SpeedupTarget | GenerationTarget) else None,
            "measured": None,
            "left": found.left,
            "density": found.density,
            "training": asdict(found.training),
            "trace": [asdict(reading) for reading in found.trace],
            "rows": _rows_seen(config),
        }

    inputs = {
        "dense": dense.key,
        "model": model_identity(config.model) if pretrained else None,
        "guide": guide.key if guide else None,
        "fine_prune": {name: value for name, value in chosen(settings).items() if name != "targets"},
        "target": chosen(target) if target else None,
        "length": (config.max_length, config.stride),
        "data": data_identity(current.last_training),
        "seed": config.seed,
        "machine": machine().model_dump() if isinstance(target, SpeedupTarget | GenerationTarget) else None,
        **_shrinking(config),
    }
    return current.stages.get(name, inputs, make, together=True)


def _trainable(current: Run, stage: str, settings: TrainConfig) -> PreTrainedModel:
    return current.load(stage, attn_implementation="sdpa", **_dropout(settings))


def _untrained(current: Run, settings: TrainConfig | None) -> PreTrainedModel:
    """The model that the run starts from; where it is to be trained, its head may be new."""
    model = _warm_started(current, settings) or checkpoint.load(
        current.config.model,
        auto_class=current.task.auto_class,
        new_head=settings is not None,
        labels=current.config.labels or None,
        attn_implementation="sdpa",
        **(_dropout(settings) if settings else {}),
    )
    if current.config.generation is not None:
        model.generation_config.update(**chosen(current.config.generation))
    return model


def _warm_started(current: Run, settings: TrainConfig | None) -> PreTrainedModel | None:
    """The encoder-decoder that is made of the run's encoder; None where the model is one already."""
    warm_start = current.config.warm_start
    if warm_start is None:
        return None
    encoder = checkpoint.load(current.config.model, auto_class=AutoModel)
    rates = _dropout(settings) if settings else {}
    return encoder_decoder(encoder, current.tokenizer, decoder_layers=warm_start.decoder_layers, **rates)


def compact_stage(current: Run, label: str, masked: StageRecord) -> StageRecord:
    """The compact model: what is zero leaves, exactly."""

    def make(folder: Path) -> Mapping[str, Any]:
        small = compact(current.load(masked.name))
        checkpoint.write(small, current.tokenizer, folder, dtype=torch.float32)
        return {"layers": [shape.model_dump() for shape in shapes(small)]}

    return current.stages.get(f"checkpoints/{label}/compact", {"masked": masked.key}, make)


def recover(current: Run, label: str, small: StageRecord, dense: StageRecord) -> StageRecord:
    """Train the compact model for a little, distilling from the dense one."""
    config = current.config
    assert config.recover is not None
    settings, name = config.recover, f"checkpoints/{label}/recovered"
    written = write_pseudo_labels(current, settings, dense)

    def make(folder: Path) -> Mapping[str, Any]:
        set_seed(config.seed)
        model = _trainable(current, small.name, settings)
        if settings.fill:
            revive(model, seed=config.seed)
        with zeros_held(model), rounding(model) if settings.quantization_aware else nullcontext():
            result = train(
                model,
                current.tokenizer,
                current.task,
                current.features(_with_written(current, settings, written)),
                settings,
                folder=current.stages.work(name, inputs),
                seed=config.seed,
                teacher=_teacher(current, settings, own=dense.name),
                validation=_validation_rows(current),
                events=current.events(name),
            )
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {"training": asdict(result), "rows": _rows_seen(config)}

    inputs = {
        "compact": small.key,
        "dense": dense.key,
        "recover": chosen(settings),
        **({"pseudo_labels": written.key} if written else {}),
        "data": data_identity(current.last_training),
        "seed": config.seed,
    }
    return current.stages.get(name, inputs, make, together=True)


def write_pseudo_labels(current: Run, settings: TrainConfig, dense: StageRecord) -> StageRecord | None:
    """What the teacher of a training writes for the documents of the last training stage; None where that is not asked for."""
    config, distillation = current.config, settings.distillation
    if distillation is None or distillation.pseudo_labels is None:
        return None
    asked = distillation.pseudo_labels

    def make(folder: Path) -> None:
        teacher = _teacher(current, settings, own=dense.name)
        assert teacher is not None
        texts = write_summaries(
            teacher,
            current.tokenizer,
            [each.document for each in _documents(current)],
            asked,
            path=current.stages.work(PSEUDO_LABELS, inputs) / "summaries.jsonl",
            max_length=config.max_length,
            target_length=config.target_length,
        )
        (folder / "summaries.json").write_text(json.dumps(texts, indent=0), encoding="utf-8")

    inputs = {
        "teacher": dense.key if distillation.teacher == "dense" else model_identity(distillation.teacher),
        "beams": asked.beams,
        "length": (config.max_length, config.target_length),
        "data": data_identity(current.last_training),
        "seed": config.seed,
        **_generating(config),
    }
    return current.stages.get(PSEUDO_LABELS, inputs, make)


def _documents(current: Run) -> list[SummaryExample]:
    return [each for each in current.training_examples(current.last_training) if isinstance(each, SummaryExample)]


def _with_written(current: Run, settings: TrainConfig, written: StageRecord | None) -> Sequence[Example]:
    """Examples of the last training stage, with what a teacher wrote for them if it did."""
    if written is None or settings.distillation is None or settings.distillation.pseudo_labels is None:
        return current.training_examples(current.last_training)
    texts = json.loads((current.stages.path(written.name) / "summaries.json").read_text(encoding="utf-8"))
    return with_pseudo_labels(_documents(current), texts, references=settings.distillation.pseudo_labels.references)


def reduce_vocabulary(current: Run, label: str, small: StageRecord, *, keep: int) -> StageRecord:
    """The compact model with fewer tokens to choose from: those that the summaries it was trained on use, and what spells the rest."""

    def make(folder: Path) -> Mapping[str, Any]:
        model = current.load(small.name)
        examples = current.training_examples(current.config.data.train)
        texts = [summary for each in examples if isinstance(each, SummaryExample) for summary in each.summaries]
        keep_vocabulary(model, current.tokenizer, texts, keep)
        checkpoint.write(model, current.tokenizer, folder, dtype=torch.float32)
        return {"outputs": keep}

    inputs = {"compact": small.key, "keep": keep, "data": data_identity(current.config.data.train), **_generating(current.config)}
    return current.stages.get(f"checkpoints/{label}/reduced", inputs, make)


def make_artifacts(current: Run, label: str, model: StageRecord, *, parent: StageRecord | None) -> tuple[StageRecord, StageRecord]:
    """The servable forms of a model, fp32 and quantized."""
    exported = export_stage(current, label, model, parent=parent)
    return exported, quantize_stage(current, label, exported)


def export_stage(current: Run, label: str, model: StageRecord, *, parent: StageRecord | None) -> StageRecord:
    """The fp32 artifact of a model; without a parent it is the dense one."""
    config = current.config
    variant: Variant = "compact" if parent else "dense"

    def export(folder: Path) -> None:
        above = None if parent is None else read_manifest(current.stages.path(parent.name))
        loaded = current.load(model.name)
        export_artifact(loaded, current.tokenizer, folder, spec=artifact_spec(current, loaded, variant, parent=above))
        _set_null_threshold(current, folder)

    inputs = {
        "model": model.key,
        "name": config.name,
        "parent": parent.key if parent else None,
        "validation": data_identity(config.data.validation),
    }
    return current.stages.get(f"artifacts/{label}/{variant}", inputs, export)


def quantize_stage(current: Run, label: str, exported: StageRecord) -> StageRecord:
    """The quantized artifact beside an exported one."""
    config = current.config

    def quantize(folder: Path) -> None:
        quantize_artifact(
            current.stages.path(exported.name),
            folder,
            scheme=config.quantize.scheme,
            calibration=calibration_inputs(current) if config.quantize.scheme == "static" else (),
            method=config.quantize.calibration,
            skip_worst=config.quantize.skip_worst,
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
    return export_artifact(model, checkpoint.load_tokenizer(source), folder, spec=artifact_spec(current, model, variant, parent=None))


def artifact_spec(current: Run, model: PreTrainedModel, variant: Variant, *, parent: Manifest | None) -> ArtifactSpec:
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
        training_data=training_data(current),
        golden=tuple(as_arrays(current, feature) for feature in golden),
    )


def training_data(current: Run) -> tuple[TrainingData, ...]:
    """What the weights have seen in this run, or what the artifact that it started from says it has seen."""
    config = current.config
    if not config.train:
        return read_manifest(Path(config.model)).training_data if (Path(config.model) / MANIFEST_NAME).is_file() else ()
    stages = config.stages or [range(len(config.data.train))]
    return tuple(
        TrainingData(
            name=f"{source_name(config.data.train[i])} ({config.data.train[i].split})",
            licence=config.data.train[i].licence,
            examples=len(current.training_examples([config.data.train[i]])),
        )
        for i in sorted({i for stage in stages for i in stage})
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


def as_arrays(current: Run, feature: Feature) -> dict[str, NDArray[np.int64]]:
    """One row as the graph takes it, int64 `[1, sequence]` each, unpadded; of a model that generates, as its encoder does."""
    batch = inputs_of(collate([feature], current.tokenizer), current.task)
    return {name: tensor.numpy() for name, tensor in batch.items() if name != "decoder_input_ids"}


def calibration_inputs(current: Run) -> list[dict[str, NDArray[np.int64]]]:
    """Unpadded single rows for static quantisation."""
    examples = current.training_examples(current.last_training)
    drawn = Random(current.config.seed).sample(examples, min(len(examples), current.config.quantize.calibration_examples))
    return [as_arrays(current, feature) for feature in current.features(drawn)]
