"""Decoding many requests at once, one token at a time: who is done leaves after a step, and who waits joins before the next.

Orca calls it iteration-level scheduling (Yu et al., 2022). One thread calls `step`; `submit` and `cancel` may come from others. Requests
have settings of their own: greedy rows, drawn ones and beams share a call of the decoder. The beams of a request keep their rows of the
cache: of two that go on from the same one, one stays where it is and the other is copied into a row that nobody goes on from.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.errors import RequestError
from service.generation.caches import Cache
from service.generation.requests import EncoderDecoder, Generation, Limits, Progress
from service.generation.scores import Best, History, Numbers, Rules, Scores, apply_rules, best_tokens, draw, log_softmax
from service.generation.searches import Continuation, Generated, Search, search_for
from service.generation.settings import GenerationSettings
from service.runtime.base import Array

ROOM_STEP = 32
DEFAULT_LIMITS = Limits()


@dataclass(eq=False)
class _Active:
    """A request that is being decoded; its place in the engine's list is its row of the cross-attention cache."""

    generation: Generation
    search: Search
    rows: Numbers
    generator: np.random.Generator | None = None


@dataclass(frozen=True)
class _Arrangement:
    """What changes only when a request joins or leaves.

    Attributes:
        inputs: inputs of the decoder.
        rules: of each row.
        beams: the rows of beam search.
        looks_at: how many of each row's best tokens somebody wants to see.
    """

    inputs: dict[str, Array] = field(default_factory=dict)
    rules: Rules = field(default_factory=lambda: Rules.of([]))
    beams: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    looks_at: int = 1


class Engine:
    """Decodes what is submitted; see the module's docstring.

    Attributes:
        decoded_rows: rows that the last step decoded.
    """

    def __init__(self, model: EncoderDecoder, limits: Limits = DEFAULT_LIMITS, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with nothing."""
        self._model, self._limits, self._clock = model, limits, clock
        own = {name: shape for name, shape in model.decoder.caches.items() if name.startswith("past_")}
        cross = {name: shape for name, shape in model.decoder.caches.items() if name.startswith("cross_")}
        self._own, self._cross = Cache(own, rows=limits.rows), Cache(cross, rows=limits.rows)
        self._waiting: deque[Generation] = deque()
        self._active: list[_Active] = []
        self._tokens = np.zeros((limits.rows, model.positions + 1), dtype=np.int64)
        self._lengths = np.zeros(limits.rows, dtype=np.int64)
        self._arrangement = _Arrangement()
        self.decoded_rows = 0

    @property
    def waiting(self) -> int:
        """Requests that have not joined."""
        return sum(not generation.cancelled for generation in tuple(self._waiting))

    @property
    def active(self) -> int:
        """Requests that are being decoded."""
        return len(self._active)

    @property
    def rows(self) -> int:
        """Rows that a step decodes."""
        return sum(active.search.beams for active in self._active)

    @property
    def cached_tokens(self) -> int:
        """Tokens that there is room for in the rows in use."""
        return self.rows * self._own.room + self.active * self._cross.room

    def submit(self, source: Sequence[int], settings: GenerationSettings, *, log_probabilities: bool = False) -> Generation:
        """Let a request wait for its turn.

        Args:
            source: token ids, with those that mark the beginning and the end.
            settings: how to decode it.
            log_probabilities: whether progress comes with them; not of beams.

        Raises:
            RequestError: it is empty, or larger than the model or the limits allow.
        """
        generation = Generation(source, settings, log_probabilities)
        self._require_possible(generation)
        self._waiting.append(generation)
        return generation

    def shortage(self, generations: Sequence[Generation], *, unknown: int = 0) -> float:
        """The share of what these requests need that there is no room for beside those that are decoded: of rows, or of tokens if more.

        Args:
            generations: that wait.
            unknown: further rows that wait, of which nothing else is known.
        """
        used_rows, used_tokens = _needs([active.generation for active in tuple(self._active)])
        rows, tokens = _needs(generations)
        return max(
            _share_beyond(rows + unknown, self._limits.rows - used_rows), _share_beyond(tokens, self._limits.cached_tokens - used_tokens)
        )

    def cancel(self, generation: Generation) -> None:
        """Stop decoding a request; its rows are free from the next step on."""
        generation.cancelled = True

    def step(self) -> list[Progress]:
        """Let requests join, decode one token of each row, and let leave who is done.

        What goes wrong with a source is that request's `error`. What the decoder raises comes through; the requests that took part have
        it as their `error` and are gone.
        """
        self._leave(active for active in self._active if active.generation.cancelled)
        failed = self._join()
        self.decoded_rows = self.rows
        try:
            progress = self._advance(self._decode()) if self._active else []
        except Exception as error:
            for active in self._active:
                active.generation.error = error
            self._leave(self._active)
            raise
        self._leave(active for active in self._active if active.generation.result is not None)
        return [*failed, *progress]

    def _require_possible(self, generation: Generation) -> None:
        settings, positions = generation.settings, self._model.positions
        if not 0 < len(generation.source) <= positions:
            raise RequestError(f"the source has {len(generation.source)} tokens; this model reads 1 to {positions}: shorten it")
        if settings.max_new_tokens > positions:
            raise RequestError(
                f"max_new_tokens is {settings.max_new_tokens}, but this model writes at most {positions}: lower it", field="max_new_tokens"
            )
        if not self._fits([generation]):
            raise RequestError(
                f"{settings.num_beams} beams of {settings.max_new_tokens} tokens over {len(generation.source)} are more than this server "
                f"decodes at once: lower num_beams or max_new_tokens",
                field="num_beams",
            )

    def _fits(self, generations: Sequence[Generation]) -> bool:
        """Whether these requests can be decoded at once, whatever their lengths turn out to be."""
        rows, tokens = _needs(generations)
        return rows <= self._limits.rows and tokens <= self._limits.cached_tokens

    def _join(self) -> list[Progress]:
        """Let requests join in the order in which they came, as long as the next one fits, and give back those that cannot be encoded."""
        self._forget_cancelled()
        started, failed = 0, list[Progress]()
        try:
            while self._waiting and started < self._limits.joins:
                generation = self._waiting[0]
                together = [*(active.generation for active in self._active), generation]
                if not self._fits(together):
                    break
                self._waiting.popleft()
                started += 1
                generation.joined_at = self._clock()
                try:
                    self._start(generation, self._encode(generation), together)
                except Exception as error:
                    generation.error = error
                    failed.append(Progress(generation, None, None, None))
        finally:
            if started:
                self._arrange()
        return failed

    def _forget_cancelled(self) -> None:
        """Drop who waits for nothing, behind whomever it stands."""
        for generation in tuple(self._waiting):
            if generation.cancelled:
                self._waiting.remove(generation)

    def _encode(self, generation: Generation) -> dict[str, Array]:
        source = np.array(generation.source, dtype=np.int64)[np.newaxis]
        return self._model.encoder.run({"input_ids": source, "attention_mask": np.ones_like(source)})

    def _start(self, generation: Generation, encoded: dict[str, Array], together: Sequence[Generation]) -> None:
        """Give a request its rows; `together` is everybody who is decoded from now on."""
        settings, special = generation.settings, self._model.special
        slot, first = self.active, self.rows
        rows = np.arange(first, first + settings.num_beams)
        self._cross.resize(_longest_source(together), rows=slot)
        self._own.resize(min(self._own.room, _longest_target(together)), rows=first)
        self._cross.clear([slot])
        self._own.clear(rows)
        self._cross.write(slot, encoded)
        self._tokens[rows, 0], self._lengths[rows] = special.start, 1
        generator = np.random.default_rng(settings.seed) if settings.do_sample else None
        self._active.append(_Active(generation, search_for(settings, special), rows, generator))

    def _decode(self) -> Scores:
        """Run the decoder on the last token of each row, and keep the keys and values that it gives."""
        lengths = self._lengths[: self.rows]
        cached = lengths - 1
        if cached.max() >= self._own.room:
            self._own.resize(_rounded(int(cached.max()) + 1), rows=len(lengths))
        seen = np.arange(self._own.room + 1) < cached[:, np.newaxis]
        seen[:, -1] = True
        outputs = self._model.decoder.run(
            {
                "input_ids": self._tokens[np.arange(len(lengths)), cached][:, np.newaxis],
                "position_ids": cached[:, np.newaxis],
                "attention_mask": seen.astype(np.int64),
                **self._arrangement.inputs,
                **self._own.feed(len(lengths)),
                **self._cross.feed(self.active),
            }
        )
        new = {name.replace("new", "past", 1): values for name, values in outputs.items() if name.startswith("new_")}
        self._own.append(new, cached)
        logits: Scores = outputs["logits"].astype(np.float32, copy=False)
        return logits

    def _advance(self, scores: Scores) -> list[Progress]:
        """Choose the next tokens from the logits [rows, vocabulary], which are changed in place."""
        arrangement, rows = self._arrangement, len(scores)
        log_softmax(scores, arrangement.beams)
        apply_rules(scores, History(self._tokens[:rows], self._lengths[:rows]), arrangement.rules, self._model.special)
        best = best_tokens(scores, arrangement.looks_at)
        return [step for active in self._active if (step := self._advance_one(active, scores, best)) is not None]

    def _advance_one(self, active: _Active, scores: Scores, best: Best) -> Progress | None:
        """Let one request go on; None if there is nothing to say of it yet."""
        generation, search, first = active.generation, active.search, int(active.rows[0])
        if active.generator is not None:
            best.tokens[first, 0] = draw(scores[first], generation.settings, active.generator)
        history = self._tokens[active.rows, : self._lengths[first]]
        continuation = search.advance(Best(best.scores[active.rows], best.tokens[active.rows]), history)
        generation.result = search.result
        if search.result is None:
            self._continue(active, continuation, history)
        if search.beams > 1:
            return None if search.result is None else Progress(generation, None, None, search.result)
        token = int(continuation.tokens[0])
        if not generation.log_probabilities:
            return Progress(generation, token, None, search.result)
        log_softmax(scores, [first])
        return Progress(generation, token, float(scores[first, token]), search.result)

    def _continue(self, active: _Active, continuation: Continuation, history: Numbers) -> None:
        """Give each beam a row: the one that it goes on from, or a copy of that where another beam has it."""
        length, sources = history.shape[1], active.rows[continuation.parents].tolist()
        free = [row for row in active.rows.tolist() if row not in sources]
        rows: list[int] = []
        for source in sources:
            rows.append(free.pop() if source in rows else source)
            if rows[-1] != source:
                self._own.copy(source, rows[-1], length)
        self._tokens[rows, :length] = history[continuation.parents]
        self._tokens[rows, length] = continuation.tokens
        self._lengths[rows] = length + 1
        active.rows = np.array(rows)

    def _leave(self, leaving: Iterable[_Active]) -> None:
        """Take requests out, and let the last ones move to where they were."""
        gone = set(leaving)
        if not gone:
            return
        self._close_gaps_of_requests(gone)
        self._close_gaps_of_rows()
        generations = [active.generation for active in self._active]
        longest = _rounded(int(self._lengths[: self.rows].max(initial=0)))
        if self._own.room >= 2 * longest:
            self._own.resize(longest, rows=self.rows)
        if self._cross.room >= 2 * _longest_source(generations):
            self._cross.resize(_longest_source(generations), rows=self.active)
        self._arrange()

    def _close_gaps_of_requests(self, gone: set[_Active]) -> None:
        """Let the requests that stay have the first places."""
        count = len(self._active) - len(gone)
        moving = [place for place in range(count, len(self._active)) if self._active[place] not in gone]
        for place in [place for place in range(count) if self._active[place] in gone]:
            source = moving.pop()
            self._cross.copy(source, place, self._cross.room)
            self._active[place] = self._active[source]
        del self._active[count:]

    def _close_gaps_of_rows(self) -> None:
        """Let the rows of the requests that stay be the first ones."""
        used = {row for active in self._active for row in active.rows.tolist()}
        gaps = [row for row in range(self.rows) if row not in used]
        for active in self._active:
            for beam in np.flatnonzero(active.rows >= self.rows):
                source, target = int(active.rows[beam]), gaps.pop()
                self._own.copy(source, target, self._own.room)
                self._tokens[target], self._lengths[target] = self._tokens[source], self._lengths[source]
                active.rows[beam] = target

    def _arrange(self) -> None:
        """Work out what stays the same until somebody joins or leaves."""
        widest = max((active.search.beams for active in self._active), default=0)
        queries, slots = np.zeros((self.active, widest), np.int64), np.zeros((self.rows, 1), np.int64)
        mask = np.zeros((self.active, self._cross.room), np.int64)
        settings: dict[int, GenerationSettings] = {}
        for place, active in enumerate(self._active):
            rows = np.sort(active.rows)
            queries[place, : len(rows)], slots[rows, 0] = rows, place * widest + np.arange(len(rows))
            mask[place, : len(active.generation.source)] = 1
            settings |= dict.fromkeys(rows.tolist(), active.generation.settings)
        self._arrangement = _Arrangement(
            inputs={"request_queries": queries, "query_slots": slots, "encoder_attention_mask": mask},
            rules=Rules.of([settings[row] for row in range(self.rows)]),
            beams=np.array([row for row in range(self.rows) if settings[row].num_beams > 1], dtype=np.int64),
            looks_at=max((active.search.looks_at for active in self._active), default=1),
        )


def generate(
    model: EncoderDecoder, sources: Iterable[Sequence[int]], settings: GenerationSettings, limits: Limits = DEFAULT_LIMITS
) -> list[Generated]:
    """Decode all of these with the same settings, and give what came of each."""
    return generate_each(model, [(source, settings) for source in sources], limits)


def generate_each(
    model: EncoderDecoder, requests: Iterable[tuple[Sequence[int], GenerationSettings]], limits: Limits = DEFAULT_LIMITS
) -> list[Generated]:
    """Decode sources with settings of their own, and give what came of each; what a graph raises comes through."""
    engine = Engine(model, limits)
    generations = [engine.submit(source, settings) for source, settings in requests]
    while engine.waiting or engine.active:
        engine.step()
    return [_result(generation) for generation in generations]


def _result(generation: Generation) -> Generated:
    if generation.error is not None:
        raise generation.error
    assert generation.result is not None
    return generation.result


def _rounded(length: int) -> int:
    """The room that so many tokens are given."""
    return -(-length // ROOM_STEP) * ROOM_STEP


def _needs(generations: Sequence[Generation]) -> tuple[int, int]:
    """Rows, and tokens of room, that these take at once, whatever their lengths turn out to be."""
    rows = sum(generation.settings.num_beams for generation in generations)
    return rows, rows * _longest_target(generations) + len(generations) * _longest_source(generations)


def _share_beyond(wanted: int, free: int) -> float:
    """The share of what is wanted that is not free."""
    return max(0, wanted - max(0, free)) / max(1, wanted)


def _longest_target(generations: Sequence[Generation]) -> int:
    """Room that the longest of what these may generate needs."""
    return _rounded(max((generation.settings.max_new_tokens for generation in generations), default=0))


def _longest_source(generations: Sequence[Generation]) -> int:
    """Room that the longest source of these needs."""
    return _rounded(max((len(generation.source) for generation in generations), default=0))
