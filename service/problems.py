"""From errors to HTTP, in one table: RFC 9457 problem documents, with the members that clients of Hugging Face's servers read."""

import logging
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.errors import (
    DeadlineError,
    FormatError,
    MalformedError,
    NotFoundError,
    OverloadedError,
    RateLimitError,
    ReloadError,
    RequestError,
    SecateurError,
    StoppedError,
    StuckError,
    TooLargeError,
    UnauthorizedError,
)

MEDIA_TYPE = "application/problem+json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """One kind of problem."""

    status: int
    name: str
    title: str


KINDS: dict[type[SecateurError], Kind] = {
    MalformedError: Kind(400, "malformed", "The request cannot be read"),
    UnauthorizedError: Kind(401, "unauthorized", "An API key is needed"),
    NotFoundError: Kind(404, "not-found", "No such model or variant"),
    ReloadError: Kind(409, "not-reloaded", "What was served still is"),
    TooLargeError: Kind(413, "too-large", "The request is too large"),
    FormatError: Kind(415, "unsupported-format", "The format is not read here"),
    RequestError: Kind(422, "unprocessable", "The request cannot be answered"),
    RateLimitError: Kind(429, "rate-limited", "The key has used up its tokens"),
    OverloadedError: Kind(503, "overloaded", "The server is overloaded"),
    StoppedError: Kind(503, "stopping", "The server is shutting down"),
    StuckError: Kind(503, "runner-lost", "The work was lost"),
    DeadlineError: Kind(504, "deadline", "The time allowed is over"),
}
INTERNAL = Kind(500, "internal", "Something went wrong in the server")
_HTTP = {
    401: KINDS[UnauthorizedError],
    404: Kind(404, "not-found", "There is nothing at this address"),
    405: Kind(405, "method-not-allowed", "This address does not take this method"),
    413: KINDS[TooLargeError],
    415: KINDS[FormatError],
}


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(description="JSON pointer to the field, as a fragment.", examples=["#/inputs/context"])
    detail: str = Field(description="What is wrong with it.")


class Problem(BaseModel):
    """An error, after RFC 9457. `error` and `error_type` are what clients of Hugging Face's servers read."""

    type: str = Field(examples=["urn:secateur:problem:unprocessable"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request.")
    error: str = Field(description="Title and detail.")
    error_type: str
    request_id: str
    retry_after_s: float | None = Field(default=None, description="When to try again, in seconds.")
    errors: list[FieldProblem] = Field(default=[], description="The fields that are wrong.")


class FieldsError(RequestError):
    """Several fields are wrong; each with its pointer."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__("; ".join(f"{problem.pointer}: {problem.detail}" for problem in problems[:3]))
        self.problems = problems


def kind_of(error: BaseException) -> Kind:
    """The row of the table; what is not in it is the server's own fault."""
    if isinstance(error, HTTPException):
        return _HTTP.get(error.status_code, Kind(error.status_code, "http", error.detail))
    return next((KINDS[each] for each in type(error).__mro__ if each in KINDS), INTERNAL)


def problem(error: BaseException, *, instance: str, request_id: str) -> Response:
    """The response to an error; of one that is the server's own fault nothing but the request id leaves the house."""
    kind = kind_of(error)
    detail = detail_of(error, request_id)
    retry = getattr(error, "retry_after", 1.0) if kind.status in (429, 503) else None
    document = Problem(
        type=f"urn:secateur:problem:{kind.name}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=instance,
        error=f"{kind.title}: {detail}",
        error_type=kind.name,
        request_id=request_id,
        retry_after_s=retry,
        errors=fields_of(error),
    )
    headers = dict(getattr(error, "headers", None) or {})
    if retry is not None:
        headers["Retry-After"] = str(max(1, round(retry)))
    if kind.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(to_json(_without_empty(document)), kind.status, headers, MEDIA_TYPE)


def fields_of(error: BaseException) -> list[FieldProblem]:
    """The fields that an error names."""
    if isinstance(error, FieldsError):
        return error.problems
    if isinstance(error, RequestError) and error.field is not None:
        return [FieldProblem(pointer=error.field, detail=str(error))]
    return []


def detail_of(error: BaseException, request_id: str) -> str:
    """What a client is told of an error; of one that is the server's own fault the log is told."""
    if isinstance(error, HTTPException):
        return str(error.detail)
    if kind_of(error) is INTERNAL:
        _log.error("request %s failed", request_id, exc_info=error)
        return f"the server's log says more, under {request_id}"
    return " ".join(str(error).split())


def _without_empty(document: Problem) -> dict[str, Any]:
    return {name: value for name, value in document.model_dump().items() if value not in (None, [])}
