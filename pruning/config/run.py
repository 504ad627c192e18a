"""What a run is: the whole of a recipe, and what of it has to fit together."""

from pydantic import Field, model_validator

from pruning.config.artifacts import EvaluateConfig, QuantizeConfig
from pruning.config.base import Section
from pruning.config.data import DataConfig, DataSource
from pruning.config.generation import DecodingConfig, ShrinkConfig, VocabularyConfig, WarmStartConfig
from pruning.config.pruning import FinePruneConfig, PruneConfig
from pruning.config.targets import GenerationTarget, SpeedupTarget, Target
from pruning.config.training import RecoverConfig, TrainConfig
from service.artifact import GENERATING_TASKS, TaskName


class RunConfig(Section):
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
        if self.stages and len(self.stages) != len(self.train):
            raise ValueError(f"`stages` has {len(self.stages)} entries and `train` {len(self.train)}; give one per stage")
        if self.prune is not None and self.fine_prune is not None:
            raise ValueError("`prune` and `fine_prune` are two ways to prune; give one of them")
        if not self.data.validation and any(each.patience is not None for each in self._trainings):
            raise ValueError("`patience` goes by the loss on `data.validation`, and there is none; give some, or leave `patience` out")
        if self.recover is not None and self.recover.quantization_aware and self.quantize.scheme == "fp16":
            raise ValueError("`recover.quantization_aware` rounds to 8 bits, but `quantize.scheme` is fp16; leave one of them out")
        fixes = self.quantize.has_fixed_ranges and self.recover is not None and self.recover.quantization_aware
        if self.recover is not None and self.recover.fixed_ranges and not fixes:
            raise ValueError(
                "`recover.fixed_ranges` rounds as `quantize: {scheme: static}` without `smooth` does, with `recover.quantization_aware`; "
                "give those, or leave it out"
            )
        if any(not 0 <= index < len(self.data.train) for stage in self.stages for index in stage):
            raise ValueError(f"`stages` names a source that `data.train` has not: it has {len(self.data.train)}")
        if len({(stage.dropout, stage.attention_dropout) for stage in self.train}) > 1:
            raise ValueError("the stages of `train` differ in `dropout` or `attention_dropout`; a model keeps one rate: give all the same")
        return self

    @model_validator(mode="after")
    def _generates_if_its_task_does(self) -> "RunConfig":
        generates = self.task in GENERATING_TASKS
        given = [name for name in ("warm_start", "generation", "shrink", "vocabulary") if getattr(self, name) is not None]
        if given and not generates:
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in given)} are for summarization, and the task is {self.task}; leave them out"
            )
        if any(isinstance(target, SpeedupTarget if generates else GenerationTarget) for target in self.targets):
            lengths = "`source_length` and `target_length`" if generates else "`sequence_length`"
            raise ValueError(f"a speed-up of {self.task} depends on {lengths}; give that beside `speedup`")
        distilled = [each for each in self._trainings if each.distillation is not None and each.distillation.pseudo_labels is not None]
        if any(each is not self.recover or not generates for each in distilled):
            raise ValueError(
                "`distillation.pseudo_labels` are summaries that the dense model writes for the pruned one, so they are for `recover` of a "
                "summarization model; leave them out elsewhere"
            )
        if generates and self.quantize.smooth:
            raise ValueError("`quantize.smooth` works on the one graph of an encoder, and a model that generates has two; leave it out")
        asked = [] if self.generation is None else [self.generation.min_new_tokens, self.generation.max_new_tokens]
        if any(tokens is not None and tokens > self.target_length for tokens in asked):
            raise ValueError(f"`generation` asks for more tokens than `target_length`, {self.target_length}; raise that, or ask for fewer")
        return self

    @property
    def _trainings(self) -> tuple[TrainConfig, ...]:
        found = (*self.train, self.recover, None if self.fine_prune is None else self.fine_prune.train)
        return tuple(each for each in found if each is not None)

    @property
    def targets(self) -> tuple[Target, ...]:
        """What the run prunes to, in whichever way."""
        if self.prune is not None:
            return self.prune.targets
        return self.fine_prune.targets if self.fine_prune is not None else ()

    @property
    def keeps_embeddings(self) -> bool:
        """Whether no training changes the embedding tables of `model`."""
        return all(each.freeze_embeddings for each in self._trainings)

    @property
    def outputs(self) -> int | None:
        """Tokens that compact models choose from in the end; None for all."""
        return None if self.vocabulary is None else self.vocabulary.keep

    def sources_of_stage(self, stage: int) -> tuple[DataSource, ...]:
        """Training data of one stage."""
        return tuple(self.data.train[i] for i in self.stages[stage]) if self.stages else self.data.train
