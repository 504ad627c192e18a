"""Summarization: a shorter text that says what a document does (Lewis et al., 2020, arXiv:1910.13461, is the model that it is done with).

A document that is longer than the model reads is cut, or summarized in parts: it is divided where sentences end, each part is summarized,
and so are the summaries together, until they fit. Each turn of that is a *round*; the summary is what the last round gave.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from service.artifact import GenerationInfo, Manifest, TaskName
from service.errors import ArtifactError, RequestError
from service.generation import GenerationSettings
from service.generation.searches import FinishReason
from service.generation.settings import in_new_tokens
from service.generation.text import Wording
from service.tasks.base import MAX_CHARACTERS, Request, Response, Round, Writer, require_text
from service.tasks.writing import DocumentWriter, PlainWriter
from service.tokenization import IntArray, Row, TextTokenizer

MAX_WINDOWS = 512

LongText = Literal["truncate", "map_reduce"]

_SENTENCE = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*\\s+|[\u3002\uff01\uff1f]\\s*|\n\\s*")
_MINIMA = ("min_new_tokens", "min_length")


class SummarizeRequest(Request):
    """A document to summarize."""

    text: str = Field(max_length=MAX_CHARACTERS, description="The document.")
    truncation: bool = Field(default=True, description="Whether a document that is too long may be cut; otherwise it is refused.")
    long_text: LongText = Field(
        default="truncate", description="map_reduce: summarize a document that is too long in parts, and then their summaries."
    )
    clean_up_spaces: bool = Field(default=True, description="Whether words and signs are joined as in the document.")
    settings: Mapping[str, Any] = Field(default={}, description="Fields of GenerationSettings; the model's where they are not given.")


class SummarizeResponse(Response):
    """A summary, and how it came about."""

    summary: str = Field(description="The summary.")
    finish_reason: FinishReason = Field(description="eos: the model ended it; length: it had as many tokens as it may.")
    generated_tokens: int = Field(ge=0, description="Tokens of the summary and of those of parts.")
    truncated: bool = Field(default=False, description="Whether the document, or the summaries of its parts, were cut to fit the model.")
    windows: int = Field(ge=1, description="Parts that the document was read in.")


@dataclass(frozen=True)
class Summarization:
    """See the module's docstring."""

    name: TaskName = "summarization"
    request_type: type[SummarizeRequest] = SummarizeRequest

    def preprocess(self, request: SummarizeRequest, tokenizer: TextTokenizer, manifest: Manifest) -> list[Row]:
        """Sources of the first round: one, or the parts of a document that is too long."""
        require_text(request.text, "text")
        length = generation_of(manifest).source_length
        if request.long_text == "map_reduce":
            rows = parts(request.text, tokenizer, length)
        else:
            rows = [tokenizer.row(request.text, max_length=length, places=False)]
        if all(tokenizer.is_special(token) for row in rows for token in row.input_ids.tolist()):
            raise RequestError("text holds no token that the model knows of; send some text", field="text")
        if rows[0].truncated and not request.truncation:
            raise RequestError(
                f"the text takes more than {length} tokens; shorten it, allow truncation, or choose long_text map_reduce", field="text"
            )
        return rows

    def settings(self, request: SummarizeRequest, manifest: Manifest) -> GenerationSettings:
        """How to decode; `RequestError` where fields contradict each other, or the model cannot."""
        info = generation_of(manifest)
        return merged_settings(request.settings, info.settings, most=info.target_length)

    def writer(self, request: SummarizeRequest, tokenizer: TextTokenizer, manifest: Manifest) -> Writer:
        """Writes words as the document has them, where the tokens do not say how they are written."""
        if not (tokenizer.spaced and request.clean_up_spaces):
            return PlainWriter(tokenizer)
        return DocumentWriter(tokenizer, Wording.of(request.text), generation_of(manifest).restore_case)

    def postprocess(
        self, request: SummarizeRequest, rounds: Sequence[Round], texts: Sequence[str], tokenizer: TextTokenizer, manifest: Manifest
    ) -> SummarizeResponse | list[Row]:
        """The response, or the sources of the next round; `texts` are what the last round generated."""
        last = rounds[-1]
        if len(last.rows) > 1 and any(texts):
            rows = _next_sources(" ".join(filter(None, texts)), len(last.rows), tokenizer, generation_of(manifest).source_length)
            if rows[0].truncated and not request.truncation:
                raise RequestError(
                    "the summaries of its parts do not get fewer, and would have to be cut; shorten the text, lower max_new_tokens, or "
                    "allow truncation",
                    field="text",
                )
            return rows
        return SummarizeResponse(
            summary=texts[0],
            finish_reason=last.generated[0].finish_reason,
            generated_tokens=sum(len(generated.tokens) for each in rounds for generated in each.generated),
            truncated=any(row.truncated for each in rounds for row in each.rows),
            windows=len(rounds[0].rows),
        )


def generation_of(manifest: Manifest) -> GenerationInfo:
    """How a model generates; `ArtifactError` when it does not."""
    if manifest.generation is None:
        raise ArtifactError(f"{manifest.name}/{manifest.variant} has no decoder; export it again")
    return manifest.generation


def merged_settings(given: Mapping[str, Any], defaults: Mapping[str, Any], *, most: int) -> GenerationSettings:
    """Settings from those that are given and a model's own, which give way where they do not go together with what is given.

    Args:
        given: by a request.
        defaults: the model's own.
        most: tokens that it can write.

    Raises:
        RequestError: what is given contradicts itself; the message is one line.
    """
    limit = "max_length" if given.get("max_new_tokens") is None and "max_length" in given else "max_new_tokens"
    given, defaults = in_new_tokens(given), in_new_tokens(defaults)
    own = _validated(defaults)
    settings = {"max_new_tokens": min(own.max_new_tokens, most), **defaults, **given}
    if given.get("do_sample") and "num_beams" not in given:
        settings["num_beams"] = 1
    elif "num_beams" in given and "do_sample" not in given:
        settings["do_sample"] = own.do_sample and given["num_beams"] == 1
    minima = {name: given[name] for name in _MINIMA if name in given}
    if "max_new_tokens" in given and not minima:
        minima = {"min_new_tokens": min(own.fewest_new_tokens, given["max_new_tokens"])}
    if minima:
        settings = {name: value for name, value in settings.items() if name not in _MINIMA} | minima
    merged = _validated(settings)
    if merged.max_new_tokens > most:
        raise RequestError(
            f"{merged.max_new_tokens} new tokens are asked for, but this model writes at most {most}: lower {limit}", field=limit
        )
    return merged


def _validated(settings: Mapping[str, Any]) -> GenerationSettings:
    try:
        return GenerationSettings.model_validate(settings)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = str(problem["loc"][0]) if problem["loc"] else "generate_parameters"
        raise RequestError(problem["msg"].removeprefix("Value error, "), field=field) from error


def parts(text: str, tokenizer: TextTokenizer, length: int) -> list[Row]:
    """A text in as few rows of at most that many tokens as it takes, about as long as each other, cut where sentences end."""
    sentences = np.array([match.end() for match in _SENTENCE.finditer(text)], dtype=np.int64)
    return tokenizer.parts(
        text,
        max_length=length,
        most=MAX_WINDOWS,
        cuts=lambda offsets, room: cuts(np.searchsorted(offsets[:, 0], sentences), len(offsets), room),
    )


def _next_sources(text: str, before: int, tokenizer: TextTokenizer, length: int) -> list[Row]:
    """Parts of the summaries; cut to one where there are no fewer of them than before, as that would never end."""
    rows = parts(text, tokenizer, length)
    return rows if len(rows) < before else [tokenizer.row(text, max_length=length, places=False)]


def cuts(breaks: IntArray, tokens: int, room: int) -> list[int]:
    """The first token of each part, [parts]: parts of at most `room` tokens, about as long as each other.

    A part begins where a sentence does, if one begins no further from where equal parts would than half of such a part.

    Args:
        breaks: where sentences begin, ascending, [sentences].
        tokens: how many there are.
        room: most tokens in a part.
    """
    starts = [0]
    while tokens - starts[-1] > room:
        left = tokens - starts[-1]
        share = -(-left // -(-left // room))
        ideal = starts[-1] + share
        near = breaks[(np.abs(breaks - ideal) <= share // 2) & (breaks <= starts[-1] + room) & (breaks < tokens)]
        starts.append(int(near[np.abs(near - ideal).argmin()]) if len(near) else ideal)
    return starts
