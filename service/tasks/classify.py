"""Text classification: labels of a text, or of a pair of texts, with a score each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from service.artifact import Manifest, TaskName
from service.errors import ArtifactError, RequestError
from service.tasks.base import MAX_CHARACTERS, Outputs, Request, Response, require_text
from service.tokenization import Row, TextTokenizer

MAX_WINDOWS = 512

Function = Literal["softmax", "sigmoid", "none"]
LongText = Literal["truncate", "windows"]


class ClassifyRequest(Request):
    """A text, or a pair of texts, to label."""

    text: str = Field(max_length=MAX_CHARACTERS, description="The text, or the first of the pair.")
    text_pair: str | None = Field(default=None, max_length=MAX_CHARACTERS, description="The second text of the pair.")
    top_k: int | None = Field(default=None, ge=1, description="Most labels to return, best first; all without it.")
    function: Function | None = Field(
        default=None,
        description="From logits to scores; without it sigmoid for a model of several labels at once or of one label, else softmax.",
    )
    truncation: bool = Field(default=True, description="Whether a text that is too long is cut; otherwise it is refused.")
    long_text: LongText = Field(
        default="truncate", description="windows: read a text that is too long in windows, and take the mean of their logits."
    )


class LabelScore(Response):
    """One label."""

    label: str = Field(description="Name of the label.")
    score: float = Field(description="Probability; the logit where the function is `none`.")


class ClassifyResponse(Response):
    """Labels, best first."""

    labels: list[LabelScore] = Field(description="At most `top_k`.")
    truncated: bool = Field(default=False, description="Whether the text was cut to fit the model.")


@dataclass(frozen=True)
class Classification:
    """See the module's docstring."""

    name: TaskName = "text-classification"
    outputs: tuple[str, ...] = ("logits",)
    per_token: bool = False
    request_type: type[ClassifyRequest] = ClassifyRequest

    def preprocess(self, request: ClassifyRequest, tokenizer: TextTokenizer, manifest: Manifest) -> list[Row]:
        """One row; several for a long text that is to be read in windows."""
        require_text(request.text, "text")
        if request.text_pair is not None:
            require_text(request.text_pair, "text_pair")
        if request.long_text == "windows":
            return _windows(request, tokenizer, manifest)
        row = tokenizer.row(request.text, request.text_pair, max_length=manifest.max_length, places=False)
        if row.truncated and not request.truncation:
            raise RequestError(f"the text takes more than {manifest.max_length} tokens; shorten it or allow truncation", field="text")
        return [row]

    def postprocess(
        self, request: ClassifyRequest, rows: Sequence[Row], outputs: Sequence[Outputs], manifest: Manifest
    ) -> ClassifyResponse:
        """Labels from `logits`, [1, labels] of each row; of several rows their mean."""
        logits = _mean_logits(outputs)
        if len(logits) != len(manifest.labels) or not all(map(math.isfinite, logits)):
            raise ArtifactError(
                f"the model gave {len(logits)} logits, finite: {all(map(math.isfinite, logits))}; "
                f"expected {len(manifest.labels)} finite ones: fetch or export the artifact again"
            )
        values = scores(logits, request.function or default_function(manifest))
        best = sorted(range(len(values)), key=lambda index: -values[index])[: request.top_k]
        labels = [LabelScore(label=manifest.labels[index], score=values[index]) for index in best]
        return ClassifyResponse(labels=labels, truncated=rows[0].truncated)


def _windows(request: ClassifyRequest, tokenizer: TextTokenizer, manifest: Manifest) -> list[Row]:
    if request.text_pair is not None:
        raise RequestError("a pair of texts is not read in windows; send one text, or let it be truncated", field="long_text")
    return tokenizer.windows(
        None, request.text, max_length=manifest.max_length, stride=None, default_stride=manifest.stride, most=MAX_WINDOWS
    )


def default_function(manifest: Manifest) -> Function:
    """Sigmoid where labels do not exclude each other or there is only one; else softmax."""
    return "sigmoid" if manifest.multi_label or len(manifest.labels) == 1 else "softmax"


def scores(logits: Sequence[float], function: Function) -> list[float]:
    """[labels] -> [labels]; no logit is too large. Labels are few, and for few numbers plain Python is quicker than numpy."""
    if function == "none":
        return list(logits)
    if function == "sigmoid":
        return [_logistic(logit) for logit in logits]
    largest = max(logits)
    exponentials = [math.exp(logit - largest) for logit in logits]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def _logistic(logit: float) -> float:
    if logit >= 0.0:
        return 1.0 / (1.0 + math.exp(-logit))
    exponential = math.exp(logit)
    return exponential / (1.0 + exponential)


def _mean_logits(outputs: Sequence[Outputs]) -> list[float]:
    """`logits`, [1, labels] of each row -> [labels]."""
    if len(outputs) == 1:
        first: list[float] = outputs[0]["logits"][0].tolist()
        return first
    mean: list[float] = np.mean([np.asarray(output["logits"], dtype=np.float64)[0] for output in outputs], axis=0).tolist()
    return mean
