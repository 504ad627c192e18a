"""The thread in which an engine decodes for all callers. It is there while there is something to decode, and no longer.

Whoever submits is told of each step by a call from that thread, so what it calls must be quick and must not raise.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.errors import StuckError
from service.generation.engine import Engine
from service.generation.requests import EncoderDecoder, Generation, Limits, Progress
from service.generation.settings import GenerationSettings
from service.runtime.machine import lower_priority

Tell = Callable[[Generation, Progress | None], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One step of an engine.

    Attributes:
        rows: that were decoded.
        tokens: tokens that requests of one sequence got, and all those of requests that are done.
        seconds: that it took, the sources of those who joined included.
    """

    rows: int
    tokens: int
    seconds: float


class Decoder:
    """Decodes what is submitted, from any thread."""

    def __init__(
        self,
        model: EncoderDecoder,
        limits: Limits,
        *,
        stepped: Callable[[Step], None] = lambda step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing.

        Args:
            model: what generates.
            limits: how much is decoded at once.
            stepped: told of each step.
            clock: seconds.
        """
        self._model, self._limits, self._stepped, self._clock = model, limits, stepped, clock
        self._changed = threading.Lock()
        self._engine = Engine(model, limits, clock=clock)
        self._listeners: dict[Generation, Tell] = {}
        self._thread: threading.Thread | None = None
        self._step_since: float | None = None

    @property
    def waiting(self) -> int:
        """Requests that have not joined."""
        return self._engine.waiting

    @property
    def active(self) -> int:
        """Requests that are being decoded."""
        return self._engine.active

    @property
    def rows(self) -> int:
        """Rows that a step decodes."""
        return self._engine.rows

    @property
    def cached_tokens(self) -> int:
        """Tokens that there is room for in the caches."""
        return self._engine.cached_tokens

    def shortage(self, generations: Sequence[Generation], *, unknown: int = 0) -> float:
        """The share of what requests need that there is no room for now; see `Engine.shortage`."""
        return self._engine.shortage(generations, unknown=unknown)

    def submit(self, source: Sequence[int], settings: GenerationSettings, tell: Tell, *, log_probabilities: bool = False) -> Generation:
        """Let a request wait for its turn; to drop it later, set its `cancelled`.

        Args:
            source: token ids, with those that mark the beginning and the end.
            settings: how to decode it.
            tell: called with what each step did to it, at last with its result, or with None when it has an `error`.
            log_probabilities: whether progress comes with them; not of beams.

        Raises:
            RequestError: it is empty, or larger than the model or the limits allow.
        """
        with self._changed:
            generation = self._engine.submit(source, settings, log_probabilities=log_probabilities)
            self._listeners[generation] = tell
            if self._thread is None:
                self._thread = threading.Thread(target=self._decode, args=(self._engine,), name="decoder", daemon=True)
                self._thread.start()
        return generation

    def answers(self, seconds: float) -> bool:
        """Whether a token of a source of one token gets through within so long."""
        done = threading.Event()
        probe = self.submit([0], GenerationSettings(max_new_tokens=1), lambda generation, progress: done.set())
        done.wait(seconds)
        probe.cancelled = True
        return probe.result is not None

    def check(self, stuck_seconds: float) -> str | None:
        """Give up on a thread that has died, or whose step takes longer, and say what was wrong with it; others are decoded anew."""
        with self._changed:
            since, thread = self._step_since, self._thread
            if thread is None:
                return None
            if not thread.is_alive():
                problem = "died"
            elif since is not None and self._clock() - since > stuck_seconds:
                problem = f"has been at one step for {stuck_seconds:g} s"
            else:
                return None
            _log.error("a decoder %s and is replaced", problem)
            lost, self._listeners = self._listeners, {}
            self._engine, self._thread, self._step_since = Engine(self._model, self._limits, clock=self._clock), None, None
        for generation, tell in lost.items():
            generation.error = StuckError("the work did not come back; try again")
            tell(generation, None)
        return problem

    def _decode(self, engine: Engine) -> None:
        """The thread's life."""
        lower_priority()
        while self._goes_on(engine):
            started = self._step_since = self._clock()
            try:
                progress = engine.step()
            except Exception as error:  # those who took part have it as theirs
                _log.error("a step of the decoder failed", exc_info=error)
                progress = []
            if self._engine is not engine:
                return
            self._step_since, seconds = None, self._clock() - started
            self._share(seconds)
            self._stepped(Step(rows=engine.decoded_rows, tokens=sum(each.tokens for each in progress), seconds=seconds))
            self._tell(progress)

    def _goes_on(self, engine: Engine) -> bool:
        """Whether there is something to do; if not, whoever submits next starts another thread."""
        with self._changed:
            if self._engine is not engine:
                return False
            self._listeners = {generation: tell for generation, tell in self._listeners.items() if not generation.cancelled}
            if engine.waiting or engine.active:
                return True
            self._thread = None
            return False

    def _share(self, seconds: float) -> None:
        """Share the time of a step among those who took part, by their rows."""
        part = [generation for generation in tuple(self._listeners) if generation.joined_at is not None]
        rows = sum(generation.settings.num_beams for generation in part)
        for generation in part:
            generation.own_seconds += seconds * generation.settings.num_beams / rows

    def _tell(self, progress: Sequence[Progress]) -> None:
        for each in progress:
            tell = self._listeners.get(each.generation)
            if tell is not None and each.generation.error is None:
                tell(each.generation, each)
        with self._changed:
            over = [each for each in self._listeners if each.result is not None or each.error is not None]
            gone = [(each, self._listeners.pop(each)) for each in over]
        for generation, tell in gone:
            if generation.error is not None:
                tell(generation, None)
