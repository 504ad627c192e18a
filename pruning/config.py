"""What a run is: one frozen `RunConfig`, read from a recipe (YAML) with dotted overrides, saved beside every result.

A mode is a type, not a string with holes: each target is its own small model, and a field that belongs to another one is refused
with one line. `load_recipe` is the only reader of recipe files.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from pruning.errors import ConfigError
from service.artifact import TaskName

RECIPES = Path(__file__).parent / "recipes"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Part):
    """Where examples come from: a dataset of the hub, or a local file that overrides it."""

    hub: str | None = Field(None, description="Dataset on the hub, `owner/name`.")
    config: str | None = Field(None, description="Configuration of the hub dataset.")
    split: str = Field("train", description="Split of the hub dataset; also names the split in reports.")
    revision: str | None = Field(None, description="Commit of the hub dataset.")
    path: str | None = Field(
        None, description="Local file (SQuAD JSON, JSON lines, CSV); relative paths are also looked up in SECATEUR_DATA. Used if it exists."
    )
    name: str | None = Field(None, description="Name in reports and manifests; by default the hub name or the file's.")
    licence: str = Field("not stated", description="Licence of the data, for the manifest.")
    text: str | None = Field(None, description="Column of the text; guessed from the usual names if not given.")
    text_pair: str | None = Field(None, description="Column of the second text, for pairs.")
    label: str = Field("label", description="Column of the label: an index, or one of `labels`.")
    document: str | None = Field(None, description="Summarization: column of the document; guessed from the usual names if not given.")
    summary: str | None = Field(None, description="Summarization: column of the summary, or of a list of them; guessed likewise.")
    copy_target: Literal["best_sentence", "first_sentence"] | None = Field(
        None,
        description="Summarization: read documents alone, SQuAD's contexts too, and take one of their own sentences for their summary: the "
        "one most like the rest by ROUGE-1, or the first.",
    )
    passages: int = Field(0, ge=0, description="With `copy_target`: also this many passages of each document, drawn with the run's seed.")
    limit: int | None = Field(None, gt=0, description="Use this many examples, drawn with the run's seed.")
    distractors: int = Field(
        0, ge=0, description="Question answering: other contexts of the source put around each one, in random order; for short contexts."
    )
    wrong_paragraphs: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Question answering: share of the result that pairs a question with a paragraph that does not answer it.",
    )

    @model_validator(mode="after")
    def _has_a_source(self) -> "DataSource":
        if not (self.hub or self.path):
            raise ValueError("a data source needs `hub` or `path`")
        if self.passages and self.copy_target is None:
            raise ValueError("`passages` are copied from, so they need `copy_target`")
        return self


class DataConfig(_Part):
    """The datasets of a run, each with one use: choosing is done on `validation`, `test` is read once, at the end."""

    train: tuple[DataSource, ...] = Field(description="What the weights are trained on and calibration samples are drawn from.")
    validation: tuple[DataSource, ...] = Field((), description="What choices are made by.")
    test: tuple[DataSource, ...] = Field((), description="What is reported once.")


class PseudoLabelsConfig(_Part):
    """Summaries that the teacher writes, for the student to learn (Kim & Rush, 2016, arXiv:1606.07947; Shleifer & Rush, 2020)."""

    beams: int = Field(4, gt=0, description="Beams that the teacher searches with.")
    batch_size: int = Field(16, gt=0, description="Documents that are summarized at a time.")
    references: bool = Field(True, description="Learn the summaries of the data, too.")


class DistillationConfig(_Part):
    """Knowledge distillation from a teacher's logits (Hinton et al., 2015, arXiv:1503.02531), and from its layers."""

    teacher: str = Field("dense", description="Folder or hub name of the teacher; `dense` is the run's own dense model.")
    temperature: float = Field(2.0, gt=0, description="Softens both distributions; the loss is multiplied by its square.")
    weight: float = Field(0.9, ge=0, le=1, description="Weight of the teacher's loss; the labels' loss has the rest.")
    hidden: float = Field(
        0.0, ge=0, description="Weight of the loss of hidden states, layer by layer, which is added (Jiao et al., 2020, arXiv:1909.10351)."
    )
    attention: float = Field(
        0.0, ge=0, description="Weight of the loss of attention, averaged over heads, which is added; computed without SDPA, so slower."
    )
    pseudo_labels: PseudoLabelsConfig | None = Field(
        None, description="Summarization: also learn what the teacher writes; none by default."
    )


class TrainConfig(_Part):
    """Hyper-parameters of one training, by `transformers.Trainer`."""

    epochs: float = Field(2.0, gt=0, description="Passes over the training data.")
    learning_rate: float = Field(8e-5, gt=0, description="Peak learning rate.")
    batch_size: int = Field(32, gt=0, description="Examples per optimizer step and process.")
    accumulation: int = Field(1, gt=0, description="Micro-batches per optimizer step; `batch_size` is split by it.")
    warmup: float = Field(0.06, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field("linear", description="Learning-rate schedule.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of hidden states and of the head's input.")
    attention_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout of attention probabilities; 0 is much faster on CPU.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the task's loss.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    freeze_embeddings: bool = Field(True, description="Leave the embedding tables as they are, so that models can share their file.")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the machine computes in it.")
    distillation: DistillationConfig | None = Field(None, description="Distil from a teacher; none by default.")
    save_steps: int = Field(500, gt=0, description="Optimizer steps between checkpoints that a rerun resumes from.")
    patience: int | None = Field(
        None,
        gt=0,
        description="Stop after this many evaluations without a better validation loss, one every `save_steps`, and keep the best weights; "
        "none: train to the end.",
    )

    @model_validator(mode="after")
    def _splits_evenly(self) -> "TrainConfig":
        if self.batch_size % self.accumulation:
            raise ValueError(f"`batch_size` {self.batch_size} is not divisible by `accumulation` {self.accumulation}")
        return self


class WarmStartConfig(_Part):
    """An encoder-decoder from a pretrained BERT (Rothe et al., 2020, arXiv:1907.12461), for a task that generates."""

    decoder_layers: int = Field(3, gt=0, description="Layers of the decoder, copied from the encoder's, the first and the last among them.")


class DecodingConfig(_Part):
    """How a model that generates does so where a request says nothing else; what is left out is as the model says."""

    num_beams: int | None = Field(None, gt=0, description="Beams; 1 is greedy.")
    length_penalty: float | None = Field(None, description="Beams: above 0 favours longer summaries.")
    early_stopping: bool | None = Field(None, description="Beams: stop when there are as many ended ones as beams.")
    no_repeat_ngram_size: int | None = Field(None, ge=0, description="No sequence of this many tokens occurs twice; 0: it may.")
    min_new_tokens: int | None = Field(None, ge=0, description="Fewest tokens of a summary.")
    max_new_tokens: int | None = Field(None, gt=0, description="Most tokens of a summary.")


class SpeedupTarget(_Part):
    """A structural speed-up over the dense model in the same precision, runtime and length, one thread, one row per call."""

    speedup: float = Field(gt=1, description="Dense latency over pruned latency.")
    precision: Literal["int8", "fp32"] = Field("int8", description="Precision that will serve.")
    runtime: str = Field("onnxruntime", description="Runtime that will serve.")
    sequence_length: int = Field(128, gt=0, description="Tokens in a row, as served.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        return f"speedup-{self.speedup:g}-{self.precision}-{self.sequence_length}"


class GenerationTarget(_Part):
    """A structural speed-up of generation over the dense model: requests that are encoded one by one, and decoded together."""

    speedup: float = Field(gt=1, description="Dense latency over pruned latency, from the source to the last token.")
    precision: Literal["int8", "fp32"] = Field("int8", description="Precision that will serve.")
    runtime: str = Field("onnxruntime", description="Runtime that will serve.")
    source_length: int = Field(gt=0, description="Tokens of a source, as expected in service.")
    target_length: int = Field(gt=0, description="Tokens that are generated, as expected in service.")
    beams: int = Field(1, gt=0, description="Beams of a request.")
    requests: int = Field(1, gt=0, description="Requests that are decoded at the same time.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        rows = f"-{self.requests}x{self.beams}" if self.requests * self.beams > 1 else ""
        return f"generation-{self.speedup:g}-{self.precision}-{self.source_length}-{self.target_length}{rows}"


class DensityTarget(_Part):
    """A share of the encoder's linear weights."""

    density: float = Field(gt=0, lt=1, description="Encoder linear weights left over all of them.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        return f"density-{self.density:g}"


class MacsTarget(_Part):
    """A share of the encoder's multiply-accumulates at one length."""

    macs: float = Field(gt=0, lt=1, description="MACs left over the dense model's.")
    sequence_length: int = Field(128, gt=0, description="Tokens in the row, the attention core included.")
    target_length: int | None = Field(None, gt=0, description="Tokens that a decoder generates; as many as in the row if not given.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        generated = "" if self.target_length is None else f"-{self.target_length}"
        return f"macs-{self.macs:g}-{self.sequence_length}{generated}"


class ParametersTarget(_Part):
    """A share of the model's parameters: what compaction leaves over all of them, the embeddings included."""

    parameters: float = Field(gt=0, lt=1, description="Parameters left over the dense model's; the embeddings stay and count.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        return f"parameters-{self.parameters:g}"


def _target_kind(value: object) -> str | None:
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, BaseModel) else ()
    if "speedup" in keys and ("source_length" in keys or "target_length" in keys):
        return "generation"
    return next((kind for kind in ("speedup", "density", "macs", "parameters") if kind in keys), None)


Target = Annotated[
    Annotated[SpeedupTarget, Tag("speedup")]
    | Annotated[GenerationTarget, Tag("generation")]
    | Annotated[DensityTarget, Tag("density")]
    | Annotated[MacsTarget, Tag("macs")]
    | Annotated[ParametersTarget, Tag("parameters")],
    Discriminator(
        _target_kind,
        custom_error_type="target",
        custom_error_message="a target needs exactly one of `speedup`, `density`, `macs`, `parameters`",
    ),
]


class ShrinkConfig(_Part):
    """Whole layers that go before anything else is pruned (Shleifer & Rush, 2020, arXiv:2010.13002)."""

    encoder_layers: int | None = Field(None, gt=0, description="Layers that the encoder keeps; all by default.")
    decoder_layers: int | None = Field(None, gt=0, description="Layers that the decoder keeps; all by default.")


class VocabularyConfig(_Part):
    """Tokens that a model which generates may choose from; what it takes to spell all others is among them."""

    keep: int = Field(gt=0, description="How many: special tokens and what others are spelled in, then those most used in summaries.")


class PruneConfig(_Part):
    """Pruning with no training (Kwon et al., 2022, arXiv:2204.09656): importance, search, reconstruction."""

    targets: tuple[Target, ...] = Field(min_length=1, description="What to reach; all from one importance pass.")
    calibration_examples: int = Field(1024, gt=0, description="Training examples that importance and reconstruction see.")
    batch_size: int = Field(16, gt=0, description="Examples per calibration batch.")
    search_trials: int = Field(32, ge=0, description="Candidate structures scored on calibration loss after the first search; 0 for none.")
    reconstruct: bool = Field(True, description="Least-squares reconstruction of what is left.")


class MagnitudeConfig(_Part):
    """Keep the largest weights (Han et al., 2015, arXiv:1506.02626)."""

    name: Literal["magnitude"] = Field("magnitude", description="The method.")
    scope: Literal["local", "global"] = Field("local", description="Rank within each matrix, or over all of them.")


class MovementConfig(_Part):
    """Keep what does not move towards zero, *hard* (Sanh et al., 2020, arXiv:2005.07683)."""

    name: Literal["movement"] = Field("movement", description="The method.")
    scope: Literal["local", "global"] = Field("local", description="Rank within each matrix, or over all of them.")


class SoftMovementConfig(_Part):
    """Keep what a penalty does not push below a threshold (Sanh et al., 2020, arXiv:2005.07683)."""

    name: Literal["soft_movement"] = Field("soft_movement", description="The method.")
    threshold: float = Field(0.1, gt=0, lt=0.5, description="What the sigmoid of a score has to exceed, at the end of the ramp.")
    penalty: float = Field(10.0, gt=0, description="Weight of the penalty; where it begins, if there is a target to steer for.")


class L0Config(_Part):
    """Keep the gates that are likely to be open (Louizos et al., 2018, arXiv:1712.01312)."""

    name: Literal["l0"] = Field("l0", description="The method.")
    initial: float = Field(2.197, description="Scores at first: log odds; 2.197 is a probability of 0.9.")
    penalty: float = Field(10.0, gt=0, description="Weight of the penalty; where it begins, if there is a target to steer for.")
    seed: int = Field(0, ge=0, description="Seed of the gates' noise.")


MethodConfig = Annotated[MagnitudeConfig | MovementConfig | SoftMovementConfig | L0Config, Field(discriminator="name")]


class BlockSize(_Part):
    """Rectangles of weights."""

    rows: int = Field(gt=0, description="Outputs of a group; its inputs, in projections back into the residual stream.")
    columns: int = Field(gt=0, description="Inputs of a group; its outputs, in projections back into the residual stream.")


class Granularity(_Part):
    """What is pruned as one, by kind of block."""

    attention: Literal["element", "row", "column", "head"] | BlockSize | None = Field(
        description="Queries, keys, values and outputs: weights, rows, columns or blocks of each matrix; whole heads; null for nothing."
    )
    feed_forward: Literal["element", "row", "column", "neuron"] | BlockSize | None = Field(
        description="Both matrices of the feed-forward: weights, rows, columns or blocks of each; whole neurons; null for nothing."
    )


class FinePruneConfig(_Part):
    """Pruning while training: a method, what it prunes as one, and what to reach."""

    method: MethodConfig = Field(SoftMovementConfig(), description="What decides which weights stay.")
    granularity: Granularity = Field(description="What is pruned as one.")
    targets: tuple[Target, ...] = Field((), description="What to reach, a training each; with none the method's own penalty decides.")
    density: float | None = Field(None, gt=0, lt=1, description="Methods that keep the best, without a target: the share that they keep.")
    start: Literal["dense", "pretrained"] = Field(
        "dense", description="Weights to start from: those of the run's dense model, or of `model`, before any fine-tuning."
    )
    rewind: bool = Field(
        False,
        description="Afterwards, start over from the weights of `model`; heads and neurons that were left are protected, others go again.",
    )
    score_learning_rate: float = Field(1e-2, gt=0, description="Peak learning rate of the scores.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps before anything is pruned.")
    cooldown: float = Field(0.3, ge=0, lt=1, description="Share of the steps after the masks are frozen.")
    attention_penalty: float = Field(1.0, ge=0, description="Weight of the penalty on attention, relative to the method's.")
    feed_forward_penalty: float = Field(1.0, ge=0, description="Weight of the penalty on the feed-forward, relative to the method's.")
    decoder_penalty: float = Field(2.0, ge=0, description="Weight of both penalties in a decoder, relative to those in its encoder.")
    train: TrainConfig = Field(TrainConfig(), description="How it trains.")

    @property
    def label(self) -> str:
        """Name in folders and tables where there are no targets: what the method is left to."""
        penalty = getattr(self.method, "penalty", None)
        return f"density-{self.density:g}" if penalty is None else f"{self.method.name}-penalty-{penalty:g}"

    @model_validator(mode="after")
    def _knows_where_to_go(self) -> "FinePruneConfig":
        keeps_the_best = self.method.name in ("magnitude", "movement")
        if keeps_the_best and bool(self.targets) is (self.density is not None):
            raise ValueError(f"{self.method.name} needs `targets` or `density`, and only one of them")
        if not keeps_the_best and self.density is not None:
            raise ValueError(f"{self.method.name} keeps what its penalty leaves; give `targets` instead of `density`")
        if self.warmup + self.cooldown >= 1:
            raise ValueError("`warmup` and `cooldown` leave no steps to prune in; together they must be less than 1")
        return self


class RecoverConfig(TrainConfig):
    """Training of a compact model after pruning."""

    fill: bool = Field(
        False,
        description="Revive the zeros inside what is left, which cost nothing in a compact model; without it they stay zero.",
    )
    quantization_aware: bool = Field(
        False, description="Round weights and inputs of the layers while training as the int8 variant does, which then loses less."
    )


Scheme = Literal["dynamic", "static", "fp16"]
Method = Literal["minmax", "percentile", "entropy"]


class QuantizeConfig(_Part):
    """8-bit and 16-bit forms of the ONNX graph."""

    scheme: Scheme = Field("dynamic", description="dynamic: signed, per channel, no calibration.")
    calibration: Method = Field("minmax", description="static: how activation ranges are found.")
    calibration_examples: int = Field(128, gt=0, description="static: training examples seen.")
    skip_worst: int = Field(0, ge=0, description="static: linear layers with the largest measured error that stay in fp32.")


class EvaluateConfig(_Part):
    """What is measured of every artifact."""

    sequence_lengths: tuple[int, ...] = Field((32, 128, 384), min_length=1, description="Lengths at which latency is measured.")
    seconds: float = Field(6.0, gt=0, description="Time of each interleaved latency measurement.")
    callers: int = Field(2, gt=0, description="Concurrent callers, one thread each, for the total speed-up.")
    positive_label: int | None = Field(None, ge=0, description="Classification: also report F1 of this label.")


class RunConfig(_Part):
    """One run: dense model, pruning to each target, recovery, artifacts, evaluation, report."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the model; the artifact's folder.")
    task: TaskName = Field(description="The task, by its standard name.")
    model: str = Field(description="Pretrained encoder or fine-tuned model: hub name, folder, or a Secateur checkpoint.")
    warm_start: WarmStartConfig | None = Field(
        None, description="Summarization: `model` is an encoder, which an encoder-decoder is made of; none: it is one already."
    )
    generation: DecodingConfig | None = Field(None, description="Summarization: how the model decodes by default.")
    data: DataConfig = Field(description="The datasets.")
    labels: tuple[str, ...] = Field((), description="Classification: label names by index.")
    multi_label: bool = Field(False, description="Classification: sigmoid over each label.")
    max_length: int = Field(384, gt=0, description="Most tokens in a row.")
    stride: int = Field(128, ge=0, description="Question answering: tokens that neighbouring windows share.")
    target_length: int = Field(64, gt=1, description="Summarization: most tokens in a summary, the end included.")
    seed: int = Field(17, ge=0, description="Seed of everything random.")
    train: tuple[TrainConfig, ...] = Field(
        (), description="Dense fine-tuning, one entry per stage; empty if `model` is fine-tuned already."
    )
    stages: tuple[tuple[int, ...], ...] = Field(
        (), description="For each training stage, which of `data.train` it uses, by position; empty: all of them in each."
    )
    shrink: ShrinkConfig | None = Field(None, description="Summarization: layers that go whole, before the rest is pruned.")
    prune: PruneConfig | None = Field(None, description="Pruning with no training; none stops after the dense model.")
    fine_prune: FinePruneConfig | None = Field(None, description="Pruning while training; instead of `prune`.")
    vocabulary: VocabularyConfig | None = Field(
        None, description="Summarization: reduce what compact models choose from, before recovery, in which they learn to spell the rest."
    )
    recover: RecoverConfig | None = Field(None, description="Training of each compact model after pruning.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="How the int8 variant is made.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="What is measured.")
    tensorboard: bool = Field(False, description="Write what the trainings log to `tensorboard/` in the run's folder, too.")
    notes: tuple[str, ...] = Field((), description="What a reader of the report must know: that the data is a smoke sample, for example.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunConfig":
        if self.task == "text-classification" and len(self.labels) < 2:
            raise ValueError("text classification needs `labels`: at least two names, by index")
        if self.warm_start is not None and self.task != "summarization":
            raise ValueError("`warm_start` makes a model that generates; it is for the task summarization")
        if self.stages and len(self.stages) != len(self.train):
            raise ValueError(f"`stages` has {len(self.stages)} entries and `train` {len(self.train)}; give one per stage")
        if self.prune is not None and self.fine_prune is not None:
            raise ValueError("`prune` and `fine_prune` are two ways to prune; give one of them")
        generates = self.task == "summarization"
        if not generates and (self.shrink or self.vocabulary):
            raise ValueError(f"`shrink` and `vocabulary` are for summarization, and the task is {self.task}; leave them out")
        if any(isinstance(target, SpeedupTarget if generates else GenerationTarget) for target in self.targets):
            lengths = "`source_length` and `target_length`" if generates else "`sequence_length`"
            raise ValueError(f"a speed-up of {self.task} depends on {lengths}; give that beside `speedup`")
        trainings = (*self.train, self.recover, self.fine_prune.train if self.fine_prune else None)
        if not self.data.validation and any(each.patience is not None for each in trainings if each is not None):
            raise ValueError("`patience` goes by the loss on `data.validation`, and there is none; give some, or leave `patience` out")
        if self.recover is not None and self.recover.quantization_aware and self.quantize.scheme == "fp16":
            raise ValueError("`recover.quantization_aware` rounds to 8 bits, but `quantize.scheme` is fp16; leave one of them out")
        if any(not 0 <= index < len(self.data.train) for stage in self.stages for index in stage):
            raise ValueError(f"`stages` names a source that `data.train` has not: it has {len(self.data.train)}")
        if len({(stage.dropout, stage.attention_dropout) for stage in self.train}) > 1:
            raise ValueError("the stages of `train` differ in `dropout` or `attention_dropout`; a model keeps one rate: give all the same")
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the run prunes to, in whichever way."""
        if self.prune is not None:
            return self.prune.targets
        return self.fine_prune.targets if self.fine_prune is not None else ()

    def sources_of_stage(self, stage: int) -> tuple[DataSource, ...]:
        """Training data of one stage."""
        return tuple(self.data.train[i] for i in self.stages[stage]) if self.stages else self.data.train


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
        raise ConfigError(f"{origin}: {where}: {first['msg']}{more}") from None


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


def chosen(config: BaseModel) -> dict[str, Any]:
    """The settings that differ from their defaults, and names of methods: what results depend on, whichever version has more fields."""
    fields = type(config).model_fields
    values = {name: getattr(config, name) for name in fields}
    return {name: _plain(value) for name, value in values.items() if name == "name" or value != fields[name].get_default()}


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return chosen(value)
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _find_recipe(recipe: str | Path) -> Path:
    path = Path(recipe)
    if path.is_file():
        return path
    shipped = RECIPES / f"{recipe}.yaml"
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
    raise ConfigError(f"no recipe {str(recipe)!r}: give a YAML file, or one of: {names}")


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
