"""What surrounds the tasks: health, what is served (after the Open Inference Protocol, version 2), metrics, and the reload."""

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from service.artifact import Latency, Manifest, Metric
from service.errors import NotFoundError
from service.model import GeneratingModel, Model
from service.problems import MEDIA_TYPE, Problem
from service.registry import LeftOut, Served
from service.runtime.machine import core_count, cpu_name, instruction_sets
from service.serving import Serving

PROBLEM: dict[str, Any] = {"model": Problem, "content": {MEDIA_TYPE: {}}}
REFUSALS: dict[int | str, dict[str, Any]] = {401: PROBLEM, 404: PROBLEM}


class ServerInfo(BaseModel):
    """What answers here."""

    name: str
    version: str
    extensions: list[str]


class Health(BaseModel):
    """Whether requests should be sent here."""

    ready: bool
    reason: str | None = Field(default=None, description="Why not.")


class Tensor(BaseModel):
    """An input or output of a graph."""

    name: str
    datatype: str
    shape: list[int] = Field(description="-1 where it varies.")


class ModelInfo(BaseModel):
    """A variant of a model, with what was measured of it."""

    name: str
    versions: list[str] = Field(description="Its variants.")
    platform: str = Field(description="The runtime.")
    inputs: list[Tensor]
    outputs: list[Tensor]
    parameters: dict[str, Any] = Field(description="Task, variant, revision, accuracy, latency, density, hashes, machine.")


class ModelList(BaseModel):
    """All that is served, and what was left out."""

    models: list[ModelInfo]
    left_out: list[dict[str, str]] = Field(description="Variants that do not give their golden outputs on this machine, and why.")


class VariantInfo(BaseModel):
    """One line about a variant."""

    model: str
    variant: str
    task: str
    default: bool = Field(description="Whether it answers when a request does not say, where no weights decide.")
    weight: float | None = Field(default=None, description="Its share of those requests.")
    precision: str
    density: float
    size_bytes: int
    metrics: list[Metric]
    latency: list[Latency]


class Reloaded(BaseModel):
    """What is served after a reload."""

    variants: list[str]
    left_out: list[str]


open_routes = APIRouter(tags=["health"])  # the tag says that no key is needed
model_routes = APIRouter(tags=["models"])
metrics_routes = APIRouter(tags=["operations"])
admin_routes = APIRouter(tags=["operations"])


@open_routes.get("/v2", summary="What answers here")
async def server_info() -> ServerInfo:
    """Name and version."""
    return ServerInfo(name="secateur", version=version("secateur"), extensions=["variants", "metrics"])


@open_routes.get("/v2/health/live", summary="Whether the process runs")
@open_routes.get("/healthz", include_in_schema=False)
async def live() -> dict[str, bool]:
    """As long as this is answered, it does."""
    return {"live": True}


@open_routes.get("/v2/health/ready", summary="Whether requests should be sent here", responses={503: {"model": Health}})
@open_routes.get("/readyz", include_in_schema=False)
async def ready(request: Request) -> Response:
    """200, or 503 with the reason."""
    reason = serving_of(request).not_ready()
    health = Health(ready=reason is None, reason=reason)
    return JSONResponse(health.model_dump(exclude_none=True), 200 if health.ready else 503)


@model_routes.get("/v2/models", summary="All that is served", responses={401: PROBLEM})
async def models(request: Request) -> ModelList:
    """Each variant, and those that were left out."""
    registry = entered(request).registry
    served = [each for name in registry.models() for each in registry.variants(name)]
    return ModelList(
        models=[model_info(each, request) for each in served], left_out=[_left_out(each) for each in registry.left_out.values()]
    )


@model_routes.get("/v2/models/{name}", summary="A model", responses=REFUSALS)
async def model(name: str, request: Request) -> ModelInfo:
    """The variant of this model that answers by default."""
    return model_info(found(request, name, None), request)


@model_routes.get("/v2/models/{name}/ready", summary="Whether a model answers", responses=REFUSALS | {503: {"model": Health}})
async def model_ready(name: str, request: Request) -> Response:
    """200, or 503 with the reason."""
    found(request, name, None)
    return await ready(request)


@model_routes.get("/v2/models/{name}/versions/{variant}", summary="A variant of a model", responses=REFUSALS)
async def model_version(name: str, variant: str, request: Request) -> ModelInfo:
    """What was measured of it."""
    return model_info(found(request, name, variant), request)


@model_routes.get(
    "/v2/models/{name}/versions/{variant}/ready",
    summary="Whether a variant answers",
    responses=REFUSALS | {503: {"model": Health}},
)
async def version_ready(name: str, variant: str, request: Request) -> Response:
    """200, or 503 with the reason."""
    found(request, name, variant)
    return await ready(request)


@model_routes.get("/v1/variants", summary="Variants side by side", responses={401: PROBLEM})
async def variants(request: Request) -> list[VariantInfo]:
    """Accuracy, speed and size of each, and which answers by default."""
    registry = entered(request).registry
    return [
        variant_info(each, default=index == 0, weight=registry.weights.get(name, {}).get(each.manifest.variant))
        for name in registry.models()
        for index, each in enumerate(registry.variants(name))
    ]


@metrics_routes.get(
    "/metrics",
    summary="Counts, for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: PROBLEM},
)
async def metrics(request: Request) -> Response:
    """Text in Prometheus' format."""
    serving = serving_of(request)
    if not request.app.state.apart:
        serving.gate.enter(request.headers)
    return Response(generate_latest(serving.metrics.registry), media_type=CONTENT_TYPE_LATEST)


@admin_routes.post("/v1/reload", summary="Load the models folder again", responses={401: PROBLEM, 409: PROBLEM})
async def reload(request: Request) -> Reloaded:
    """Loaded, warmed, checked, and only then served; on any failure what was served stays."""
    serving = serving_of(request)
    serving.gate.enter(request.headers, admin=True)
    registry = await serving.reload()
    return Reloaded(
        variants=["/".join(key) for key in sorted(registry.served)], left_out=["/".join(key) for key in sorted(registry.left_out)]
    )


def serving_of(request: Request) -> Serving:
    """The application's state."""
    serving: Serving = request.app.state.serving
    return serving


def entered(request: Request) -> Serving:
    """The same, for who has a key."""
    serving = serving_of(request)
    serving.gate.enter(request.headers)
    return serving


def found(request: Request, name: str, variant: str | None) -> Served:
    """A variant by its address; `NotFoundError` when there is none."""
    registry = entered(request).registry
    of_model = registry.variants(name)
    if not of_model:
        raise NotFoundError(f"no model of that name; loaded: {', '.join(registry.models())}")
    chosen = of_model[0] if variant is None else registry.served.get((name, variant))
    if chosen is None:
        raise NotFoundError(f"{name} has no such variant; its variants are {', '.join(each.manifest.variant for each in of_model)}")
    return chosen


def model_info(served: Served, request: Request) -> ModelInfo:
    """What the protocol and our own fields say of a variant."""
    manifest, session = served.manifest, served.model.session
    registry = serving_of(request).registry
    outputs = (
        {"logits": [-1, -1]}
        if isinstance(served.model, GeneratingModel)
        else {name: [-1, _width(served.model)] for name in session.outputs}
    )
    return ModelInfo(
        name=manifest.name,
        versions=[each.manifest.variant for each in registry.variants(manifest.name)],
        platform=session.runtime,
        inputs=[Tensor(name=name, datatype="INT64", shape=[-1, -1]) for name in session.inputs],
        outputs=[Tensor(name=name, datatype="FP32", shape=shape) for name, shape in outputs.items()],
        parameters=_parameters(manifest) | {"revision": served.revision, "runtime": session.runtime, "machine": _machine()},
    )


def variant_info(served: Served, *, default: bool, weight: float | None) -> VariantInfo:
    """One line about a variant."""
    manifest = served.manifest
    return VariantInfo(
        model=manifest.name,
        variant=manifest.variant,
        task=manifest.task,
        default=default,
        weight=weight,
        precision=manifest.precision,
        density=manifest.density,
        size_bytes=sum(entry.size_bytes for entry in manifest.files.values()),
        metrics=list(manifest.metrics),
        latency=list(manifest.latency),
    )


def _width(model: Model) -> int:
    return -1 if model.task.per_token else len(model.manifest.labels)


def _parameters(manifest: Manifest) -> dict[str, Any]:
    whole = manifest.model_dump(mode="json", exclude={"golden", "recipe", "name"})
    return whole | {"sha256": {name: entry["sha256"] for name, entry in whole.pop("files").items()}}


def _machine() -> dict[str, Any]:
    return {"cpu": cpu_name(), "cores": core_count(), "isa": list(instruction_sets())}


def _left_out(out: LeftOut) -> dict[str, str]:
    return {"name": out.manifest.name, "variant": out.manifest.variant, "reason": out.reason}
