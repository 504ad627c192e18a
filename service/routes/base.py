"""One POST per task: read the body, choose the variant, wait for the answers, say in headers who answered and where the time went."""

import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response as HttpResponse
from starlette.types import Receive, Scope

from service.answering import JobError, answer
from service.artifact import TaskName
from service.errors import FormatError, GoneError, MalformedError, RequestError, TooLargeError
from service.generation import Progress
from service.jobs import Job
from service.keys import Key
from service.problems import detail_of, kind_of
from service.registry import Served
from service.routes.wire import Body, Failed, pointed, read_body
from service.serving import Serving
from service.settings import Settings
from service.tasks.base import Request

JSON = "application/json"


@dataclass(frozen=True)
class Item:
    """One request of a body.

    Attributes:
        request: for the engine.
        where: pointer into the body for each field of the request that has one.
    """

    request: Request
    where: dict[str, str]


@dataclass(frozen=True)
class Answered:
    """One item with its finished job, and who answered."""

    item: Item
    job: Job
    served: Served


@dataclass(frozen=True)
class Endpoint:
    """What is a task's own in its POST.

    Attributes:
        path: its address.
        task: what it asks of a model.
        body: schema of the body.
        answer: schema of the answer.
        items: the requests of a body, made one by one; `RequestError` when the settings do not allow what it asks.
        document: the answer to a body.
        entry: the answer to one request of it.
        stream: the answer as events, where a body asks for them; None where it does not.
        summary, description, examples: for the documentation.
    """

    path: str
    task: TaskName
    body: type[Body]
    answer: type[BaseModel]
    items: Callable[[Any, Settings], Iterator[Item]]
    document: Callable[[Any, list[Any]], Any]
    entry: Callable[[Any, Answered], Any]
    summary: str
    description: str
    examples: dict[str, dict[str, Any]]
    stream: "Callable[[Any, Sequence[Item], Exchange], Awaitable[HttpResponse | None]] | None" = None


@dataclass(frozen=True)
class Call:
    """A POST on its way, read no more often than it must be.

    Attributes:
        serving: the application's state.
        path: its address.
        headers: by lower-case name.
        receive: ASGI's.
        state: of the request, for the envelope.
    """

    serving: Serving
    path: str
    headers: dict[str, str]
    receive: Receive
    state: dict[str, Any]

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> "Call":
        """From ASGI's scope."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        return cls(scope["app"].state.serving, scope["path"], headers, receive, scope["state"])


@dataclass(frozen=True)
class Exchange:
    """A POST that was read, and who answers it.

    Attributes:
        call: the POST.
        key: of the client, if it needs one.
        served: the variant that answers.
        seconds: until the answer is worth nothing.
    """

    call: Call
    key: Key | None
    served: Served
    seconds: float


class Answer(HttpResponse):
    """JSON with headers that are bytes already: making them anew costs as much as the rest of the response."""

    def __init__(self, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.status_code, self.body, self.background = 200, body, None
        self.raw_headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode()), *headers]


async def handle(endpoint: Endpoint, call: Call) -> HttpResponse:
    """Answer a POST."""
    serving, headers = call.serving, call.headers
    settings = serving.settings
    key = serving.gate.enter(headers)
    require_json(headers)
    seconds = timeout(headers, settings)
    engines = serving.registry.engines(endpoint.task)
    serving.scheduler.check(seconds, engines)  # what cannot be let in is refused before its body costs anything
    body = read_body(endpoint.body, await raw_body(call, settings.max_body_bytes))
    request_id = call.state["request_id"]
    served = serving.registry.choose(
        endpoint.task, model=body.model, variant=body.variant or headers.get("x-variant") or None, sticky=request_id
    )
    call.state["variant"] = served.manifest.variant
    items = list(islice(endpoint.items(body, settings), settings.max_items + 1))
    _check_count(items, settings)
    exchange = Exchange(call, key, served, seconds)
    if endpoint.stream is not None and (stream := await endpoint.stream(body, items, exchange)) is not None:
        return stream
    jobs = await answers(items, exchange, partial=body.partial)
    tokens = account(exchange, jobs)
    entries = [_entry(endpoint, body, Answered(item, job, served), request_id) for item, job in zip(items, jobs, strict=True)]
    return Answer(to_json(endpoint.document(body, entries), inf_nan_mode="constants"), _headers(served, jobs, tokens))


def account(exchange: Exchange, jobs: Sequence[Job]) -> int:
    """Count finished jobs; the tokens that they took are given back."""
    exchange.call.serving.count(exchange.served, jobs)
    return sum(job.tokens + job.generated_tokens for job in jobs)


def require_json(headers: Mapping[str, str]) -> None:
    """Refuse a body in another format, or packed: `FormatError`."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise FormatError(f"the body is {kind or 'of no declared type'}; send JSON, with `Content-Type: {JSON}`")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise FormatError("packed bodies are not read; send it without Content-Encoding")


async def raw_body(call: Call, most: int) -> bytes:
    """The body, read no further than `most` bytes: `TooLargeError`."""
    declared = call.headers.get("content-length", "0")
    long = declared.isdecimal() and (len(declared) > 18 or int(declared) > most)
    parts, size, more = list[bytes](), 0, not long
    while more:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise GoneError("the client left before its request was complete")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        long = size > most
        more = message.get("more_body", False) and not long
    if long:
        raise TooLargeError(f"the body is longer than the {most} bytes that are taken; send less at once")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def timeout(headers: Mapping[str, str], settings: Settings) -> float:
    """Seconds that a request has, from X-Request-Timeout-Ms."""
    given = headers.get("x-request-timeout-ms")
    if given is None:
        return settings.timeout_ms / 1000
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise MalformedError(f"X-Request-Timeout-Ms is {given[:50]!r}; expected milliseconds, more than 0")
    return min(milliseconds, settings.max_timeout_ms) / 1000


async def answers(
    items: Sequence[Item], exchange: Exchange, *, partial: bool = False, progress: Callable[[Progress], None] | None = None
) -> list[Job]:
    """The finished jobs of these requests; errors point into the body. See `service.answering.answer`.

    The key is charged for what was computed, whatever came of it.
    """
    call, requests = exchange.call, [item.request for item in items]
    try:
        return await answer(
            call.serving.scheduler,
            exchange.served.model,
            requests,
            seconds=exchange.seconds,
            gone=lambda: _gone(call),
            partial=partial,
            progress=progress,
            settled=lambda jobs: call.serving.gate.spend(exchange.key, sum(job.computed_tokens for job in jobs)),
        )
    except JobError as failed:
        if isinstance(failed.error, RequestError):
            raise pointed(failed.error, items[failed.index].where) from failed.error
        raise failed.error from None


async def _gone(call: Call) -> None:
    """Comes to an end when the client hangs up."""
    while (await call.receive())["type"] != "http.disconnect":
        pass


def _entry(endpoint: Endpoint, body: Body, answered: Answered, request_id: str) -> Any:  # noqa: ANN401 - the task's own
    error = answered.job.error
    if error is None:
        return endpoint.entry(body, answered)
    if isinstance(error, GoneError) or not isinstance(error, Exception):
        raise error
    return Failed(error=detail_of(error, request_id), error_type=kind_of(error).name)


def _check_count(items: Sequence[Item], settings: Settings) -> None:
    if not items:
        raise RequestError("inputs is empty; send at least one", field="#/inputs")
    if len(items) > settings.max_items:
        raise TooLargeError(
            f"the request holds more inputs than the {settings.max_items} that are taken; send less at once", field="#/inputs"
        )


def _headers(served: Served, jobs: Sequence[Job], tokens: int) -> list[tuple[bytes, bytes]]:
    """Who answered, and where the time of the slowest text went, in milliseconds."""
    queue, tokenize, infer = (
        max(getattr(job, name) for job in jobs) for name in ("queue_seconds", "tokenize_seconds", "inference_seconds")
    )
    return [
        *served.headers,
        (b"x-compute-tokens", b"%d" % tokens),
        (b"x-queue-time", b"%.3f" % (1000 * queue)),
        (b"x-tokenization-time", b"%.3f" % (1000 * tokenize)),
        (b"x-inference-time", b"%.3f" % (1000 * infer)),
        (b"x-truncated", b"true" if any(getattr(job.response, "truncated", False) for job in jobs) else b"false"),
    ]
