"""What surrounds every request: an id, the total time, counts, a line in the log, and a problem document for whatever went wrong.

Plain ASGI, as each layer between the socket and the work costs every request. What goes wrong in an answer that has begun is said in it,
and left in the request's state to be counted, by the status that it would have had.
"""

import logging
import random
import re
import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import DeadlineError, GoneError, OverloadedError, RateLimitError, StoppedError
from service.logs import REQUESTS
from service.problems import INTERNAL, kind_of, problem

if TYPE_CHECKING:
    from service.serving import Serving

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
CLIENT_CLOSED = 499
_SHED = {
    OverloadedError: "queue",
    StoppedError: "not_ready",
    DeadlineError: "deadline",
    GoneError: "client_gone",
    RateLimitError: "rate_limit",
}


class Envelope:
    """The middleware."""

    def __init__(self, app: ASGIApp, serving: "Serving", routes: frozenset[str]) -> None:
        """Put it around an application.

        Args:
            app: inside.
            serving: counts and settings.
            routes: addresses that are counted by name; others are "other", so that labels stay bounded.
        """
        self._app, self._serving, self._routes = app, serving, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send, last=self._serving.draining)
        self._serving.inflight += 1
        try:
            await self._app(scope, receive, visit.send)
            told = scope["state"].get("error")
            if told is not None:
                self._count(told)
                visit.status = _status(told)
        except Exception as error:
            await self._fail(visit, error, scope, receive)
        finally:
            self._serving.inflight -= 1
            self._note(visit, scope)

    async def _fail(self, visit: "_Visit", error: Exception, scope: Scope, receive: Receive) -> None:
        self._count(error)
        if visit.status is not None:  # too late to say anything else
            raise error
        if isinstance(error, GoneError):
            visit.status = _status(error)
            return
        response = problem(error, instance=scope["path"], request_id=visit.request_id)
        await response(scope, receive, visit.send)

    def _count(self, error: Exception) -> None:
        for kind, reason in _SHED.items():
            if isinstance(error, kind):
                self._serving.metrics.shed.labels(reason).inc()
        if not isinstance(error, GoneError):
            self._serving.metrics.errors.labels(kind_of(error).name).inc()

    def _note(self, visit: "_Visit", scope: Scope) -> None:
        route = scope["path"] if scope["path"] in self._routes else "other"
        seconds = visit.seconds
        variant = scope["state"].get("variant", "")
        status = visit.status or INTERNAL.status
        self._serving.metrics.answered(route, variant, status, seconds)
        if REQUESTS.isEnabledFor(logging.INFO):
            fields = {
                "request_id": visit.request_id,
                "method": scope["method"],
                "route": route,
                "variant": variant,
                "status": status,
                "total_ms": round(1000 * seconds, 3),
            }
            REQUESTS.info("request", extra={"fields": fields})


def _status(error: Exception) -> int:
    """What a request that failed is counted as."""
    return CLIENT_CLOSED if isinstance(error, GoneError) else kind_of(error).status


class _Visit:
    """One request's way through: its id, its clock, and what was answered."""

    def __init__(self, scope: Scope, send: Send, *, last: bool) -> None:
        self.status: int | None = None
        self._started = time.perf_counter()
        self._send = send
        self._added = [(b"connection", b"close")] if last else []
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = self.request_id

    @property
    def seconds(self) -> float:
        """Since it came in."""
        return time.perf_counter() - self._started

    async def send(self, message: Message) -> None:
        """Pass on what is answered, with the id and the time in its headers; while shutting down, the connection ends with it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            total = f"{1000 * self.seconds:.3f}"
            added = [(b"x-request-id", self.request_id.encode()), (b"x-total-time", total.encode()), *self._added]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)
