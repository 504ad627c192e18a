"""What a task is to the engine: a request becomes rows of tokens, the outputs of the rows become a response.

Both steps are pure functions of their arguments: numpy in, pydantic out. One file of this package per task. What a task that generates
gets of its rows is tokens, and it may ask for another round of them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from service.artifact import Manifest, TaskName
from service.errors import RequestError
from service.generation import Generated, GenerationSettings
from service.runtime.base import Array
from service.tokenization import Row, TextTokenizer

MAX_CHARACTERS = 1_000_000

Outputs = Mapping[str, Array]
Append = Callable[[int], str]
"""Takes the next of a text's tokens, by the tokenizer's id, and gives what it adds to the text that no later one changes."""


class Request(BaseModel):
    """What a client asks. Each task has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    def characters(self) -> int:
        """Of all its texts: what is known of its cost before it is tokenised."""
        return sum(len(value) for value in self.__dict__.values() if isinstance(value, str))


class Response(BaseModel):
    """What a client gets. Each task has its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


RequestT = TypeVar("RequestT", bound=Request)
ResponseT = TypeVar("ResponseT", bound=Response, covariant=True)


class Task(Protocol[RequestT, ResponseT]):
    """One task, without state."""

    @property
    def name(self) -> TaskName:
        """Standard name of the task, as manifests write it."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Outputs that the graph must have."""
        ...

    @property
    def per_token(self) -> bool:
        """Whether outputs are [batch, sequence], so that a padded row's are cut to its length; else they are [batch, classes]."""
        ...

    @property
    def request_type(self) -> type[RequestT]:
        """Schema of a request."""
        ...

    def preprocess(self, request: RequestT, tokenizer: TextTokenizer, manifest: Manifest) -> list[Row]:
        """Rows for the session; `RequestError` when the request cannot be answered."""
        ...

    def postprocess(self, request: RequestT, rows: Sequence[Row], outputs: Sequence[Outputs], manifest: Manifest) -> ResponseT:
        """The response, from the outputs of each row, [1, …] each, in the order of the rows."""
        ...


class Round(NamedTuple):
    """Sources that were decoded together.

    Attributes:
        rows: the sources.
        generated: what came of each.
    """

    rows: list[Row]
    generated: list[Generated]


class Writer(Protocol):
    """Writes the texts that are generated for one request, from the tokenizer's ids."""

    def whole(self, tokens: Sequence[int]) -> str:
        """The text of all its tokens."""
        ...

    def begin(self) -> Append:
        """A text whose tokens come one by one; what is given for them is the beginning of `whole`."""
        ...


class GeneratingTask(Protocol[RequestT, ResponseT]):
    """One task that generates, without state."""

    @property
    def name(self) -> TaskName:
        """Standard name of the task, as manifests write it."""
        ...

    @property
    def request_type(self) -> type[RequestT]:
        """Schema of a request."""
        ...

    def preprocess(self, request: RequestT, tokenizer: TextTokenizer, manifest: Manifest) -> list[Row]:
        """Sources of the first round; `RequestError` when the request cannot be answered."""
        ...

    def settings(self, request: RequestT, manifest: Manifest) -> GenerationSettings:
        """How to decode; `RequestError` when that is impossible."""
        ...

    def writer(self, request: RequestT, tokenizer: TextTokenizer, manifest: Manifest) -> Writer:
        """What writes the texts that are generated for a request."""
        ...

    def postprocess(
        self, request: RequestT, rounds: Sequence[Round], texts: Sequence[str], tokenizer: TextTokenizer, manifest: Manifest
    ) -> ResponseT | list[Row]:
        """The response, or the sources of the next round.

        Args:
            request: what is asked.
            rounds: all that were decoded.
            texts: what the last one generated.
            tokenizer: of the model.
            manifest: of the model.
        """
        ...


def parse_request(request_type: type[RequestT], document: object) -> RequestT:
    """A request from JSON-like data; `RequestError` with one line that names the first wrong field."""
    try:
        return request_type.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "request"
        raise RequestError(f"{where}: {problem['msg']}; fields are {', '.join(request_type.model_fields)}") from error


def require_text(value: str, name: str) -> None:
    """Refuse a text with nothing but white space."""
    if not value.strip():
        raise RequestError(f"{name} is empty; send some text", field=name)
