"""What the bodies of all tasks have in common, and how bodies are read: strictly, with a pointer to each field that is wrong."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_snake

from service.errors import MalformedError, RequestError, TooLargeError
from service.jobs import Job
from service.problems import FieldProblem, FieldsError
from service.settings import Settings

NAME = Field(default=None, min_length=1, max_length=100)
MOST_ITEMS = 1024
Filled = Annotated[str, Field(json_schema_extra={"pattern": r"\S"})]  # said in the documentation, and refused by the tasks
SHOWN_PROBLEMS = 20
MOST_PROBLEMS = 2_000
FRAGMENT = "!$&'()*+,;=:@?"

BodyT = TypeVar("BodyT", bound="Body")


class Wire(BaseModel):
    """Part of a body. Unknown members are refused: a misspelt parameter must not be passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Body(Wire):
    """What every task's body may say beside `inputs` and `parameters`."""

    model: str | None = Field(default=None, min_length=1, max_length=100, description="Name of the model; the task's first without it.")
    variant: str | None = Field(
        default=None, min_length=1, max_length=100, description="dense, compact, compact-int8, …; goes before the header X-Variant."
    )
    partial: bool = Field(default=False, description="In a batch: whether good inputs are answered when others are refused.")


class Usage(Wire):
    """What a text took."""

    input_tokens: int = Field(description="Tokens of all windows, special tokens included.")
    truncated: bool = Field(default=False, description="Whether the text was cut to fit the model.")


class ModelName(Wire):
    """Which model answered."""

    name: str
    variant: str
    revision: str = Field(description="Hash of the artifact's manifest and files.")


class Timings(Wire):
    """Where the time went, in milliseconds."""

    queue: float
    tokenize: float
    infer: float
    post: float


class Failed(Wire):
    """In a partial answer: why this input has none."""

    error: str
    error_type: str


def read_body(kind: type[BodyT], raw: bytes) -> BodyT:
    """A body from JSON: `MalformedError` when it is not, `FieldsError` with pointers when its members are wrong."""
    try:
        return kind.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> RequestError:
    if error.error_count() > MOST_PROBLEMS:  # to list them all would keep everyone waiting
        return RequestError(f"{error.error_count()} members of the body are wrong; see /openapi.json for those that there are")
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    for each in problems:
        if each["type"] == "json_invalid":
            return MalformedError(f"the body is not JSON: {each['msg']}")
        if each["type"] == "too_long":
            return TooLargeError(each["msg"], field=pointer(each["loc"]))
    return FieldsError([_problem(each["type"], each["loc"], each["msg"]) for each in problems[:SHOWN_PROBLEMS]])


def _problem(kind: str, location: tuple[int | str, ...], message: str) -> FieldProblem:
    if kind != "extra_forbidden":
        return FieldProblem(pointer=pointer(location), detail=message)
    member = str(location[-1])  # the client's own word, which may look like the name of an alternative
    return FieldProblem(pointer=pointer(location[:-1], member), detail=message)


def pointer(location: tuple[int | str, ...], *members: str) -> str:
    """JSON pointer, as a fragment; the names of alternatives in a union, `(one)`, are not part of it.

    Args:
        location: as Pydantic gives it.
        members: below that place, whatever they are called.
    """
    parts = [str(part) for part in location if not str(part).startswith("(")]
    return "/".join(["#", *(quote(part.replace("~", "~0").replace("/", "~1"), safe=FRAGMENT) for part in (*parts, *members))])


def within(text: str, settings: Settings, where: str) -> str:
    """The text; `TooLargeError` when it is longer than one may be."""
    if len(text) > settings.max_characters:
        raise TooLargeError(f"the text has {len(text)} characters, at most {settings.max_characters} are taken", field=where)
    return text


def pointed(error: RequestError, where: Mapping[str, str]) -> RequestError:
    """The error with a pointer into the body instead of the name of the request's field."""
    if error.field is not None and not error.field.startswith("#"):
        error.field = where.get(error.field, f"#/parameters/{to_snake(error.field)}")
    return error


def timings(job: Job) -> Timings:
    """Where a job's time went."""
    seconds = (job.queue_seconds, job.tokenize_seconds, job.inference_seconds, job.postprocess_seconds)
    queue, tokenize, infer, post = (round(1000 * each, 3) for each in seconds)
    return Timings(queue=queue, tokenize=tokenize, infer=infer, post=post)


def documents(value: Any) -> Iterator[Any]:  # noqa: ANN401 - one item or a list of them
    """Items of a list, or the one item that there is."""
    yield from value if isinstance(value, list) else (value,)


def many_or_one(value: object) -> str:
    """Which alternative of `inputs` this is, so that an error points into the right one only."""
    return "(many)" if isinstance(value, list | tuple) else "(one)"
