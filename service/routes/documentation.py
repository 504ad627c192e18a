"""The OpenAPI document: what FastAPI finds out by itself, and the bodies, headers and limits that the routes see to themselves."""

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.problems import MEDIA_TYPE, Problem
from service.routes import ENDPOINTS
from service.routes.base import JSON
from service.routes.wire import MOST_ITEMS
from service.settings import Settings

SCHEMAS = "#/components/schemas/{model}"
MILLISECONDS = {"type": "string", "pattern": r"^\d+\.\d+$"}
TEXT = {"type": "string"}
OPEN = "health"

REQUEST_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "X-Variant": (TEXT, "Which variant answers, where the body does not say."),
    "X-Request-Id": (TEXT, "Comes back with the answer; requests with the same one meet the same variant, where weights decide."),
    "X-Request-Timeout-Ms": (
        {"type": "number", "exclusiveMinimum": 0},
        "Time that the answer is worth waiting for; work that is not started by then never is.",
    ),
}
ANSWER_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "x-model-name": (TEXT, "Which model answered."),
    "x-model-variant": (TEXT, "Which variant of it."),
    "x-model-revision": (TEXT, "Hash of its manifest and files."),
    "x-runtime": (TEXT, "Where it ran."),
    "x-compute-tokens": ({"type": "integer", "minimum": 0}, "Tokens of all texts, special tokens included."),
    "x-queue-time": (MILLISECONDS, "Milliseconds that the slowest text waited."),
    "x-tokenization-time": (MILLISECONDS, "From text to tokens."),
    "x-inference-time": (MILLISECONDS, "In the runtime."),
    "x-truncated": ({"type": "string", "enum": ["true", "false"]}, "Whether a text was cut to fit the model."),
    "x-total-time": (MILLISECONDS, "From the first byte to the answer."),
    "x-request-id": (TEXT, "The request's own, or one made here."),
}
KNOWN_AT_THE_END = {"x-compute-tokens", "x-queue-time", "x-tokenization-time", "x-inference-time", "x-truncated"}


def request_headers() -> list[dict[str, Any]]:
    """Headers that a task reads, as OpenAPI's parameters."""
    return [
        {"name": name, "in": "header", "required": False, "schema": schema, "description": description}
        for name, (schema, description) in REQUEST_HEADERS.items()
    ]


def answer_headers(*, streams: bool) -> dict[str, Any]:
    """Headers of a task's answer; where it may be a stream, those that are known at its end need not be there."""
    return {
        name: {"schema": schema, "description": text, "required": not (streams and name in KNOWN_AT_THE_END)}
        for name, (schema, text) in ANSWER_HEADERS.items()
    }


def documented(app: FastAPI, settings: Settings) -> Callable[[], dict[str, Any]]:
    """What an application gives for its OpenAPI document; made once, when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, settings)
        return app.openapi_schema

    return openapi


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    kinds = [(endpoint.body, "validation") for endpoint in ENDPOINTS] + [(Problem, "validation")]
    _, schemas = models_json_schema(kinds, ref_template=SCHEMAS)  # type: ignore[arg-type]
    components = document.setdefault("components", {}).setdefault("schemas", {})
    for name, schema in schemas["$defs"].items():
        components.setdefault(name, schema)
    _set_limits(components, settings)
    _problems_as_problems(document)
    if settings.api_keys is not None:
        _ask_for_keys(document)
    return document


def _set_limits(components: dict[str, Any], settings: Settings) -> None:
    """Say what this server takes, where the schema knows only what any server may."""
    for schema in _schemas(components):
        if schema.get("maxItems") == MOST_ITEMS:
            schema["maxItems"] = settings.max_items
        if schema.get("type") == "string" and "pattern" in schema:
            schema["maxLength"] = settings.max_characters
    components["QuestionParameters"]["properties"]["top_k"]["maximum"] = settings.max_top_k
    generation = components["GenerateParameters"]["properties"]
    generation["num_beams"]["anyOf"][0]["maximum"] = settings.max_beams
    generation["max_new_tokens"]["anyOf"][0]["maximum"] = settings.max_new_tokens
    generation["max_length"]["anyOf"][0]["maximum"] = settings.max_new_tokens + 1


def _ask_for_keys(document: dict[str, Any]) -> None:
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path in document["paths"].values():
        for operation in path.values():
            if OPEN not in operation.get("tags", []):
                operation["security"] = [{"key": []}]


def _schemas(value: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - JSON
    """Every object in a document."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _schemas(part)


def _problems_as_problems(document: dict[str, Any]) -> None:
    """Problem documents have a media type of their own, which FastAPI does not give them."""
    for path in document["paths"].values():
        for operation in path.values():
            answers = operation.get("responses", {})
            for answer in answers.values():
                content = answer.get("content", {})
                if MEDIA_TYPE in content and JSON in content:
                    content[MEDIA_TYPE] = content.pop(JSON)
            if "requestBody" not in operation:  # FastAPI's own, for parameters that are all text
                answers.pop("422", None)
