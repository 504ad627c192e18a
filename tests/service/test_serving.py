"""The application's state: ready or not and why, reloads that change all or nothing, and the watch over the runners."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from service.errors import ReloadError, SettingsError, StuckError
from service.jobs import Job
from service.model import GeneratingModel
from service.registry import Registry
from service.serving import Serving
from service.settings import Settings
from service.tasks.summarize import SummarizeRequest
from tests.service.summarizing import write_summarizer
from tests.service.test_decoder import Held
from tests.service.test_registry import QA, put

PATIENCE = 10.0


def serving_of(models: Path, **settings: object) -> Serving:
    """The state of an application that has not been started."""
    chosen = Settings(models=models, **settings)
    return Serving(chosen, Registry.load(chosen))


def lived(serving: Serving, inside: Callable[[], Awaitable[None]]) -> None:
    """Start it, do something, and stop it."""

    async def main() -> None:
        await serving.start()
        try:
            await inside()
        finally:
            await serving.stop()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that threads bring about."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def test_it_is_ready_between_start_and_stop(tmp_path):
    """Before and after, requests should go elsewhere, and the reason is said."""
    put(tmp_path, "qa", "dense")
    serving = serving_of(tmp_path)
    assert serving.not_ready() == "starting"

    async def inside() -> None:
        assert serving.not_ready() is None
        serving.draining = True
        assert serving.not_ready() == "shutting down"

    lived(serving, inside)
    assert serving.not_ready() == "shutting down"


def test_a_reload_serves_what_is_there_now(tmp_path):
    """A variant that was added answers after the reload, and the one that was removed is gone."""
    put(tmp_path, "qa", "dense")
    serving = serving_of(tmp_path)
    before = serving.registry

    async def inside() -> None:
        put(tmp_path, "qa", "compact")
        await serving.reload()

    lived(serving, inside)
    assert serving.registry.choose(QA).key == "qa/compact"
    assert before.choose(QA).key == "qa/dense"


def test_a_reload_that_fails_changes_nothing(tmp_path):
    """A damaged new artifact leaves the old registry serving, whole."""
    put(tmp_path, "qa", "dense")
    serving = serving_of(tmp_path)
    before = serving.registry

    async def inside() -> None:
        (put(tmp_path, "qa", "compact") / "tokenizer.json").write_text("{")
        with pytest.raises(ReloadError, match=r"tokenizer\.json"):
            await serving.reload()
        assert serving.not_ready() is None

    lived(serving, inside)
    assert serving.registry is before


def test_a_stuck_runner_turns_readiness_red_until_answers_come_again(tmp_path):
    """While nothing gets through it is not ready; a new runner that answers makes it ready."""
    put(tmp_path, "qa", "dense")
    serving = serving_of(tmp_path, runners=1, stuck_s=0.1)
    model = serving.registry.choose(QA).model
    go, run = threading.Event(), model.session.run
    stuck = [True]

    def hang(inputs: object) -> object:
        if stuck[0]:
            assert go.wait(PATIENCE)
        return run(inputs)  # type: ignore[arg-type]

    model.session.run = hang  # type: ignore[method-assign]

    async def inside() -> None:
        waiting = asyncio.create_task(asyncio.to_thread(serving._answers))
        await until(lambda: serving.not_ready() is not None)
        assert "a runner has been at one piece of work" in (serving.not_ready() or "")
        stuck[0] = False
        go.set()
        await until(lambda: serving.not_ready() is None)
        await waiting

    lived(serving, inside)
    assert serving.runners.replaced >= 1


def test_a_stuck_decoder_turns_readiness_red_until_it_decodes_again(tmp_path):
    """That another model's encoder answers is not enough: the decoder that was stuck must take a step."""
    put(tmp_path, "qa", "dense")
    write_summarizer(tmp_path / "summarize/dense")
    serving = serving_of(tmp_path, runners=1, stuck_s=0.3)
    model = serving.registry.choose("summarization").model
    gate = threading.Event()
    object.__setattr__(model.generator, "decoder", Held(model.generator, lambda: gate.wait(PATIENCE)))

    async def inside() -> None:
        asked = asyncio.create_task(asyncio.to_thread(ask, serving, model))
        await until(lambda: len(serving._stuck) == 1)
        await until(serving._runs)
        assert serving.not_ready() is not None
        gate.set()
        await until(lambda: serving.not_ready() is None)
        assert isinstance((await asked).error, StuckError)

    lived(serving, inside)


def ask(serving: Serving, model: GeneratingModel) -> Job:
    """A finished job."""
    done = threading.Event()
    job = Job(model, SummarizeRequest(text="ada wrote it"), 12, time.monotonic() + PATIENCE, lambda _: done.set())
    serving.scheduler.submit(job)
    assert done.wait(PATIENCE)
    return job


def test_metrics_say_what_is_served(tmp_path):
    """Variants with their accuracy, the runners and the readiness stand in the metrics."""
    put(tmp_path, "qa", "dense")
    serving = serving_of(tmp_path, runners=3)
    text = generate_latest(serving.metrics.registry).decode()
    assert 'secateur_model_info{isa="' in text
    assert "secateur_runners 3.0" in text
    assert "secateur_ready 0.0" in text


def test_keys_that_cannot_be_read_stop_the_start(tmp_path):
    """A service that should ask for keys does not open without them."""
    put(tmp_path, "qa", "dense")
    with pytest.raises(SettingsError, match="API keys"):
        serving_of(tmp_path, api_keys=tmp_path / "none")
