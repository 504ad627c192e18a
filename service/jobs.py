"""What is scheduled: requests as jobs, the engines that answer them, and how much of them may wait."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard

from service.generation import EncoderDecoder, Generation, GenerationSettings, Progress
from service.generation import Limits as DecoderLimits
from service.tasks.base import Outputs, Request, Response, Round
from service.tokenization import Row


class Engine(Protocol):
    """What the scheduler asks of a loaded model; `service.model.Model` is one."""

    @property
    def batches(self) -> bool:
        """Whether several rows may share a call without changing each other's outputs."""
        ...

    @property
    def pads(self) -> bool:
        """Whether rows that share a call may be of different lengths."""
        ...

    def rows(self, request: Request) -> list[Row]:
        """The rows of tokens that a request takes."""
        ...

    def run_batch(self, rows: Sequence[Row]) -> Sequence[Outputs]:
        """Outputs of the graph for rows that share one call, [1, …] each."""
        ...

    def respond(self, request: Request, rows: Sequence[Row], outputs: Sequence[Outputs]) -> Response:
        """The response, from the outputs of all rows of the request."""
        ...


class GeneratingEngine(Protocol):
    """The same of a model that generates; `service.model.GeneratingModel` is one."""

    @property
    def generator(self) -> EncoderDecoder:
        """Its graphs."""
        ...

    def rows(self, request: Request) -> list[Row]:
        """The sources that a request takes at first."""
        ...

    def settings(self, request: Request) -> GenerationSettings:
        """How to decode them."""
        ...

    def respond(self, request: Request, rounds: Sequence[Round]) -> Response | list[Row]:
        """The response, from what came of all sources so far, or more sources."""
        ...


AnyEngine = Engine | GeneratingEngine


@dataclass(frozen=True)
class Limits:
    """What may wait at once. Beyond it a request is refused when it arrives, not when it has waited.

    Attributes:
        requests: requests that are waiting or running.
        characters: characters of all those requests.
        rows: rows that are waiting.
        tokens: tokens of those rows.
        batch_tokens: most padded tokens in one call, where rows may share one.
        request_rows, request_tokens: of one request.
        wait_seconds: the longest wait that is foreseen for a new request, from what answers have taken of late.
        runners: how many do the work; for that forecast.
        decoder: how much a model decodes at once.
    """

    requests: int = 512
    characters: int = 8_000_000
    rows: int = 2048
    tokens: int = 400_000
    batch_tokens: int = 256
    request_rows: int = 64
    request_tokens: int = 32_768
    wait_seconds: float = math.inf
    runners: int = 1
    decoder: DecoderLimits = field(default_factory=DecoderLimits)


@dataclass(eq=False)
class Job:
    """One request on its way. What is below `done` is the scheduler's.

    Attributes:
        engine: the model that answers.
        request: what is asked.
        characters: of its texts.
        deadline: on the scheduler's clock; work that is not started by then is dropped.
        done: called once, by a runner or by the caller of `submit` or `cancel`, when `response` or `error` is set.
        progress: called by a decoder with each token of the last round, where that is one sequence; None where nobody listens.
        response: the answer.
        error: why there is none.
        tokens: of all its rows, once it was prepared.
        generated_tokens: of what was generated, as they come; of beams at the end.
        computed_tokens: of the rows that were run, to the end or not, and those that were generated.
        queue_seconds, tokenize_seconds, inference_seconds, postprocess_seconds: time spent; inference of rows that shared a call
            counts for each of them.
    """

    engine: AnyEngine
    request: Request
    characters: int
    deadline: float
    done: Callable[["Job"], None]
    progress: Callable[[Progress], None] | None = None
    response: Response | None = None
    error: BaseException | None = None
    tokens: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0
    queue_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    inference_seconds: float = 0.0
    postprocess_seconds: float = 0.0
    number: int = -1
    expected_seconds: float = 0.0
    own_seconds: float = 0.0
    finished: bool = False
    waiting_since: float = 0.0
    rows: list[Row] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    missing: int = 0
    rounds: list[Round] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """One row of one job."""

    job: Job
    index: int

    @property
    def row(self) -> Row:
        """The row."""
        return self.job.rows[self.index]


Work = Job | list[Place]


def generates(engine: AnyEngine) -> TypeGuard[GeneratingEngine]:
    """Whether this is the engine of a model that generates."""
    return hasattr(engine, "generator")
