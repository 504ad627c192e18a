"""The scheduler: which request is let in, what runs next, and what is dropped before it costs anything.

A request is let in by its characters, prepared (tokenised) by a runner, let in once more by its exact rows and tokens, run row by row,
and turned into a response by the runner that finishes its last row. Runners are plain threads that `take` work and `do` it: the oldest is
done next, so nothing starves, and there is no timer, no sleep and no polling between a request and its answer. Rows of a dynamically
quantized model run one per call, as its answers depend on batch neighbours; other rows are joined with neighbours of like length up to a
budget of padded tokens.

The rows of a model that generates are handed to its decoder, a thread of its own that lets them join and leave at each step; a runner
turns what comes of them into the response, or into more rows. A request has a few of its rows there at once, so that one with many leaves
room for others.
"""

import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeGuard, cast

from service.errors import DeadlineError, GoneError, OverloadedError, RequestError, StoppedError, TooLargeError
from service.generation import Decoder, EncoderDecoder, Generated, Generation, GenerationSettings, Progress, Step
from service.generation import Limits as DecoderLimits
from service.tasks.base import Outputs, Request, Response, Round
from service.tokenization import Row

LIKE_LENGTH = 0.25
FIXED_CHARACTERS = 50
LEARNING_RATE = 0.05
DECODED_AT_ONCE = 4


class Engine(Protocol):
    """What the scheduler asks of a loaded model; `service.model.Model` is one."""

    @property
    def batches(self) -> bool:
        """Whether several rows may share a call without changing each other's outputs."""
        ...

    def rows(self, request: Request) -> list[Row]:
        """The rows of tokens that a request takes."""
        ...

    def run_batch(self, rows: Sequence[Row]) -> Sequence[Outputs]:
        """Outputs of the graph for rows that share one call, [1, …] each."""
        ...

    def respond(self, request: Request, rows: Sequence[Row], outputs: Sequence[Outputs]) -> Response:
        """The response, from the outputs of all rows of the request."""
        ...


class GeneratingEngine(Protocol):
    """The same of a model that generates; `service.model.GeneratingModel` is one."""

    @property
    def generator(self) -> EncoderDecoder:
        """Its graphs."""
        ...

    def rows(self, request: Request) -> list[Row]:
        """The sources that a request takes at first."""
        ...

    def settings(self, request: Request) -> GenerationSettings:
        """How to decode them."""
        ...

    def respond(self, request: Request, rounds: Sequence[Round]) -> Response | list[Row]:
        """The response, from what came of all sources so far, or more sources."""
        ...


AnyEngine = Engine | GeneratingEngine


@dataclass(frozen=True)
class Limits:
    """What may wait at once. Beyond it a request is refused when it arrives, not when it has waited.

    Attributes:
        requests: requests that are waiting or running.
        characters: characters of all those requests.
        rows: rows that are waiting.
        tokens: tokens of those rows.
        batch_tokens: most padded tokens in one call, where rows may share one.
        request_rows, request_tokens: of one request.
        wait_seconds: the longest wait that is foreseen for a new request, from what answers have taken of late.
        runners: how many do the work; for that forecast.
        decoder: how much a model decodes at once.
    """

    requests: int = 512
    characters: int = 8_000_000
    rows: int = 2048
    tokens: int = 400_000
    batch_tokens: int = 256
    request_rows: int = 64
    request_tokens: int = 32_768
    wait_seconds: float = math.inf
    runners: int = 1
    decoder: DecoderLimits = field(default_factory=DecoderLimits)


@dataclass(eq=False)
class Job:
    """One request on its way. What is below `done` is the scheduler's.

    Attributes:
        engine: the model that answers.
        request: what is asked.
        characters: of its texts.
        deadline: on the scheduler's clock; work that is not started by then is dropped.
        done: called once, by a runner or by the caller of `submit` or `cancel`, when `response` or `error` is set.
        progress: called by a decoder with each token of the last round, where that is one sequence; None where nobody listens.
        response: the answer.
        error: why there is none.
        tokens: of all its rows, once it was prepared.
        generated_tokens: of what was generated, as they come; of beams at the end.
        computed_tokens: of the rows that were run, to the end or not, and those that were generated.
        queue_seconds, tokenize_seconds, inference_seconds, postprocess_seconds: time spent; inference of rows that shared a call
            counts for each of them.
    """

    engine: AnyEngine
    request: Request
    characters: int
    deadline: float
    done: Callable[["Job"], None]
    progress: Callable[[Progress], None] | None = None
    response: Response | None = None
    error: BaseException | None = None
    tokens: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0
    queue_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    inference_seconds: float = 0.0
    postprocess_seconds: float = 0.0
    number: int = -1
    expected_seconds: float = 0.0
    own_seconds: float = 0.0
    finished: bool = False
    waiting_since: float = 0.0
    rows: list[Row] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    missing: int = 0
    rounds: list[Round] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """One row of one job."""

    job: Job
    index: int

    @property
    def row(self) -> Row:
        return self.job.rows[self.index]


Work = Job | list[_Place]


class _Idle:
    """Runners that wait for work. The last one to come is the first to be woken: its core has the model in its caches.

    With questions of 384 tokens one at a time, waking the first instead took 2 ms more of 65 (two cores with caches of their own).
    """

    def __init__(self, lock: threading.RLock) -> None:
        """Take the lock that guards what is waited for; every method is called by who holds it, once."""
        self._lock = lock
        self._waiting: list[threading.Lock] = []

    def wait(self) -> None:
        """Let go of the lock until woken."""
        woken = threading.Lock()
        woken.acquire()
        self._waiting.append(woken)
        self._lock.release()
        try:
            woken.acquire()
        finally:
            self._lock.acquire()

    def wake(self, count: int) -> None:
        """Wake so many, if there are."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().release()

    def wake_all(self) -> None:
        """Wake all."""
        self.wake(len(self._waiting))


class Scheduler:
    """Jobs of all models, in the order in which they came. Everything here is safe to call from any thread."""

    def __init__(
        self,
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
        called: Callable[[Engine, int, int], None] = lambda engine, rows, tokens: None,
        stepped: Callable[[GeneratingEngine, Step], None] = lambda engine, step: None,
    ) -> None:
        """Start empty.

        Args:
            limits: what may wait.
            clock: seconds; the tests have one of their own.
            called: told of each call of a model, with its rows and padded tokens.
            stepped: told of each step of a model that generates.
        """
        self.limits = limits
        self._clock, self._called, self._stepped = clock, called, stepped
        self._changed = threading.RLock()
        self._idle = _Idle(self._changed)
        self._arrived: deque[Job] = deque()
        self._ready: dict[Engine, deque[_Place]] = {}
        self._decoded: deque[Job] = deque()
        self._decoders: weakref.WeakKeyDictionary[GeneratingEngine, Decoder] = weakref.WeakKeyDictionary()
        self._jobs: set[Job] = set()
        self._characters = self._rows = self._tokens = self._count = 0
        self._running = set[int]()  # batches that a runner has, by identity
        self._pace: weakref.WeakKeyDictionary[AnyEngine, float] = weakref.WeakKeyDictionary()
        self._calls, self._expected_seconds = 0, 0.0  # jobs whose rows the runners run, and what they will take
        self._open = True

    @property
    def depth(self) -> tuple[int, int, int]:
        """Requests let in and not finished, rows waiting, tokens of those rows."""
        with self._changed:
            return len(self._jobs), self._rows, self._tokens

    def decoders(self) -> list[tuple[GeneratingEngine, Decoder]]:
        """The decoders of models that have generated."""
        with self._changed:
            return list(self._decoders.items())

    def check(self, seconds: float, engines: Iterable[AnyEngine] = ()) -> None:
        """Refuse now what `submit` would refuse however small it is, and whichever of these answers: `OverloadedError`, `StoppedError`.

        Args:
            seconds: that it has.
            engines: that may answer.
        """
        with self._changed:
            self._admit(0, seconds, wait=min(map(self._wait, engines), default=0.0))

    def submit(self, job: Job) -> None:
        """Let a job in, or refuse it: `OverloadedError`, `StoppedError`."""
        with self._changed:
            called = not generates(job.engine)
            self._admit(job.characters, job.deadline - self._clock(), wait=self._wait(job.engine))
            job.expected_seconds = self._pace.get(job.engine, 0.0) * _size(job)
            job.number, self._count = self._count, self._count + 1
            job.waiting_since = self._clock()
            self._jobs.add(job)
            self._characters += job.characters
            self._calls += called
            self._expected_seconds += called * job.expected_seconds
            self._arrived.append(job)
            self._idle.wake(1)

    def cancel(self, job: Job) -> None:
        """The client left: what is not yet running of its job never will."""
        self._finish(job, error=GoneError("the client left"))

    def take(self, *, wait: bool = False) -> Work | None:
        """The oldest piece of work: a job to prepare, or rows to run. None if there is none and, with `wait`, never will be."""
        with self._changed:
            work = self._next()
            while work is None and wait and (self._open or self._jobs):
                self._idle.wait()
                work = self._next()
            return work

    def do(self, work: Work) -> None:
        """Do a piece of work. Whatever goes wrong in it is the owner's error, and nobody else's."""
        if not isinstance(work, Job):
            self._run(work)
            self._running.discard(id(work))
        elif work.rounds:
            self._proceed(work)
        else:
            self._prepare(work)

    def fail(self, work: Work, error: Exception) -> None:
        """Whoever had this work will not bring it back: its owners get the error."""
        self._running.discard(id(work))
        for job in {work} if isinstance(work, Job) else {place.job for place in work}:
            self._finish(job, error=error)

    @property
    def is_open(self) -> bool:
        """Whether requests are let in."""
        return self._open

    def close(self) -> None:
        """Let nothing more in; runners end when what was let in is done."""
        with self._changed:
            self._open = False
            self._idle.wake_all()

    def abandon(self) -> None:
        """Let nothing more in, and end what was with `StoppedError`."""
        self.close()
        with self._changed:
            open_jobs = tuple(self._jobs)
        for job in open_jobs:
            self._finish(job, error=StoppedError("the server is shutting down and could not finish this; send it to another one"))

    def _wait(self, engine: AnyEngine) -> float:
        """Seconds that a new job is likely to wait: for the runners, or to be decoded behind those that its decoder has no room for."""
        if not generates(engine):
            return self._expected_seconds / self.limits.runners if self._calls else 0.0
        waiting = [job for job in self._jobs if job.engine is engine and _waits_for_decoder(job)]
        if not waiting or engine not in self._decoders:
            return 0.0
        known = [generation for job in waiting for generation in job.generations]
        shortage = self._decoders[engine].shortage(known, unknown=sum(not job.generations for job in waiting))
        return shortage * sum(job.expected_seconds for job in waiting)

    def _admit(self, characters: int, seconds: float, *, wait: float) -> None:
        """Refuse what there is no room for, and what would wait too long behind what is there, or longer than the seconds it has."""
        limits = self.limits
        if not self._open:
            raise StoppedError("the server is shutting down; send the request to another one")
        if len(self._jobs) >= limits.requests:
            raise OverloadedError(f"{len(self._jobs)} requests are waiting, at most {limits.requests} may; try again in a second")
        if self._characters + characters > limits.characters:
            raise OverloadedError(f"{self._characters} characters are waiting, at most {limits.characters} may; try again in a second")
        if wait and wait > min(limits.wait_seconds, seconds):
            raise OverloadedError(f"the wait would be about {wait:.1f} s; try again then", retry_after=wait)

    def _learn(self, job: Job) -> None:
        """How long an engine takes for a job of some size, as a moving average."""
        pace = (job.tokenize_seconds + job.own_seconds) / _size(job)
        known = self._pace.get(job.engine, pace)
        self._pace[job.engine] = known + LEARNING_RATE * (pace - known)

    def _next(self) -> Work | None:
        """Take the oldest piece of work off the queues; drop what has expired or was finished otherwise."""
        while True:
            if self._decoded:
                return self._decoded.popleft()
            engine = min(self._ready, key=lambda each: self._ready[each][0].job.number, default=None)
            if self._arrived and (engine is None or self._comes_first(self._arrived[0], engine)):
                job = self._arrived.popleft()
                if self._alive(job):
                    return job
            elif engine is not None:
                batch = self._take(engine)
                if batch:
                    return batch
            else:
                return None

    def _comes_first(self, job: Job, engine: Engine) -> bool:
        """Whether to prepare this job before rows of `engine` run: it is older, or its rows may fill up a call that has room."""
        older = job.number < self._ready[engine][0].job.number
        return older or (job.engine is engine and engine.batches and self._tokens < self.limits.batch_tokens)

    def _take(self, engine: Engine) -> list[_Place]:
        """The oldest row of an engine, with neighbours of like length where rows may share a call."""
        queue = self._ready[engine]
        oldest = self._leave(queue.popleft())
        batch = [oldest] if self._alive(oldest.job) else []
        if batch and engine.batches:
            batch += self._neighbours(queue, len(oldest.row))
        if not queue:
            del self._ready[engine]
        if batch:
            self._running.add(id(batch))
        for place in batch:
            place.job.computed_tokens += len(place.row)
        return batch

    def _neighbours(self, queue: deque[_Place], length: int) -> list[_Place]:
        """What joins a row of this length: as much as the budget allows, but no more than this runner's share, or others would idle."""
        chosen: list[_Place] = []
        longest = length
        share = math.ceil((1 + len(queue)) / max(1, self.limits.runners - len(self._running)))
        for place in tuple(queue):
            if len(chosen) + 1 >= share:
                break
            size = len(place.row)
            padded = max(longest, size) * (len(chosen) + 2)
            if abs(size - length) <= LIKE_LENGTH * length and padded <= self.limits.batch_tokens and self._alive(place.job):
                queue.remove(place)
                chosen.append(self._leave(place))
                longest = max(longest, size)
        return chosen

    def _leave(self, place: _Place) -> _Place:
        self._rows -= 1
        self._tokens -= len(place.row)
        return place

    def _alive(self, job: Job) -> bool:
        """Whether the job still wants an answer; one that is too late gets its error here."""
        if not job.finished and job.deadline <= self._clock():
            self._finish(job, error=DeadlineError("the deadline passed before the work was started; allow more time or send less"))
        return not job.finished

    def _prepare(self, job: Job) -> None:
        started = self._clock()
        job.queue_seconds += started - job.waiting_since
        try:
            rows = job.engine.rows(job.request)
        except Exception as error:
            self._finish(job, error=error)
            return
        job.tokenize_seconds = self._clock() - started
        if not rows:
            self._finish(job, error=RequestError("the request holds nothing to run; send some text"))
            return
        tokens = sum(map(len, rows))
        if len(rows) > self.limits.request_rows or tokens > self.limits.request_tokens:
            most = f"{self.limits.request_rows} windows and {self.limits.request_tokens} tokens"
            self._finish(job, error=TooLargeError(f"the text takes {len(rows)} windows of {tokens} tokens, at most {most} are taken"))
            return
        self._let_in(job, rows, tokens)

    def _let_in(self, job: Job, rows: list[Row], tokens: int) -> None:
        """Let a job's rows wait, or refuse them."""
        with self._changed:
            if job.finished:
                return
            if self._rows + len(rows) > self.limits.rows or self._tokens + tokens > self.limits.tokens:
                refusal = OverloadedError(f"{self._rows} rows of {self._tokens} tokens are waiting; try again in a second, or send less")
            else:
                refusal = None
                job.rows, job.missing, job.outputs = rows, len(rows), [None] * len(rows)
                job.generations = []
                job.tokens += tokens
                job.waiting_since = self._clock()
                self._rows += len(rows)
                self._tokens += tokens
                if not generates(job.engine):
                    self._insert(job)
                    self._idle.wake(len(rows) - 1)
        if refusal:
            self._finish(job, error=refusal)
        elif generates(job.engine):
            self._decode(job, DECODED_AT_ONCE)

    def _insert(self, job: Job) -> None:
        """Queue a job's rows behind those of older jobs; runners may have prepared jobs out of order."""
        queue = self._ready.setdefault(cast(Engine, job.engine), deque())
        younger: list[_Place] = []
        while queue and queue[-1].job.number > job.number:
            younger.append(queue.pop())
        queue.extend(_Place(job, index) for index in range(len(job.rows)))
        queue.extend(reversed(younger))

    def _decode(self, job: Job, count: int) -> None:
        """Hand the next rows of a job to the decoder, so many at most."""
        engine = cast(GeneratingEngine, job.engine)
        try:
            settings = engine.settings(job.request)
            for _ in range(count):
                with self._changed:
                    index = len(job.generations)
                    if job.finished or index >= len(job.rows):
                        return
                    source = job.rows[index].input_ids.tolist()
                    tell = partial(self._advance, _Place(job, index))
                    job.generations.append(self._decoder(engine).submit(source, settings, tell, log_probabilities=job.progress is not None))
        except Exception as error:
            self._finish(job, error=error)

    def _decoder(self, engine: GeneratingEngine) -> Decoder:
        if engine not in self._decoders:
            stepped = partial(self._tell_step, weakref.ref(engine))  # a decoder that held its engine would keep it for ever
            self._decoders[engine] = Decoder(engine.generator, self.limits.decoder, stepped=stepped, clock=self._clock)
        return self._decoders[engine]

    def _tell_step(self, reference: weakref.ref[GeneratingEngine], step: Step) -> None:
        engine = reference()
        if engine is not None:
            self._stepped(engine, step)

    def _advance(self, place: _Place, generation: Generation, progress: Progress | None) -> None:
        """What a decoder says of a row: a token, what came of it, or that it failed."""
        job = place.job
        if progress is None:
            self._finish(job, error=generation.error)
            return
        job.generated_tokens += progress.tokens
        job.computed_tokens += progress.tokens
        if job.progress is not None and len(job.rows) == 1:
            job.progress(progress)
        if progress.result is not None:
            self._deliver_generated(place, generation, progress.result)
            self._decode(job, 1)

    def _deliver_generated(self, place: _Place, generation: Generation, result: Generated) -> None:
        """Note what came of a row; whoever brings the last one of a round leaves the rest to a runner."""
        job, now = place.job, self._clock()
        with self._changed:
            if job.finished:
                return
            self._leave(place)
            job.outputs[place.index] = result
            job.missing -= 1
            job.computed_tokens += len(place.row)
            job.own_seconds += generation.own_seconds
            if job.missing == 0:
                joined = job.generations[0].joined_at or now
                job.queue_seconds += joined - job.waiting_since
                job.inference_seconds += now - joined
                job.rounds.append(Round(job.rows, job.outputs))
                self._decoded.append(job)
                self._idle.wake(1)

    def _proceed(self, job: Job) -> None:
        """Make the response of what was decoded, or let the rows of another round in."""
        began = self._clock()
        try:
            outcome = cast(GeneratingEngine, job.engine).respond(job.request, job.rounds)
        except Exception as error:
            self._finish(job, error=error)
            return
        job.postprocess_seconds += self._clock() - began
        if isinstance(outcome, Response):
            self._finish(job, response=outcome)
        else:
            self._let_in(job, outcome, sum(map(len, outcome)))

    def _run(self, batch: list[_Place]) -> None:
        started = self._clock()
        try:
            engine = cast(Engine, batch[0].job.engine)
            outputs = engine.run_batch([place.row for place in batch])
        except Exception as error:
            if len(batch) == 1:
                self._finish(batch[0].job, error=error)
            else:
                for place in batch:
                    self._run([place])
            return
        seconds = self._clock() - started
        self._called(engine, len(batch), len(batch) * max(len(place.row) for place in batch))
        for place, output in zip(batch, outputs, strict=True):
            self._deliver(place, output, started, seconds, share=seconds / len(batch))

    def _deliver(self, place: _Place, output: Outputs, started: float, seconds: float, *, share: float) -> None:
        """Note a row's outputs; whoever brings the last one makes the response."""
        job = place.job
        with self._changed:
            job.outputs[place.index] = output
            job.missing -= 1
            job.inference_seconds += seconds
            job.own_seconds += share
            if place.index == 0:
                job.queue_seconds += started - job.waiting_since
            last = job.missing == 0 and not job.finished
        if last:
            began = self._clock()
            try:
                response = cast(Engine, job.engine).respond(job.request, job.rows, job.outputs)
            except Exception as error:
                self._finish(job, error=error)
            else:
                job.postprocess_seconds = self._clock() - began
                self._finish(job, response=response)

    def _finish(self, job: Job, *, response: Response | None = None, error: BaseException | None = None) -> None:
        """Set the outcome once, and say so."""
        with self._changed:
            if job.finished:
                return
            job.finished, job.response, job.error = True, response, error
            self._jobs.discard(job)
            self._characters -= job.characters
            if generates(job.engine):
                self._give_up(job)
            else:
                self._calls -= 1
                self._expected_seconds -= job.expected_seconds
            if response is not None:
                self._learn(job)
            if not self._open:
                self._idle.wake_all()
        job.done(job)

    def _give_up(self, job: Job) -> None:
        """What is left of a job's rows leaves the decoder at its next step."""
        for generation in job.generations:
            generation.cancelled = True
        for index, outcome in enumerate(job.outputs):
            if outcome is None:
                self._leave(_Place(job, index))
                begun = index < len(job.generations) and job.generations[index].joined_at is not None
                job.computed_tokens += len(job.rows[index]) if begun else 0


def _size(job: Job) -> int:
    """Its characters, and some for what any job costs; that of generation hardly depends on them."""
    return 1 if generates(job.engine) else job.characters + FIXED_CHARACTERS


def _waits_for_decoder(job: Job) -> bool:
    return generates(job.engine) and not job.rounds and all(generation.joined_at is None for generation in job.generations)


def generates(engine: AnyEngine) -> TypeGuard[GeneratingEngine]:
    """Whether this is the engine of a model that generates."""
    return hasattr(engine, "generator")
