"""POST /summarize: summaries of documents, in the shape of Hugging Face's task; as server-sent events where they are asked for."""

import random
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Annotated, Any, Literal, Optional

from pydantic import Discriminator, Field, RootModel, Tag, create_model

from service.errors import RequestError
from service.generation import GenerationSettings
from service.generation.searches import FinishReason
from service.generation.settings import in_new_tokens
from service.routes.base import Answered, Endpoint, Exchange, Item
from service.routes.streaming import EVENTS, Stream, streamed
from service.routes.wire import (
    MOST_ITEMS,
    Body,
    Failed,
    Filled,
    ModelName,
    Timings,
    Usage,
    Wire,
    documents,
    many_or_one,
    timings,
    within,
)
from service.settings import Settings
from service.tasks.summarize import LongText, SummarizeRequest, SummarizeResponse

SEEDS = 2**32

Truncation = Literal["only_first", "longest_first", "do_not_truncate"]


def _optional(name: str) -> Any:  # noqa: ANN401 - a field's type and default, as create_model takes them
    """A field of GenerationSettings that need not be given."""
    field = copy(GenerationSettings.model_fields[name])
    field.default = None
    return (Optional[field.annotation], field)  # noqa: UP045 - the type is not known before


GenerateParameters = create_model(
    "GenerateParameters",
    __base__=Wire,
    __doc__="How tokens are chosen, in the words of transformers' `generate`; the model's own way where nothing is said.",
    max_length=(
        Optional[int],  # noqa: UP045 - as all the others
        Field(None, ge=2, description="Most tokens, the decoder's start token counted too; gives way to max_new_tokens."),
    ),
    **{name: _optional(name) for name in GenerationSettings.model_fields},
)
GENERATION = "#/parameters/generate_parameters"
POINTERS = {
    "long_text": "#/parameters/long_text",
    "generate_parameters": GENERATION,
    **{name: f"{GENERATION}/{name}" for name in GenerateParameters.model_fields},
}


class SummarizeParameters(Wire):
    """How to summarize."""

    truncation: Truncation = Field(default="only_first", description="do_not_truncate: a document that is too long is refused, not cut.")
    clean_up_tokenization_spaces: bool = Field(
        default=True, description="Whether words and signs are joined as in the document, where tokens do not say how."
    )
    long_text: LongText = Field(
        default="truncate",
        description="map_reduce: summarize a document that is too long in parts, which end where sentences do, and then their summaries.",
    )
    details: bool = Field(default=False, description="Whether to say more than the summary.")
    generate_parameters: GenerateParameters = Field(default=GenerateParameters(), description="How tokens are chosen.")


class SummarizeBody(Body):
    """Body of POST /summarize."""

    inputs: Annotated[
        Annotated[Filled, Tag("(one)")] | Annotated[list[Filled], Field(min_length=1, max_length=MOST_ITEMS), Tag("(many)")],
        Discriminator(many_or_one),
    ] = Field(description="A document, or a list of them.")
    parameters: SummarizeParameters = Field(default=SummarizeParameters(), description="How to summarize.")
    stream: bool = Field(
        default=False,
        description="Whether the answer comes as server-sent events, of one document; so does `Accept: text/event-stream`. It is decoded "
        "by one beam where `num_beams` is not given.",
    )


class SummaryDetails(Wire):
    """How a summary came about."""

    finish_reason: FinishReason = Field(description="eos: the model ended it; length: it had as many tokens as it may.")
    generated_tokens: int = Field(description="Tokens of the summary, and of the summaries of parts.")
    chunks: int = Field(description="Parts that the document was read in.")
    seed: int | None = Field(description="What draws the same tokens again; none where none were drawn.")
    usage: Usage
    model: ModelName
    timings_ms: Timings


class Summary(Wire):
    """A summary."""

    summary_text: str


class SummaryWithDetails(Summary):
    """With `details`: the summary, and how it came about."""

    details: SummaryDetails


Entry = SummaryWithDetails | Summary | Failed


class SummarizeAnswer(RootModel[list[Entry]]):
    """For each document its summary."""


def items(body: SummarizeBody, settings: Settings) -> Iterator[Item]:
    """One request for each document."""
    given = body.parameters.generate_parameters.model_dump(exclude_none=True)
    _require_allowed(given, settings)
    if given.get("do_sample"):
        given.setdefault("seed", random.randrange(SEEDS))
    for index, text in enumerate(documents(body.inputs)):
        where = f"#/inputs/{index}" if isinstance(body.inputs, list) else "#/inputs"
        request = SummarizeRequest(
            text=within(text, settings, where),
            truncation=body.parameters.truncation != "do_not_truncate",
            long_text=body.parameters.long_text,
            clean_up_spaces=body.parameters.clean_up_tokenization_spaces,
            settings=given,
        )
        yield Item(request, {"text": where, **POINTERS})


def entry(body: SummarizeBody, answered: Answered) -> Entry:
    """The summary of one document."""
    text, details = finish(answered)
    return SummaryWithDetails(summary_text=text, details=details) if body.parameters.details else Summary(summary_text=text)


def finish(answered: Answered) -> tuple[str, SummaryDetails]:
    """A summary, and how it came about."""
    response, asked = answered.job.response, answered.item.request
    assert isinstance(response, SummarizeResponse)
    assert isinstance(asked, SummarizeRequest)
    manifest = answered.served.manifest
    details = SummaryDetails(
        finish_reason=response.finish_reason,
        generated_tokens=response.generated_tokens,
        chunks=response.windows,
        seed=asked.settings.get("seed") if asked.settings.get("do_sample") else None,
        usage=Usage(input_tokens=answered.job.tokens, truncated=response.truncated),
        model=ModelName(name=manifest.name, variant=manifest.variant, revision=answered.served.revision),
        timings_ms=timings(answered.job),
    )
    return response.summary, details


def document(body: SummarizeBody, entries: list[Entry]) -> Any:  # noqa: ANN401 - becomes JSON
    """A list with an entry for each document, in their order; for one document too."""
    del body
    return entries


async def stream(body: SummarizeBody, requests: Sequence[Item], exchange: Exchange) -> Stream | None:
    """The answer as events, where the body or the header Accept asks for them; by one beam, where the request says nothing of beams."""
    if not (body.stream or _names_events(exchange.call.headers.get("accept", ""))):
        return None
    if isinstance(body.inputs, list):
        raise RequestError("a stream is the summary of one document; send inputs as a text, or without stream", field="#/inputs")
    return await streamed(_by_one_beam(requests[0]), exchange, finish)


def _names_events(accept: str) -> bool:
    """Whether the header Accept names server-sent events, alone or among others."""
    return any(media_type.partition(";")[0].strip().lower() == EVENTS for media_type in accept.split(","))


def _by_one_beam(item: Item) -> Item:
    """The request greedily or drawn, where it does not name beams: what beams find can be told only when it is whole."""
    asked = item.request
    assert isinstance(asked, SummarizeRequest)
    return replace(item, request=asked.model_copy(update={"settings": {"num_beams": 1, **asked.settings}}))


def _require_allowed(given: Mapping[str, Any], settings: Settings) -> None:
    """Refuse more beams or tokens than this server gives."""
    if given.get("num_beams", 0) > settings.max_beams:
        raise RequestError(
            f"num_beams is {given['num_beams']}, at most {settings.max_beams} are given; lower it", field=POINTERS["num_beams"]
        )
    tokens = in_new_tokens(given).get("max_new_tokens", 0)
    if tokens > settings.max_new_tokens:
        name = "max_new_tokens" if "max_new_tokens" in given else "max_length"
        raise RequestError(
            f"{tokens} new tokens are asked for, at most {settings.max_new_tokens} are given; lower {name}", field=POINTERS[name]
        )


SUMMARIZE = Endpoint(
    path="/summarize",
    task="summarization",
    body=SummarizeBody,
    answer=SummarizeAnswer,
    items=items,
    document=document,
    entry=entry,
    stream=stream,
    summary="Summarize texts",
    description="A summary for each document. One that is longer than the model reads is cut, or read in parts (`long_text`). With "
    "`stream` the answer is server-sent events: `data:` with a token each, of which the last carries `summary_text` and `details`; "
    "`event: error` with a problem document where something goes wrong on the way; `: ping` where nothing comes for a while. It is "
    "decoded by one beam where `num_beams` is not given; what several found is sent whole, at the end.",
    examples={
        "one": {
            "summary": "One document",
            "value": {"inputs": "Ada wrote it in 1843, in a note to a paper by Menabrea. It was the first program."},
        },
        "details": {
            "summary": "By beams, with details",
            "value": {
                "inputs": ["Ada wrote it in 1843, in a note to a paper by Menabrea. It was the first program."],
                "parameters": {"details": True, "generate_parameters": {"num_beams": 4, "max_new_tokens": 20}},
            },
        },
        "stream": {
            "summary": "As server-sent events",
            "value": {"inputs": "Ada wrote it in 1843, in a note to a paper by Menabrea. It was the first program.", "stream": True},
        },
    },
)
