"""The data of a run, and where each of its sources is."""

from typing import Literal

from pydantic import Field, model_validator

from pruning.config.base import Section


class DataSource(Section):
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
    copy_target: Literal["best_sentence", "first_sentence", "denoised"] | None = Field(
        None,
        description="Summarization: read documents alone, SQuAD's contexts too, and take one of their own sentences for their summary: the "
        "one most like the rest by ROUGE-1, or the first; or, `denoised`, take them whole, and delete words and shuffle sentences of what "
        "is read.",
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


class DataConfig(Section):
    """The datasets of a run, each with one use: choosing is done on `validation`, `test` is read once, at the end."""

    train: tuple[DataSource, ...] = Field(description="What the weights are trained on and calibration samples are drawn from.")
    validation: tuple[DataSource, ...] = Field((), description="What choices are made by.")
    test: tuple[DataSource, ...] = Field((), description="What is reported once.")
