"""The application: routes, the table of errors, what surrounds a request, and the life of what is served. No logic, nothing global."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from service.envelope import Envelope
from service.problems import problem
from service.registry import Registry
from service.routes import ENDPOINTS
from service.routes.base import JSON, Call, Endpoint, handle
from service.routes.control import PROBLEM, admin_routes, metrics_routes, model_routes, open_routes
from service.routes.documentation import SCHEMAS, answer_headers, documented, request_headers
from service.routes.streaming import EVENT, EVENTS
from service.serving import Serving
from service.settings import Settings

STATUSES = (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)


def create_app(settings: Settings, registry: Registry | None = None) -> FastAPI:
    """The application that serves what the settings name.

    Args:
        settings: all there is to set.
        registry: what to serve; loaded from the settings without it, which raises what is wrong with it.
    """
    serving = Serving(settings, registry or Registry.load(settings))
    app = _application(serving, "Secateur", apart=False, lifespan=_lifespan(serving))
    app.state.apart = False
    app.include_router(_task_routes())
    for router in (open_routes, model_routes):
        app.include_router(router)
    if settings.admin_port is None:
        app.include_router(metrics_routes)
        app.include_router(admin_routes)
    app.straight = {endpoint.path: partial(_post, endpoint) for endpoint in ENDPOINTS}
    return app


def create_admin_app(serving: Serving) -> FastAPI:
    """Metrics and the reload alone, for a port of their own."""
    app = _application(serving, "Secateur: operations", apart=True)
    for router in (open_routes, metrics_routes, admin_routes):
        app.include_router(router)
    return app


class _Application(FastAPI):
    """FastAPI, with a shorter way for the POSTs to tasks: what it puts around a route costs each request as much as the rest of HTTP.

    Attributes:
        straight: what answers a POST to these addresses. Middleware stays around it, in the same order as around all else.
    """

    straight: Mapping[str, ASGIApp] = MappingProxyType({})
    _short: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self.straight:
            if self._short is None:
                self._short = self._surrounded()
            scope["app"] = self
            await self._short(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def _surrounded(self) -> ASGIApp:
        async def post(scope: Scope, receive: Receive, send: Send) -> None:
            await self.straight[scope["path"]](scope, receive, send)

        app: ASGIApp = post
        for each, args, options in reversed(self.user_middleware):
            app = each(app, *args, **options)
        return app


def _application(
    serving: Serving,
    title: str,
    *,
    apart: bool,
    lifespan: Any = None,  # noqa: ANN401 - Starlette's own type
) -> _Application:
    app = _Application(
        title=title,
        version=version("secateur"),
        description="Question answering, classification and summarization by pruned transformers, dense and compact side by side.",
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # what is counted is in service/metrics.py
    )
    app.state.serving = serving
    app.state.apart = apart
    app.add_exception_handler(HTTPException, _on_http_error)
    app.openapi = documented(app, serving.settings)  # type: ignore[method-assign]  # FastAPI's own way to extend it
    paths = frozenset(endpoint.path for endpoint in ENDPOINTS) | {"/metrics", "/v2/health/ready", "/v2/health/live"}
    app.add_middleware(Envelope, serving=serving, routes=paths)
    origins = serving.settings.cors_origins
    if origins and not apart:
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"])
    return app


def _lifespan(serving: Serving) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        del app
        await serving.start()
        yield
        await serving.stop()

    return lifespan


async def _on_http_error(request: Request, error: Exception) -> Response:
    return problem(error, instance=request.url.path, request_id=request.state.request_id)


def _task_routes() -> APIRouter:
    router = APIRouter(tags=["tasks"])
    for endpoint in ENDPOINTS:
        _add(router, endpoint)
    return router


async def _post(endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
    response = await handle(endpoint, Call.of(scope, receive))
    await response(scope, receive, send)


def _add(router: APIRouter, endpoint: Endpoint) -> None:
    async def post(request: Request) -> Response:  # for the documentation, and below a prefix
        return await handle(endpoint, Call.of(request.scope, request.receive))

    body = {"schema": {"$ref": SCHEMAS.format(model=endpoint.body.__name__)}, "examples": endpoint.examples}
    answers: dict[int | str, dict[str, Any]] = dict.fromkeys(STATUSES, PROBLEM)
    answers[200] = {
        "model": endpoint.answer,
        "description": "The answers; headers say who answered and where the time went.",
        "headers": answer_headers(streams=endpoint.stream is not None),
    }
    if endpoint.stream is not None:
        answers[200]["content"] = {EVENTS: {"schema": EVENT}}
    router.add_api_route(
        endpoint.path,
        post,
        methods=["POST"],
        summary=endpoint.summary,
        description=endpoint.description,
        operation_id=endpoint.path.strip("/"),
        responses=answers,
        response_class=Response,
        openapi_extra={
            "requestBody": {"required": True, "content": {JSON: body}},
            "parameters": request_headers(),
        },
    )
