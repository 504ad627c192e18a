"""Extractive question answering: the span of the context that answers the question, or none (Rajpurkar et al., 2018, arXiv:1806.03822).

A span's logit is its start logit plus its end logit. Spans of all windows are merged before any is chosen: a span that two windows
see keeps the higher logit. The score is the probability of the span among all spans of the context of at most
`max_answer_tokens` tokens, and "no answer" where that is a choice. The logit of "no answer" is the lowest over the windows (one
window that sees the answer is enough) of the span of the first token, minus the manifest's threshold.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pydantic import Field

from service.artifact import Manifest, TaskName
from service.errors import ArtifactError, RequestError
from service.tasks.base import MAX_CHARACTERS, Outputs, Request, Response, require_text
from service.tokenization import IntArray, Row, TextTokenizer

MAX_WINDOWS = 512
OUTPUTS = ("start_logits", "end_logits")

FloatArray = NDArray[np.float64]
Number = TypeVar("Number", np.float64, np.int64)


class QuestionRequest(Request):
    """A question about a context."""

    question: str = Field(max_length=MAX_CHARACTERS, description="The question.")
    context: str = Field(max_length=MAX_CHARACTERS, description="The text that holds the answer.")
    top_k: int = Field(default=1, ge=1, le=1000, description="Most answers to return, best first.")
    max_answer_tokens: int = Field(default=30, ge=1, le=128, description="Most tokens in an answer.")
    handle_no_answer: bool | None = Field(
        default=None, description="Whether `no answer` may be returned; without it, what the model was trained for."
    )
    null_threshold: float | None = Field(
        default=None, description="`no answer` wins when its logit beats the best span's by more than this; without it, the manifest's."
    )
    stride: int | None = Field(default=None, ge=0, description="Tokens that neighbouring windows share; without it, the manifest's.")
    max_length: int | None = Field(
        default=None, ge=16, description="Most tokens in a window, question and special tokens included; without it, the model's."
    )
    max_question_tokens: int | None = Field(
        default=None, ge=1, description="Tokens of the question that are read; a longer one is cut. Without it, all of them."
    )
    align_to_words: bool = Field(default=False, description="Whether an answer that begins or ends inside a word takes all of it.")


class Answer(Response):
    """One answer. `context[start:end] == answer`, always; an empty answer at 0 means that there is none."""

    answer: str = Field(description="The answer, as it stands in the context.")
    score: float = Field(ge=0, le=1, description="Probability.")
    start: int = Field(ge=0, description="First code point of the answer in the context.")
    end: int = Field(ge=0, description="Code point after the answer's last.")


class QuestionResponse(Response):
    """Answers, best first."""

    answers: list[Answer] = Field(description="At most `top_k`, with different places in the context.")
    no_answer_score: float = Field(ge=0, le=1, description="Probability that the context holds no answer, after the threshold.")
    null_margin: float = Field(description="Logit of `no answer` minus the best span's, before the threshold.")
    windows: int = Field(ge=1, description="Windows that the context took.")


@dataclass(frozen=True)
class QuestionAnswering:
    """See the module's docstring."""

    name: TaskName = "question-answering"
    outputs: tuple[str, ...] = OUTPUTS
    per_token: bool = True
    request_type: type[QuestionRequest] = QuestionRequest

    def preprocess(self, request: QuestionRequest, tokenizer: TextTokenizer, manifest: Manifest) -> list[Row]:
        """Windows over the context, the question in front of each."""
        require_text(request.question, "question")
        require_text(request.context, "context")
        rows = tokenizer.windows(
            request.question,
            request.context,
            max_length=_window(request, manifest),
            stride=request.stride,
            default_stride=manifest.stride,
            most=MAX_WINDOWS,
            max_question=request.max_question_tokens,
        )
        if not rows[0].context_mask.any():
            raise RequestError("context holds no token that the model knows of; send some text", field="context")
        return rows

    def postprocess(
        self, request: QuestionRequest, rows: Sequence[Row], outputs: Sequence[Outputs], manifest: Manifest
    ) -> QuestionResponse:
        """Answers from `start_logits` and `end_logits`, [1, sequence] for each row."""
        offsets = context_offsets(rows)
        spans = mask_empty(merged_spans(rows, outputs, request.max_answer_tokens), offsets)
        best, null = float(spans.max()), null_logit(outputs)
        if not np.isfinite([best, null]).all():
            raise ArtifactError("the model's logits are not finite; fetch or export the artifact again")
        allow_null = manifest.handles_no_answer if request.handle_no_answer is None else request.handle_no_answer
        threshold = manifest.null_threshold if request.null_threshold is None else request.null_threshold
        total, null_after = log_sum_exp(spans), null - threshold
        with_null = float(np.logaddexp(total, null_after))
        normaliser = with_null if allow_null else total
        candidates: Iterator[tuple[float, int, int]] = best_spans(spans, offsets, request.top_k)
        if request.align_to_words:
            candidates = whole_words(candidates, request.context)
        if allow_null:
            candidates = heapq.merge(candidates, [(null_after, 0, 0)], key=lambda candidate: -candidate[0])
        chosen = [candidate for candidate, _ in zip(candidates, range(request.top_k), strict=False)]
        return QuestionResponse(
            answers=[_answer(request.context, start, end, logit - normaliser) for logit, start, end in chosen],
            no_answer_score=_probability(null_after - with_null),
            null_margin=null - best,
            windows=len(rows),
        )


def context_offsets(rows: Sequence[Row]) -> IntArray:
    """[tokens, 2]: offsets of all tokens of the context, put together from its windows."""
    tokens = max(row.first + int(row.context_mask.sum()) for row in rows)
    offsets = np.zeros((tokens, 2), dtype=np.int64)
    for row in rows:
        inside = row.offsets[row.context_mask]
        offsets[row.first : row.first + len(inside)] = inside
    return offsets


def merged_spans(rows: Sequence[Row], outputs: Sequence[Outputs], width: int) -> FloatArray:
    """[tokens, width]: logit of the span that starts at a token of the context and has 1 … `width` tokens.

    The highest over the windows that hold the whole span; minus infinity where none does.
    """
    tokens = max(row.first + int(row.context_mask.sum()) for row in rows)
    merged = np.full((tokens, width), -np.inf)
    for row, output in zip(rows, outputs, strict=True):
        start, end = (np.asarray(output[name], dtype=np.float64)[0][row.context_mask] for name in OUTPUTS)
        place = merged[row.first : row.first + len(start)]
        np.maximum(place, start[:, None] + _ahead(end, width, fill=-np.inf), out=place)
    return merged


def mask_empty(spans: FloatArray, offsets: IntArray) -> FloatArray:
    """The same logits, minus infinity for spans without a character."""
    ends = _ahead(offsets[:, 1], spans.shape[1], fill=0)
    return np.where(ends > offsets[:, :1], spans, -np.inf)


def null_logit(outputs: Sequence[Outputs]) -> float:
    """Logit of "no answer": the lowest over the windows of the span of the first token."""
    return min(float(sum(float(output[name][0, 0]) for name in OUTPUTS)) for output in outputs)


def best_spans(spans: FloatArray, offsets: IntArray, count: int) -> Iterator[tuple[float, int, int]]:
    """(logit, start, end) of the `count` best spans with different characters, best first, then earliest, then shortest.

    Several tokens may stand for the same characters (the bytes of one emoji), so more may have to be looked at than are wanted.
    """
    flat, found, wanted = spans.ravel(), dict[tuple[int, int], float](), count
    while True:
        for index in _highest(flat, wanted):
            first, length = divmod(int(index), spans.shape[1])
            place = (int(offsets[first, 0]), int(offsets[first + length, 1]))
            found.setdefault(place, float(flat[index]))
        if len(found) >= count or wanted >= flat.size:
            return iter([(logit, *place) for place, logit in found.items()][:count])
        wanted *= 4


def whole_words(candidates: Iterable[tuple[float, int, int]], context: str) -> Iterator[tuple[float, int, int]]:
    """The candidates, widened to the letters and digits that they cut through; of those that become the same, the best."""
    seen = set[tuple[int, int]]()
    for logit, first, last in candidates:
        start, end = first, last
        while start > 0 and context[start - 1].isalnum() and context[start].isalnum():
            start -= 1
        while end < len(context) and context[end - 1].isalnum() and context[end].isalnum():
            end += 1
        if (start, end) not in seen:
            seen.add((start, end))
            yield logit, start, end


def log_sum_exp(values: FloatArray) -> float:
    """Logarithm of the sum of exponentials, without overflow."""
    highest = float(values.max())
    return highest + float(np.log(np.exp(values - highest).sum()))


def _window(request: QuestionRequest, manifest: Manifest) -> int:
    """Most tokens in a row of this request."""
    if request.max_length is not None and request.max_length > manifest.max_length:
        raise RequestError(f"max_length is {request.max_length}; the model takes at most {manifest.max_length}", field="max_length")
    return request.max_length or manifest.max_length


def _highest(flat: FloatArray, count: int) -> NDArray[np.intp]:
    """Indices of the `count` highest finite values and of all that tie with them, highest first, then by index."""
    threshold = np.partition(flat, -count)[-count] if count < flat.size else -np.inf
    indices = np.flatnonzero((flat >= threshold) & (flat > -np.inf))
    return indices[np.argsort(-flat[indices], kind="stable")]


def _ahead(values: NDArray[Number], width: int, *, fill: float) -> NDArray[Number]:
    """[n, width]: at i, the values i, i+1, …, i+width-1, with `fill` past the end."""
    padded = np.concatenate([values, np.full(width - 1, fill, dtype=values.dtype)])
    return sliding_window_view(padded, width)


def _answer(context: str, start: int, end: int, log_probability: float) -> Answer:
    return Answer(answer=context[start:end], score=_probability(log_probability), start=start, end=end)


def _probability(log_probability: float) -> float:
    return min(1.0, float(np.exp(log_probability)))
