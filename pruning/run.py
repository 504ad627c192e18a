"""What the stages of one run share: its config, its folder, its task, tokenizer and data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from pruning import checkpoint
from pruning.config import DataSource, RunConfig, TrainConfig, chosen
from pruning.data import check_sources, load_examples
from pruning.data_sources import find_file, source_name
from pruning.examples import Example, SummaryExample
from pruning.overlap import unseen_summaries, without_documents
from pruning.stages import Stages
from pruning.tasks import task_named
from pruning.tasks.base import Feature, Task
from service.artifact import GENERATING_TASKS

VALIDATION_SHARE = 4


@dataclass(frozen=True)
class Run:
    """A run's config with the folder that its stages live in.

    Attributes:
        config: the recipe.
        stages: what is done already.
        callbacks: that watch each training.
    """

    config: RunConfig
    stages: Stages
    callbacks: tuple[TrainerCallback, ...] = ()

    @cached_property
    def task(self) -> Task:
        """The task of the run."""
        return task_named(self.config.task)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model that the run starts from."""
        return checkpoint.load_tokenizer(self.config.model)

    @property
    def last_training(self) -> tuple[DataSource, ...]:
        """Data of the last training stage, or all training data if nothing is trained: what calibration and recovery see."""
        return self.config.sources_of_stage(len(self.config.train) - 1) if self.config.train else self.config.data.train

    @property
    def rows_seen(self) -> list[str]:
        """Names of the sources of each training stage, stage after stage."""
        return [source_name(source) for number in range(len(self.config.train)) for source in self.config.sources_of_stage(number)]

    def events(self, stage: str) -> Path | None:
        """Where a training writes what TensorBoard shows; None where the recipe asks for nothing."""
        return self.stages.folder / "tensorboard" / stage if self.config.tensorboard else None

    def examples(self, sources: Sequence[DataSource]) -> list[Example]:
        """Examples of these sources."""
        return load_examples(sources, self.config.task, labels=self.config.labels, seed=self.config.seed)

    def check_data(self) -> None:
        """Read all training and validation data once: `DataError` now, and not after hours."""
        data = self.config.data
        check_sources((*data.train, *data.validation), self.config.task, labels=self.config.labels)

    def training_examples(self, sources: Sequence[DataSource]) -> list[Example]:
        """Examples of these sources, but for documents that validation or test data have too."""
        return without_documents(self.examples(sources), self._held_out)

    @cached_property
    def _held_out(self) -> list[Example]:
        data = self.config.data
        return self.examples((*data.validation, *data.test)) if self.config.task == "summarization" else []

    def unseen(self, examples: Sequence[Example]) -> list[SummaryExample] | None:
        """Of documents to evaluate on, those with a summary that no training document has, and only such summaries.

        None where that leaves nothing out, and for other tasks.
        """
        found = unseen_summaries(examples, self._training_summaries)
        before = sum(len(each.summaries) for each in examples if isinstance(each, SummaryExample))
        return None if sum(len(each.summaries) for each in found) == before else found

    @cached_property
    def _training_summaries(self) -> list[Example]:
        """Examples of the training data that has summaries of its own."""
        sources = [source for source in self.config.data.train if source.copy_target is None]
        return self.examples(sources) if self.config.task == "summarization" else []

    def features(self, examples: Sequence[Example]) -> list[Feature]:
        """Their tokenised rows."""
        config = self.config
        return self.task.features(
            examples, self.tokenizer, max_length=config.max_length, stride=config.stride, target_length=config.target_length
        )

    def validation_rows(self) -> list[Feature]:
        """Rows whose loss is logged while training: every fourth of the validation set, so that it costs little."""
        sources = self.config.data.validation
        return self.features(self.examples(sources))[::VALIDATION_SHARE] if sources else []

    def load(self, stage: str, **options: Any) -> PreTrainedModel:  # noqa: ANN401 - passed on to checkpoint.load
        """The model that a stage left, or that an artifact holds."""
        return checkpoint.load(self.stages.path(stage), auto_class=self.task.auto_class, **options)


def data_identity(sources: Sequence[DataSource]) -> list[object]:
    """What stages depend on of their data: the settings, and of local files what tells that they changed."""
    return [(chosen(source), _file_identity(find_file(source.path)) if source.path else None) for source in sources]


def model_identity(model: str) -> object:
    """What stages depend on of the model that a run starts from."""
    folder = Path(model)
    return [model, [_file_identity(path) for path in sorted(folder.glob("*.safetensors"))]] if folder.is_dir() else model


def training_identity(config: RunConfig, settings: TrainConfig) -> dict[str, Any]:
    """What a training depends on beside its settings and its rows: a teacher from elsewhere, and the rows that patience goes by."""
    teacher = "dense" if settings.distillation is None else settings.distillation.teacher
    found: dict[str, Any] = {} if teacher == "dense" else {"teacher": model_identity(teacher)}
    return found if settings.patience is None else found | {"validation": data_identity(config.data.validation)}


def generation_identity(config: RunConfig) -> dict[str, Any]:
    """What stages of a task that generates depend on beside; nothing for others."""
    if config.task not in GENERATING_TASKS:
        return {}
    held_out = data_identity(sorted((*config.data.validation, *config.data.test), key=lambda source: source_name(source).casefold()))
    return {
        "target_length": config.target_length,
        "warm_start": chosen(config.warm_start) if config.warm_start else None,
        "generation": chosen(config.generation) if config.generation else None,
        "held_out": held_out,
    }


def pruning_identity(config: RunConfig) -> dict[str, Any]:
    """What stages that prune depend on beside, where layers go whole or fewer tokens will be left to choose from."""
    layers = {} if config.shrink is None else {"shrink": chosen(config.shrink)}
    return layers if config.outputs is None else layers | {"outputs": config.outputs}


def _file_identity(path: Path | None) -> object:
    """By content: a copy of the same data does not make anything again."""
    return None if path is None else (path.name, _digest(path, path.stat().st_size, path.stat().st_mtime_ns))


@lru_cache
def _digest(path: Path, _size: int, _mtime_ns: int) -> str:
    """SHA-256 of a file; read again only when its size or time changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
