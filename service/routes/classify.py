"""POST /classify: labels of texts or of pairs of texts, in the shape of Hugging Face's task."""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Discriminator, Field, RootModel, Tag

from service.routes.base import Answered, Endpoint, Item
from service.routes.wire import MOST_ITEMS, Body, Failed, Filled, ModelName, Timings, Usage, Wire, timings, within
from service.settings import Settings
from service.tasks.classify import ClassifyRequest, ClassifyResponse, Function, LabelScore, LongText


class Pair(Wire):
    """A text, or a pair of texts: a premise and a hypothesis, a question and a sentence."""

    text: Filled = Field(description="The text, or the first of the pair.")
    text_pair: Filled | None = Field(default=None, description="The second text of the pair.")


class ClassifyParameters(Wire):
    """How to classify."""

    top_k: int | None = Field(default=None, ge=1, description="Most labels to return, best first; all without it.")
    function_to_apply: Function | None = Field(
        default=None, description="From logits to scores; without it sigmoid where labels do not exclude each other, else softmax."
    )
    truncation: bool = Field(default=True, description="Whether a text that is too long is cut; otherwise it is refused.")
    long_text: LongText = Field(default="truncate", description="windows: read a long text in windows and take the mean of their logits.")
    details: bool = Field(default=False, description="Whether to say more than the labels.")


def _alternative(value: object) -> str:
    return "(many)" if isinstance(value, list | tuple) else "(text)" if isinstance(value, str) else "(pair)"


Text = Annotated[Annotated[Filled, Tag("(text)")] | Annotated[Pair, Tag("(pair)")], Discriminator(_alternative)]


class ClassifyBody(Body):
    """Body of POST /classify."""

    inputs: Annotated[
        Annotated[Filled, Tag("(text)")]
        | Annotated[Pair, Tag("(pair)")]
        | Annotated[list[Text], Field(min_length=1, max_length=MOST_ITEMS), Tag("(many)")],
        Discriminator(_alternative),
    ] = Field(description="A text, a pair, or a list of them.")
    parameters: ClassifyParameters = Field(default=ClassifyParameters(), description="How to classify.")


class ClassifyDetails(Wire):
    """With `details`: the labels, and how they came about."""

    labels: list[LabelScore]
    usage: Usage
    model: ModelName
    timings_ms: Timings


Entry = list[LabelScore] | ClassifyDetails | Failed


class ClassifyAnswer(RootModel[list[Entry]]):
    """For each text its labels, best first."""


def items(body: ClassifyBody, settings: Settings) -> Iterator[Item]:
    """One request for each text."""
    if not isinstance(body.inputs, list):
        yield _item(body.inputs, body.parameters, "#/inputs", settings)
        return
    for index, text in enumerate(body.inputs):
        yield _item(text, body.parameters, f"#/inputs/{index}", settings)


def entry(body: ClassifyBody, answered: Answered) -> Entry:
    """The labels of one text."""
    response = answered.job.response
    assert isinstance(response, ClassifyResponse)
    if not body.parameters.details:
        return response.labels
    manifest = answered.served.manifest
    return ClassifyDetails(
        labels=response.labels,
        usage=Usage(input_tokens=answered.job.tokens, truncated=response.truncated),
        model=ModelName(name=manifest.name, variant=manifest.variant, revision=answered.served.revision),
        timings_ms=timings(answered.job),
    )


def document(body: ClassifyBody, entries: list[Entry]) -> Any:  # noqa: ANN401 - becomes JSON
    """A list with an entry for each text, in their order; for one text too."""
    del body
    return entries


def _item(given: str | Pair, parameters: ClassifyParameters, where: str, settings: Settings) -> Item:
    pointers = {"text": where, "long_text": "#/parameters/long_text"}
    text, text_pair = given if isinstance(given, str) else given.text, None
    if isinstance(given, Pair):
        pointers |= {"text": f"{where}/text", "text_pair": f"{where}/text_pair"}
        text_pair = None if given.text_pair is None else within(given.text_pair, settings, pointers["text_pair"])
    request = ClassifyRequest(
        text=within(text, settings, pointers["text"]),
        text_pair=text_pair,
        top_k=parameters.top_k,
        function=parameters.function_to_apply,
        truncation=parameters.truncation,
        long_text=parameters.long_text,
    )
    return Item(request, pointers)


CLASSIFY = Endpoint(
    path="/classify",
    task="text-classification",
    body=ClassifyBody,
    answer=ClassifyAnswer,
    items=items,
    document=document,
    entry=entry,
    summary="Label texts",
    description="Labels with scores, best first, a list of them for each text. Scores sum to one where labels exclude each other.",
    examples={
        "one": {"summary": "One text", "value": {"inputs": "It cuts cleanly and has never once jammed."}},
        "several": {
            "summary": "Several texts, the best label of each",
            "value": {"inputs": ["A quiet triumph.", "The blade is blunt."], "parameters": {"top_k": 1}},
        },
        "pair": {"summary": "A pair of texts", "value": {"inputs": {"text": "It rains.", "text_pair": "The street is wet."}}},
    },
)
