"""POST /qa: questions about texts, in the shape of Hugging Face's task."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, RootModel, Tag

from service.errors import RequestError
from service.routes.base import Answered, Endpoint, Item
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
from service.tasks.qa import Answer, QuestionRequest, QuestionResponse

PARAMETERS = {"stride": "#/parameters/doc_stride", "max_length": "#/parameters/max_seq_len", "top_k": "#/parameters/top_k"}

OffsetUnit = Literal["codepoint", "utf16"]


class QuestionInput(Wire):
    """A question, or several, about one text."""

    question: Annotated[
        Annotated[Filled, Tag("(one)")] | Annotated[list[Filled], Field(min_length=1, max_length=MOST_ITEMS), Tag("(many)")],
        Discriminator(many_or_one),
    ] = Field(description="The question; a list asks several about the same context.")
    context: Filled = Field(description="The text that holds the answer; a long one is read in windows.")


class QuestionParameters(Wire):
    """How to answer."""

    top_k: int = Field(default=1, ge=1, description="Most answers to return, best first.")
    doc_stride: int | None = Field(default=None, ge=0, description="Tokens that neighbouring windows share; the model's without it.")
    max_seq_len: int | None = Field(default=None, ge=16, description="Most tokens in a window; the model's without it.")
    max_question_len: int | None = Field(default=None, ge=1, description="Tokens of the question that are read; all without it.")
    max_answer_len: int = Field(default=30, ge=1, le=128, description="Most tokens in an answer.")
    handle_impossible_answer: bool | None = Field(
        default=None, description="Whether no answer (an empty one) is an answer; what the model was trained for without it."
    )
    null_score_diff_threshold: float | None = Field(
        default=None, description="No answer wins when its logit beats the best span's by more than this; the model's without it."
    )
    align_to_words: bool = Field(default=False, description="Whether an answer that begins or ends inside a word takes all of it.")
    offset_unit: OffsetUnit = Field(default="codepoint", description="What `start` and `end` count: Unicode code points or UTF-16 units.")
    details: bool = Field(default=False, description="Whether to say more than the answers.")


class QuestionBody(Body):
    """Body of POST /qa."""

    inputs: Annotated[
        Annotated[QuestionInput, Tag("(one)")] | Annotated[list[QuestionInput], Field(min_length=1, max_length=MOST_ITEMS), Tag("(many)")],
        Discriminator(many_or_one),
    ] = Field(description="A question with its context, or a list of them.")
    parameters: QuestionParameters = Field(default=QuestionParameters(), description="How to answer.")


class QuestionDetails(Wire):
    """With `details`: the answers, and how they came about."""

    answers: list[Answer]
    no_answer_score: float = Field(description="Probability that the context holds no answer.")
    has_answer: bool = Field(description="Whether the best answer is one.")
    windows: int = Field(description="Windows that the context took.")
    usage: Usage
    model: ModelName
    timings_ms: Timings


Entry = list[Answer] | QuestionDetails | Failed


class QuestionAnswer(RootModel[Entry | list[Entry]]):
    """Answers to one question, best first; a list of such for several."""


def items(body: QuestionBody, settings: Settings) -> Iterator[Item]:
    """One request for each question."""
    if body.parameters.top_k > settings.max_top_k:
        raise RequestError(f"top_k is {body.parameters.top_k}, at most {settings.max_top_k} answers are given", field="#/parameters/top_k")
    several = isinstance(body.inputs, list)
    for index, document in enumerate(documents(body.inputs)):
        many = isinstance(document.question, list)
        for number, question in enumerate(documents(document.question)):
            where = _where(index if several else None, number if many else None)
            asked, context = within(question, settings, where["question"]), within(document.context, settings, where["context"])
            yield Item(request(asked, context, body.parameters), where)


def request(question: str, context: str, parameters: QuestionParameters) -> QuestionRequest:
    """The engine's request."""
    return QuestionRequest(
        question=question,
        context=context,
        top_k=parameters.top_k,
        max_answer_tokens=parameters.max_answer_len,
        handle_no_answer=parameters.handle_impossible_answer,
        null_threshold=parameters.null_score_diff_threshold,
        stride=parameters.doc_stride,
        max_length=parameters.max_seq_len,
        max_question_tokens=parameters.max_question_len,
        align_to_words=parameters.align_to_words,
    )


def entry(body: QuestionBody, answered: Answered) -> Entry:
    """The answers to one question."""
    response, asked = answered.job.response, answered.item.request
    assert isinstance(response, QuestionResponse)
    assert isinstance(asked, QuestionRequest)
    answers = response.answers
    if body.parameters.offset_unit == "utf16":
        answers = [_in_utf16(each, asked.context) for each in answers]
    if not body.parameters.details:
        return answers
    manifest = answered.served.manifest
    return QuestionDetails(
        answers=answers,
        no_answer_score=response.no_answer_score,
        has_answer=bool(answers and answers[0].answer),
        windows=response.windows,
        usage=Usage(input_tokens=answered.job.tokens),
        model=ModelName(name=manifest.name, variant=manifest.variant, revision=answered.served.revision),
        timings_ms=timings(answered.job),
    )


def document(body: QuestionBody, entries: list[Entry]) -> Any:  # noqa: ANN401 - becomes JSON
    """One entry for one question, a list for a list, in the order of the questions."""
    alone = not isinstance(body.inputs, list) and not isinstance(body.inputs.question, list)
    return entries[0] if alone else entries


def _where(index: int | None, number: int | None) -> dict[str, str]:
    base = "#/inputs" if index is None else f"#/inputs/{index}"
    question = f"{base}/question" if number is None else f"{base}/question/{number}"
    return {"question": question, "context": f"{base}/context", **PARAMETERS}


def _in_utf16(answer: Answer, context: str) -> Answer:
    start, end = (len(context[:offset].encode("utf-16-le")) // 2 for offset in (answer.start, answer.end))
    return answer.model_copy(update={"start": start, "end": end})


QA = Endpoint(
    path="/qa",
    task="question-answering",
    body=QuestionBody,
    answer=QuestionAnswer,
    items=items,
    document=document,
    entry=entry,
    summary="Answer questions from texts",
    description="The span of the context that answers the question. `context[start:end] == answer`, always; an empty answer at 0 says "
    "that the context holds none. Long contexts are read in windows that overlap, and answers of all windows are compared.",
    examples={
        "one": {
            "summary": "One question",
            "value": {"inputs": {"question": "Who wrote it?", "context": "Ada wrote it in 1843, in a note to a paper by Menabrea."}},
        },
        "several": {
            "summary": "Several questions about one text, two answers each, with details",
            "value": {
                "inputs": {"question": ["Who wrote it?", "When?"], "context": "Ada wrote it in 1843, in a note to a paper by Menabrea."},
                "parameters": {"top_k": 2, "details": True},
            },
        },
    },
)
