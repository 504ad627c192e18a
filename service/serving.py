"""What an application holds while it runs: what is served, the scheduler with its runners, the counts, and whether it is ready."""

import asyncio
import logging
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client.core import Metric

from service.errors import ReloadError, SecateurError
from service.generation import Decoder, Step
from service.generation import Limits as DecoderLimits
from service.jobs import Engine, GeneratingEngine, Job, Limits
from service.keys import Gate, read_keys
from service.metrics import VARIANT, Metrics, counter, gauge, labelled
from service.model import AnyModel, GeneratingModel, Model
from service.registry import Registry, Served
from service.runners import Runners
from service.runtime.machine import core_count, instruction_sets
from service.scheduler import Scheduler
from service.settings import Settings
from service.tasks.base import Outputs, Request, Response
from service.tokenization import Row

WATCH_SECONDS = 0.5
PROBE_SECONDS = 10.0
DECODING = {
    "decoder_active": "Texts that are being decoded.",
    "decoder_waiting": "Texts that wait for their turn to be decoded.",
    "decoder_rows": "Sequences that are being decoded, each beam one.",
    "decoder_cached_tokens": "Tokens whose keys and values there is room for now.",
}

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class Serving:
    """One application's state; `start` and `stop` are called by its lifespan, once each.

    Attributes:
        settings: of this application.
        registry: what is served now; a reload puts another one here.
        draining: whether the process is about to end.
        inflight: requests that have not been answered.
        suspect: what is wrong with a runner, until an answer has come through again.
    """

    settings: Settings
    registry: Registry
    metrics: Metrics = field(default_factory=Metrics)
    started_at: float = field(default_factory=time.time)
    draining: bool = False
    inflight: int = 0
    suspect: str | None = None

    def __post_init__(self) -> None:
        settings = self.settings
        keys = () if settings.api_keys is None else read_keys(settings.api_keys, tokens_per_minute=settings.tokens_per_minute)
        self.gate = Gate(keys)
        count = settings.runners or core_count()
        self.scheduler = Scheduler(_limits(settings, count), called=self._called, stepped=self._stepped)
        self.runners = Runners(self.scheduler, count, stuck_seconds=settings.stuck_s)
        self.metrics.observe(self._observed)
        self._started = False
        self._reloading = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._stuck = weakref.WeakSet[Decoder]()

    async def start(self) -> None:
        """Start the runners and the watch over them."""
        self.runners.start()
        self._watch = asyncio.create_task(self._watch_runners())
        self._started = True

    async def stop(self) -> None:
        """Finish what was let in, and end."""
        self.draining = True
        if self._watch is not None:
            self._watch.cancel()
        finished = await asyncio.to_thread(self.runners.stop, self.settings.drain_s)
        if not finished:
            _log.error("some work was not done within %g s of shutting down", self.settings.drain_s)

    def not_ready(self) -> str | None:
        """Why requests should go elsewhere; None when they should not."""
        if not self._started:
            return "starting"
        if self.draining or not self.scheduler.is_open:
            return "shutting down"
        return self.suspect

    async def reload(self) -> Registry:
        """Load the models folder again and serve that; whatever is wrong with it, what was served stays: `ReloadError` says it."""
        async with self._reloading:
            try:
                registry = await asyncio.to_thread(Registry.load, self.settings)
            except SecateurError as error:
                self.metrics.reloads.labels("failed").inc()
                _log.error("nothing was reloaded: %s", error)
                raise ReloadError(str(error)) from error
            self.registry = registry
            self.metrics.reloads.labels("done").inc()
            return registry

    def count(self, served: Served, jobs: Sequence[Job]) -> None:
        """Count finished jobs."""
        counts = self.metrics.of(served.manifest.task, served.manifest.name, served.manifest.variant)
        for job in jobs:
            counts.queue.observe(job.queue_seconds)
            counts.tokenize.observe(job.tokenize_seconds)
            counts.inference.observe(job.inference_seconds)
            counts.postprocess.observe(job.postprocess_seconds)
            counts.input_tokens.inc(job.tokens)
        if isinstance(served.model, GeneratingModel):  # sources are not padded
            counts.padded_tokens.inc(sum(job.tokens for job in jobs))

    def _called(self, engine: Engine, rows: int, tokens: int) -> None:
        if isinstance(engine, Model):
            manifest = engine.manifest
            self.metrics.batch_rows.observe(rows)
            self.metrics.batch_tokens.observe(tokens)
            self.metrics.of(manifest.task, manifest.name, manifest.variant).padded_tokens.inc(tokens)

    def _stepped(self, engine: GeneratingEngine, step: Step) -> None:
        if isinstance(engine, GeneratingModel):
            manifest = engine.manifest
            counts = self.metrics.of_generation(manifest.task, manifest.name, manifest.variant)
            counts.step.observe(step.seconds)
            counts.tokens.inc(step.tokens)

    async def _watch_runners(self) -> None:
        """Replace runners that are stuck or dead; not ready until an answer has come through again."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            problems = self.runners.check()
            if problems:
                self.suspect = problems[0].text
                self._stuck.update(problem.decoder for problem in problems if problem.decoder is not None)
            if self.suspect is not None and await asyncio.to_thread(self._answers):
                self.suspect = None
                self._stuck.clear()

    def _answers(self) -> bool:
        """Whether a row gets through a runner and a model, and a token through each decoder that was stuck and is still in use."""
        stuck = [decoder for _, decoder in self.scheduler.decoders() if decoder in self._stuck]
        return self._runs() and all(decoder.answers(PROBE_SECONDS) for decoder in stuck)

    def _runs(self) -> bool:
        """Whether a row gets through a runner and a model."""
        done = threading.Event()
        probe = _Probe(next(iter(self.registry.served.values())).model)
        job = Job(probe, Request(), 0, time.monotonic() + PROBE_SECONDS, lambda _: done.set())
        try:
            self.scheduler.submit(job)
        except SecateurError:
            return False
        return done.wait(PROBE_SECONDS) and job.error is None

    def _observed(self) -> Iterable[Metric]:
        requests, rows, tokens = self.scheduler.depth
        busy = self.runners.busy_seconds
        yield gauge("queue_depth", "Texts that wait or run.", requests)
        yield gauge("inflight", "Requests that have not been answered.", self.inflight)
        yield gauge("queue_rows", "Windows that wait.", rows)
        yield gauge("queue_tokens", "Tokens of those windows.", tokens)
        yield gauge("ready", "Whether requests should be sent here.", float(self.not_ready() is None))
        yield gauge("runners", "Calls that may run at once.", len(self.runners))
        yield counter("runners_replaced", "Runners that were stuck or died.", self.runners.replaced)
        yield counter("runner_busy_seconds", "Time that runners were at work, all together.", busy)
        yield from self._decoding()
        isa = " ".join(instruction_sets())
        served = self.registry.served.values()
        yield labelled(
            "model_info",
            "What is served.",
            ("model", "variant", "revision", "runtime", "precision", "isa"),
            (((s.manifest.name, s.manifest.variant, s.revision, s.model.session.runtime, s.manifest.precision, isa), 1.0) for s in served),
        )
        yield labelled(
            "variant_accuracy",
            "Measured offline, in percent.",
            ("model", "variant", "metric", "dataset", "split"),
            (
                ((s.manifest.name, s.manifest.variant, metric.name, metric.dataset, metric.split), metric.value)
                for s in served
                for metric in s.manifest.metrics
            ),
        )

    def _decoding(self) -> Iterable[Metric]:
        """What is being decoded by each model that has generated; a reload leaves the old one until it is done."""
        values = dict[tuple[str, ...], Counter[str]]()
        for engine, decoder in self.scheduler.decoders():
            if isinstance(engine, GeneratingModel):
                manifest = engine.manifest
                values.setdefault((manifest.task, manifest.name, manifest.variant), Counter()).update(_state(decoder))
        for name, text in DECODING.items():
            yield labelled(name, text, VARIANT, ((variant, counts[name]) for variant, counts in values.items()))


class _Probe:
    """A model that is asked for nothing but to run one row."""

    batches = pads = False

    def __init__(self, model: AnyModel) -> None:
        self._session = model.session

    def rows(self, request: Request) -> list[Row]:
        """One row of one token."""
        del request
        zero, place = np.zeros(1, dtype=np.int64), np.zeros((1, 2), dtype=np.int64)
        return [Row(input_ids=zero, token_type_ids=zero, offsets=place, context_mask=zero > 0)]

    def run_batch(self, rows: Sequence[Row]) -> list[Outputs]:
        """Run it."""
        return [self._session.run(row.feed()) for row in rows]

    def respond(self, request: Request, rows: Sequence[Row], outputs: Sequence[Outputs]) -> Response:
        """Nothing."""
        del request, rows, outputs
        return Response()


def _limits(settings: Settings, runners: int) -> Limits:
    return Limits(
        requests=settings.queue_requests,
        characters=settings.queue_characters,
        rows=settings.queue_rows,
        tokens=settings.queue_tokens,
        batch_tokens=settings.batch_tokens,
        request_rows=settings.max_windows,
        request_tokens=settings.max_request_tokens,
        wait_seconds=settings.queue_wait_ms / 1000,
        runners=runners,
        decoder=DecoderLimits(rows=settings.decoder_rows, cached_tokens=settings.decoder_tokens),
    )


def _state(decoder: Decoder) -> dict[str, int]:
    """By the names of `DECODING`."""
    counts = (decoder.active, decoder.waiting, decoder.rows, decoder.cached_tokens)
    return dict(zip(DECODING, counts, strict=True))
