"""What the scheduler promises of models that generate: rounds, room for others, refusals, and nothing left behind."""

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from service.errors import GoneError, OverloadedError, StoppedError
from service.generation import EncoderDecoder, GenerationSettings, Progress, generate
from service.generation import Limits as DecoderLimits
from service.jobs import Job, Limits
from service.runners import Runners
from service.scheduler import Scheduler
from service.tasks.base import Request, Response, Round
from service.tokenization import Row
from tests.service.generating import exported, sources
from tests.service.test_decoder import Held, until

PATIENCE = 20.0
SETTINGS = GenerationSettings(max_new_tokens=10)


class Texts(Request):
    """Sources, and how often all of them are read."""

    sources: tuple[tuple[int, ...], ...]
    rounds: int = 1


class Tokens(Response):
    """What was generated, round by round."""

    generated: list[list[tuple[int, ...]]]


def row_of(source: Sequence[int]) -> Row:
    """A row of these tokens."""
    ids = np.array(source, dtype=np.int64)
    return Row(input_ids=ids, token_type_ids=ids * 0, offsets=np.zeros((0, 2), np.int64), context_mask=ids[:0] > 0)


@dataclass(eq=False)
class Generating:
    """An engine that generates; each further round reads one source."""

    generator: EncoderDecoder = field(default_factory=lambda: exported(0))
    settings_of: GenerationSettings = SETTINGS

    def rows(self, request: Texts) -> list[Row]:
        """The sources."""
        return [row_of(source) for source in request.sources]

    def settings(self, request: Texts) -> GenerationSettings:
        """Always the same."""
        del request
        return self.settings_of

    def respond(self, request: Texts, rounds: Sequence[Round]) -> Response | list[Row]:
        """All that was generated, or the first source again."""
        if len(rounds) < request.rounds:
            return [row_of(request.sources[0])]
        return Tokens(generated=[[result.tokens for result in each.generated] for each in rounds])


@dataclass
class Desk:
    """A scheduler with one runner."""

    limits: Limits = field(default_factory=Limits)
    done: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.limits)
        self.runners = Runners(self.scheduler, 1, stuck_seconds=PATIENCE)
        self.runners.start()

    def submit(self, engine: Generating, *texts: Sequence[int], rounds: int = 1, progress: Callable[[Progress], None] | None = None) -> Job:
        """Let a job in."""
        request = Texts(sources=tuple(map(tuple, texts)), rounds=rounds)
        job = Job(engine, request, 10, time.monotonic() + PATIENCE, self.done.append, progress)
        self.scheduler.submit(job)
        return job


@pytest.fixture
def gate():
    """Closed; a decoder may wait for it. It is open when the test is over."""
    gate = threading.Event()
    yield gate
    gate.set()


def held(gate: threading.Event) -> Generating:
    """An engine whose steps wait for the gate."""
    model = exported(0)
    return Generating(replace(model, decoder=Held(model, lambda: gate.wait(PATIENCE))))


def alone(*texts: Sequence[int]) -> list[tuple[int, ...]]:
    """What each source gives by itself."""
    return [generate(exported(0), [text], SETTINGS)[0].tokens for text in texts]


def test_rounds_follow_each_other_until_there_is_a_response():
    """All sources of a round are decoded before the next one, and time and tokens of all rounds count."""
    desk, texts = Desk(), sources(3, 6)
    job = desk.submit(Generating(), *texts, rounds=3)
    until(lambda: job.finished)
    assert job.response == Tokens(generated=[alone(*texts), alone(texts[0]), alone(texts[0])])
    assert job.tokens == sum(map(len, texts)) + 2 * len(texts[0])
    assert job.generated_tokens == sum(len(tokens) for each in job.response.generated for tokens in each)
    assert min(job.queue_seconds, job.inference_seconds, job.own_seconds) > 0
    assert desk.scheduler.depth == (0, 0, 0)
    assert desk.runners.stop(PATIENCE)


def test_further_round_is_let_in_whatever_waits(gate):
    """A job that was let in is not refused half-way because others have filled the queue since; who comes new is."""
    done: list[Job] = []
    scheduler, engine, texts = Scheduler(Limits(rows=2)), held(gate), sources(3, 4)

    def submit(engine: Generating, texts: Sequence[Sequence[int]], rounds: int = 1) -> Job:
        job = Job(engine, Texts(sources=tuple(map(tuple, texts)), rounds=rounds), 10, time.monotonic() + PATIENCE, done.append)
        scheduler.submit(job)
        return job

    def work() -> None:
        found = scheduler.take(wait=True)
        assert found is not None
        scheduler.do(found)

    job = submit(Generating(), texts[:2], rounds=2)
    work()
    proceeding = scheduler.take(wait=True)
    others = [submit(engine, [text]) for text in texts[1:]]
    for _ in others:
        work()
    assert [type(other.error) for other in others] == [type(None), type(None), OverloadedError]
    assert proceeding is job
    scheduler.do(proceeding)
    work()
    assert job.response == Tokens(generated=[alone(*texts[:2]), alone(texts[0])])


def test_tokens_of_the_last_round_are_told():
    """Who listens hears the tokens of a round of one source, with their log-probabilities."""
    heard: list[Progress] = []
    desk, texts = Desk(), sources(3, 2)
    job = desk.submit(Generating(), *texts, rounds=2, progress=heard.append)
    until(lambda: job.finished)
    assert [each.token for each in heard] == list(alone(texts[0])[0])
    assert all(each.log_probability is not None for each in heard)


def test_request_of_many_parts_leaves_room_for_others(gate):
    """It has a few rows at once, so a short one that comes later joins before its last ones."""
    desk = Desk(Limits(decoder=DecoderLimits(rows=8)))
    engine, texts = held(gate), sources(3, 7)
    long = desk.submit(engine, *texts[:6])
    short = desk.submit(engine, texts[6])
    until(lambda: len(long.generations) == 4 and len(short.generations) == 1)
    gate.set()
    until(lambda: long.finished and short.finished)
    assert short.response == Tokens(generated=[alone(texts[6])])
    assert long.response == Tokens(generated=[alone(*texts[:6])])


def test_client_that_leaves_takes_its_rows_along(gate):
    """Decoded, waiting for the decoder, and not yet handed to it: all rows of a cancelled job are gone."""
    desk = Desk(Limits(decoder=DecoderLimits(rows=2)))
    engine, texts = held(gate), sources(4, 7)
    job = desk.submit(engine, *texts[:6])
    until(lambda: len(job.generations) == 4)
    desk.scheduler.cancel(job)
    assert isinstance(job.error, GoneError)
    assert desk.scheduler.depth == (0, 0, 0)
    other = desk.submit(engine, texts[6])
    gate.set()
    until(lambda: other.finished)
    assert other.response == Tokens(generated=[alone(texts[6])])
    ((_, decoder),) = desk.scheduler.decoders()
    until(lambda: (decoder.active, decoder.waiting, decoder.rows) == (0, 0, 0))


def test_wait_is_foreseen_once_there_is_no_room(gate):
    """Jobs that find room are let in; who would wait longer than allowed behind those that did not is refused, and others are not."""
    desk = Desk(Limits(wait_seconds=1e-6, decoder=DecoderLimits(rows=2)))
    engine, texts = held(gate), sources(5, 5)
    gate.set()
    first = desk.submit(engine, texts[0])
    until(lambda: first.finished)
    gate.clear()
    jobs = [desk.submit(engine, text) for text in texts[1:4]]
    with pytest.raises(OverloadedError, match="the wait would be about"):
        desk.submit(engine, texts[4])
    with pytest.raises(OverloadedError):
        desk.scheduler.check(PATIENCE, [engine])
    desk.scheduler.check(PATIENCE, [engine, Generating()])
    gate.set()
    until(lambda: all(job.finished for job in jobs))
    assert [job.response for job in jobs] == [Tokens(generated=[alone(text)]) for text in texts[1:4]]


def test_idle_model_is_not_refused_for_a_busy_one(gate):
    """Each model has its own decoder: while one has a line, another one's requests are let in and answered."""
    desk = Desk(Limits(wait_seconds=1e-6, decoder=DecoderLimits(rows=2)))
    busy, idle, texts = held(gate), Generating(), sources(5, 6)
    gate.set()
    first = [desk.submit(busy, texts[0]), desk.submit(idle, texts[0])]
    until(lambda: all(job.finished for job in first))
    gate.clear()
    jobs = [desk.submit(busy, text) for text in texts[1:4]]
    with pytest.raises(OverloadedError):
        desk.submit(busy, texts[4])
    other = desk.submit(idle, texts[5])
    until(lambda: other.finished)
    assert other.response == Tokens(generated=[alone(texts[5])])
    gate.set()
    until(lambda: all(job.finished for job in jobs))


@pytest.mark.parametrize("limits", [DecoderLimits(rows=6), DecoderLimits(rows=64, cached_tokens=6 * 32 + 2 * 32)])
def test_beams_that_wait_count_as_rows(gate, limits):
    """A request of four beams takes four rows, and room for their tokens: one that waits behind another is a line."""
    desk = Desk(Limits(wait_seconds=1e-6, decoder=limits))
    engine, texts = held(gate), sources(5, 4)
    engine.settings_of = GenerationSettings(max_new_tokens=10, num_beams=4)
    gate.set()
    first = desk.submit(engine, texts[0])
    until(lambda: first.finished)
    gate.clear()
    active = desk.submit(engine, texts[1])
    until(lambda: bool(active.generations) and active.generations[0].joined_at is not None)
    waiting = desk.submit(engine, texts[2])
    until(lambda: bool(waiting.generations))
    with pytest.raises(OverloadedError, match="the wait would be about"):
        desk.submit(engine, texts[3])
    gate.set()
    until(lambda: active.finished and waiting.finished)


def test_tokens_of_what_was_left_are_known(gate):
    """Of a job that is cancelled, the rows that were begun count as computed; of a whole one, all that was read and generated does."""
    desk, engine, texts = Desk(Limits(decoder=DecoderLimits(rows=1))), held(gate), sources(3, 2)
    job = desk.submit(engine, *texts)
    until(lambda: bool(job.generations) and job.generations[0].joined_at is not None)
    desk.scheduler.cancel(job)
    assert job.computed_tokens == len(texts[0])
    gate.set()
    whole = desk.submit(engine, *texts, rounds=2)
    until(lambda: whole.finished)
    assert whole.computed_tokens == whole.tokens + whole.generated_tokens


def test_what_is_open_can_be_ended(gate):
    """Whoever waits when there is no more time gets an error, the decoder is left, and nobody else is let in."""
    desk, texts = Desk(), sources(6, 2)
    jobs = [desk.submit(held(gate), text) for text in texts]
    until(lambda: all(job.generations for job in jobs))
    desk.scheduler.abandon()
    assert [type(job.error) for job in jobs] == [StoppedError] * 2
    assert all(generation.cancelled for job in jobs for generation in job.generations)
    with pytest.raises(StoppedError):
        desk.submit(Generating(), texts[0])
    gate.set()
    assert desk.runners.stop(PATIENCE)


def test_what_was_let_in_is_decoded_before_the_end(gate):
    """Stopping waits for the decoder, too."""
    desk, texts = Desk(), sources(6, 3)
    job = desk.submit(held(gate), *texts, rounds=2)
    until(lambda: len(job.generations) == 3)
    threading.Timer(0.05, gate.set).start()
    assert desk.runners.stop(PATIENCE)
    assert job.response == Tokens(generated=[alone(*texts), alone(texts[0])])


def test_failure_of_one_source_is_the_error_of_its_request():
    """A source that the encoder cannot read fails its job, gives up the rest of it, and harms nobody else."""
    desk, texts = Desk(), sources(7, 3)
    bad = desk.submit(Generating(), texts[0], range(10**6, 10**6 + 3), texts[1])
    good = desk.submit(Generating(), texts[2])
    until(lambda: bad.finished and good.finished)
    assert bad.error is not None
    assert good.response == Tokens(generated=[alone(texts[2])])
    assert desk.scheduler.depth == (0, 0, 0)


def test_model_that_nobody_serves_any_more_is_forgotten():
    """After a reload nothing keeps the old model, nor its decoder: neither what was decoded nor a runner that waits."""
    desk, engine = Desk(), Generating()
    desk.submit(engine, [5, 6])
    until(lambda: desk.done)
    old = weakref.ref(engine)
    desk.done.clear()
    del engine

    def forgotten() -> bool:
        gc.collect()
        return old() is None

    until(forgotten)
    assert desk.scheduler.decoders() == []
