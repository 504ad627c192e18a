"""One POST per task: read the body, choose the variant, wait for the answers, say in headers who answered and where the time went."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response as HttpResponse

from service.answering import JobError, answer
from service.artifact import TaskName
from service.errors import FormatError, GoneError, MalformedError, RequestError, TooLargeError
from service.problems import detail_of, kind_of
from service.registry import Served
from service.routes.wire import Body, Failed, pointed, read_body
from service.scheduler import Job
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


async def handle(endpoint: Endpoint, request: HttpRequest) -> HttpResponse:
    """Answer a POST."""
    serving: Serving = request.app.state.serving
    key = serving.gate.enter(request.headers)
    require_json(request)
    body = read_body(endpoint.body, await raw_body(request, serving.settings.max_body_bytes))
    seconds = timeout(request, serving.settings)
    served = serving.registry.choose(
        endpoint.task,
        model=body.model,
        variant=body.variant or request.headers.get("x-variant") or None,
        sticky=request.state.request_id,
    )
    request.state.variant = served.manifest.variant
    items = list(islice(endpoint.items(body, serving.settings), serving.settings.max_items + 1))
    _check_size(items, serving.settings)
    jobs = await _answers(serving, served, items, request, seconds, partial=body.partial)
    tokens = sum(job.tokens for job in jobs)
    serving.gate.spend(key, tokens)
    serving.count(served, jobs)
    answered = [Answered(item, job, served) for item, job in zip(items, jobs, strict=True)]
    entries = [_entry(endpoint, body, each, request.state.request_id) for each in answered]
    document = endpoint.document(body, entries)
    return HttpResponse(to_json(document, inf_nan_mode="constants"), headers=_headers(served, jobs, tokens), media_type=JSON)


def require_json(request: HttpRequest) -> None:
    """Refuse a body in another format, or packed: `FormatError`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise FormatError(f"the body is {kind or 'of no declared type'}; send JSON, with `Content-Type: {JSON}`")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise FormatError("packed bodies are not read; send it without Content-Encoding")


async def raw_body(request: HttpRequest, most: int) -> bytes:
    """The body, read no further than `most` bytes: `TooLargeError`."""
    refusal = TooLargeError(f"the body is longer than the {most} bytes that are taken; send less at once")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > most):
        raise refusal
    parts, size = [], 0
    try:
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise refusal
            parts.append(part)
    except ClientDisconnect:
        raise GoneError("the client left before its request was complete") from None
    return b"".join(parts)


def timeout(request: HttpRequest, settings: Settings) -> float:
    """Seconds that a request has, from X-Request-Timeout-Ms."""
    given = request.headers.get("x-request-timeout-ms")
    if given is None:
        return settings.timeout_ms / 1000
    try:
        milliseconds = float(given)
    except ValueError:
        milliseconds = math.nan
    if not 0 < milliseconds < math.inf:
        raise MalformedError(f"X-Request-Timeout-Ms is {given[:50]!r}; expected milliseconds, more than 0")
    return min(milliseconds, settings.max_timeout_ms) / 1000


async def _answers(
    serving: Serving, served: Served, items: Sequence[Item], request: HttpRequest, seconds: float, *, partial: bool
) -> list[Job]:
    requests = [item.request for item in items]
    try:
        return await answer(serving.scheduler, served.model, requests, seconds=seconds, gone=lambda: _gone(request), partial=partial)
    except JobError as failed:
        if isinstance(failed.error, RequestError):
            raise pointed(failed.error, items[failed.index].where) from failed.error
        raise failed.error from None


async def _gone(request: HttpRequest) -> None:
    """Comes to an end when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _entry(endpoint: Endpoint, body: Body, answered: Answered, request_id: str) -> Any:  # noqa: ANN401 - the task's own
    error = answered.job.error
    if error is None:
        return endpoint.entry(body, answered)
    if isinstance(error, GoneError) or not isinstance(error, Exception):
        raise error
    return Failed(error=detail_of(error, request_id), error_type=kind_of(error).name)


def _check_size(items: Sequence[Item], settings: Settings) -> None:
    if not items:
        raise RequestError("inputs is empty; send at least one", field="#/inputs")
    if len(items) > settings.max_items:
        raise TooLargeError(
            f"the request holds more inputs than the {settings.max_items} that are taken; send less at once", field="#/inputs"
        )
    for item in items:
        for name, pointer in item.where.items():
            value = getattr(item.request, name)
            if isinstance(value, str) and len(value) > settings.max_characters:
                raise TooLargeError(f"{name} has {len(value)} characters, at most {settings.max_characters} are taken", field=pointer)


def _headers(served: Served, jobs: Sequence[Job], tokens: int) -> dict[str, str]:
    """Who answered, and where the time of the slowest text went, in milliseconds."""
    queue, tokenize, infer = (
        max(getattr(job, name) for job in jobs) for name in ("queue_seconds", "tokenize_seconds", "inference_seconds")
    )
    return {
        "x-model-name": served.manifest.name,
        "x-model-variant": served.manifest.variant,
        "x-model-revision": served.revision,
        "x-runtime": served.model.session.runtime,
        "x-compute-tokens": str(tokens),
        "x-queue-time": f"{1000 * queue:.3f}",
        "x-tokenization-time": f"{1000 * tokenize:.3f}",
        "x-inference-time": f"{1000 * infer:.3f}",
    }
