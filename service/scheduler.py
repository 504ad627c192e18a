"""The scheduler: which request is let in, what runs next, and what is dropped before it costs anything.

A request is let in by its characters, prepared (tokenised) by a runner, let in once more by its exact rows and tokens, run row by row,
and turned into a response by the runner that finishes its last row. Runners are plain threads that `take` work and `do` it: the oldest is
done next, so nothing starves, and there is no timer, no sleep and no polling between a request and its answer. Rows are joined with
neighbours of like length up to a budget of padded tokens; those of a quantized model with neighbours of the same length, or with none,
so that no answer depends on them.

The rows of a model that generates are handed to its decoder, a thread of its own that lets them join and leave at each step; a runner
turns what comes of them into the response, or into more rows. A request has a few of its rows there at once, so that one with many leaves
room for others.
"""

import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

from service.errors import DeadlineError, GoneError, OverloadedError, RequestError, StoppedError, TooLargeError
from service.forecast import Forecast, wait_for_decoder
from service.generation import Decoder, Generated, Generation, Progress, Step
from service.idle import Idle
from service.jobs import AnyEngine, Engine, GeneratingEngine, Job, Limits, Place, Work, generates
from service.tasks.base import Outputs, Response, Round
from service.tokenization import Row

LIKE_LENGTH = 0.25
DECODED_AT_ONCE = 4


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
        self._idle = Idle(self._changed)
        self._arrived: deque[Job] = deque()
        self._ready: dict[Engine, deque[Place]] = {}
        self._decoded: deque[Job] = deque()
        self._decoders: weakref.WeakKeyDictionary[GeneratingEngine, Decoder] = weakref.WeakKeyDictionary()
        self._jobs: set[Job] = set()
        self._characters = self._rows = self._tokens = self._count = 0
        self._running = set[int]()  # batches that a runner has, by identity
        self._forecast = Forecast(limits.runners)
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
            self._admit(job.characters, job.deadline - self._clock(), wait=self._wait(job.engine))
            job.number, self._count = self._count, self._count + 1
            job.waiting_since = self._clock()
            self._jobs.add(job)
            self._characters += job.characters
            self._forecast.begin(job)
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
            return self._forecast.wait_for_runners()
        if engine not in self._decoders:
            return 0.0
        return wait_for_decoder(self._decoders[engine], [job for job in self._jobs if job.engine is engine])

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

    def _take(self, engine: Engine) -> list[Place]:
        """The oldest row of an engine, with neighbours of like length where rows may share a call."""
        queue = self._ready[engine]
        oldest = self._leave(queue.popleft())
        batch = [oldest] if self._alive(oldest.job) else []
        if batch and engine.batches:
            batch += self._neighbours(queue, len(oldest.row), LIKE_LENGTH if engine.pads else 0)
        if not queue:
            del self._ready[engine]
        if batch:
            self._running.add(id(batch))
        for place in batch:
            place.job.computed_tokens += len(place.row)
        return batch

    def _neighbours(self, queue: deque[Place], length: int, like: float) -> list[Place]:
        """What joins a row of this length, or of one that differs by that share of it.

        As much as the budget allows, but no more than this runner's share, or others would idle.
        """
        chosen: list[Place] = []
        longest = length
        share = math.ceil((1 + len(queue)) / max(1, self.limits.runners - len(self._running)))
        for place in tuple(queue):
            if len(chosen) + 1 >= share:
                break
            size = len(place.row)
            padded = max(longest, size) * (len(chosen) + 2)
            if abs(size - length) <= like * length and padded <= self.limits.batch_tokens and self._alive(place.job):
                queue.remove(place)
                chosen.append(self._leave(place))
                longest = max(longest, size)
        return chosen

    def _leave(self, place: Place) -> Place:
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
            taken = f"the text takes {len(rows)} windows of {tokens} tokens, at most {most} are taken"
            self._finish(job, error=TooLargeError(f"{taken}; shorten it, or send it in parts"))
            return
        self._let_in(job, rows, tokens)

    def _let_in(self, job: Job, rows: list[Row], tokens: int) -> None:
        """Let a job's rows wait, or refuse them; not those of a further round, since the job was let in with what it would take."""
        with self._changed:
            if job.finished:
                return
            if not job.rounds and (self._rows + len(rows) > self.limits.rows or self._tokens + tokens > self.limits.tokens):
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
        younger: list[Place] = []
        while queue and queue[-1].job.number > job.number:
            younger.append(queue.pop())
        queue.extend(Place(job, index) for index in range(len(job.rows)))
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
                    tell = partial(self._advance, Place(job, index))
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

    def _advance(self, place: Place, generation: Generation, progress: Progress | None) -> None:
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

    def _deliver_generated(self, place: Place, generation: Generation, result: Generated) -> None:
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

    def _run(self, batch: list[Place]) -> None:
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

    def _deliver(self, place: Place, output: Outputs, started: float, seconds: float, *, share: float) -> None:
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
            self._forecast.end(job)
            if not self._open:
                self._idle.wake_all()
        job.done(job)

    def _give_up(self, job: Job) -> None:
        """What is left of a job's rows leaves the decoder at its next step."""
        for generation in job.generations:
            generation.cancelled = True
        for index, outcome in enumerate(job.outputs):
            if outcome is None:
                self._leave(Place(job, index))
                begun = index < len(job.generations) and job.generations[index].joined_at is not None
                job.computed_tokens += len(job.rows[index]) if begun else 0
