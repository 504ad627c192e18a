"""FastAPI as its documentation sets it up: a plain function behind a route, run in its pool of threads; uvicorn in front."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from loadtests.peers.options import HOST, Options, read_options

Answer = Callable[[Any], Any]


def serve(module: str) -> None:
    """Run `module.create_app`, in as many processes as the layout has."""
    options = read_options()
    uvicorn.run(
        f"{module}:create_app",
        factory=True,
        host=HOST,
        port=options.port,
        workers=options.workers,
        log_level="warning" if options.tuned else "info",
        access_log=not options.tuned,
        timeout_worker_healthcheck=600,  # loading takes longer than the default allows
    )


def make_app(options: Options, answer: Answer) -> FastAPI:
    """An app that answers `{"inputs": …}`. In the layout of many workers, one may be healthy while another is still loading."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if options.tuned:
            current_default_thread_limiter().total_tokens = options.cores
        yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/predict")
    def predict(body: dict[str, Any]) -> Any:  # noqa: ANN401 - whatever the library answers
        return answer(body["inputs"])

    @app.get("/health")
    def health() -> str:
        return "ok"

    return app


def ask_pipeline(pipe: Any, task: str, inputs: Any, *, tuned: bool) -> Any:  # noqa: ANN401 - JSON in, JSON out
    """A `transformers` pipeline's answer; several texts are one call, in one batch when tuned."""
    if task == "question-answering":
        return pipe(**inputs)
    batch = {"batch_size": len(inputs)} if tuned and isinstance(inputs, list) else {}
    return pipe(inputs, **batch)
