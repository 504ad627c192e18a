"""How one request goes on from the scores of its rows: one sequence, greedy or drawn, or beams.

Beam search is that of transformers 4.57 to the letter: twice as many continuations as beams are looked at (more with several end
tokens), those of the first half that end are candidates, scored by length, and the others go on. What is impossible has a score of -1e9
there and here, in float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from service.generation.scores import Best, Numbers, Scores
from service.generation.settings import GenerationSettings, SpecialTokens

FinishReason = Literal["eos", "length"]

_IMPOSSIBLE = np.float32(-1e9)


@dataclass(frozen=True)
class Generated:
    """What came of a request.

    Attributes:
        tokens: ids behind the start token, the last one included.
        finish_reason: "eos" if an end token came by itself, the last token allowed included; "length" if the limit ended it.
        score: sum of log-probabilities over the length to the power of the penalty, of beam search; None of one sequence.
    """

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    score: float | None = None


@dataclass(frozen=True)
class Continuation:
    """How rows go on, int64 [beams] each: beam i is what beam `parents[i]` was, and `tokens[i]`."""

    parents: Numbers
    tokens: Numbers


class Search(Protocol):
    """The state of one request.

    Attributes:
        beams: its rows.
        looks_at: how many of each row's best tokens it wants to see.
        result: what came of it, once it is done.
    """

    beams: int
    looks_at: int
    result: Generated | None

    def advance(self, best: Best, history: Numbers) -> Continuation:
        """Choose the next tokens.

        Args:
            best: the best tokens of each beam, [beams, looks_at or more].
            history: int64 [beams, length], what each beam holds, the start token first.
        """
        ...


def search_for(settings: GenerationSettings, special: SpecialTokens) -> Search:
    """A search that follows these settings."""
    return BeamSearch(settings, special) if settings.num_beams > 1 else OneSequence(settings, special)


class OneSequence:
    """Takes the best token each time; to draw instead is to hand in the drawn token as the best."""

    beams = 1
    looks_at = 1

    def __init__(self, settings: GenerationSettings, special: SpecialTokens) -> None:
        """Start from nothing."""
        self.result: Generated | None = None
        self._limit, self._special = settings.max_new_tokens, special

    def advance(self, best: Best, history: Numbers) -> Continuation:
        """See `Search`."""
        token, length = int(best.tokens[0, 0]), history.shape[1]
        if length == self._limit or token in self._special.end:
            tokens = (*history[0, 1:].tolist(), token)
            self.result = Generated(tokens, _finish_reason(tokens, self._limit, self._special))
        return Continuation(np.zeros(1, np.int64), np.array([token]))


@dataclass(frozen=True)
class _Candidate:
    """A sequence that ended, or None where there is none yet."""

    tokens: Numbers | None
    score: np.float32


class BeamSearch:
    """Beam search; see the module's docstring."""

    def __init__(self, settings: GenerationSettings, special: SpecialTokens) -> None:
        """Start from beams of which only the first counts, so that they do not all go the same way."""
        self.beams = settings.num_beams
        self.looks_at = max(2, 1 + len(special.end)) * self.beams
        self.result: Generated | None = None
        self._settings, self._special, self._end = settings, special, np.array(special.end, dtype=np.int64)
        self._running = np.full(self.beams, _IMPOSSIBLE)
        self._running[0] = 0
        self._ended = [_Candidate(None, _IMPOSSIBLE)] * self.beams

    def advance(self, best: Best, history: Numbers) -> Continuation:
        """See `Search`."""
        length = history.shape[1]
        totals = (best.scores[:, : self.looks_at] + self._running[:, np.newaxis]).ravel()
        order = _descending(totals)[: self.looks_at]
        totals, parents = totals[order], order // best.scores[:, : self.looks_at].shape[1]
        tokens = best.tokens[:, : self.looks_at].ravel()[order]
        stops = (tokens[:, np.newaxis] == self._end).any(axis=1) | (length == self._settings.max_new_tokens)

        going_on = np.where(stops, totals + _IMPOSSIBLE, totals)
        chosen = _descending(going_on)[: self.beams]
        self._running = going_on[chosen]
        self._collect(totals, stops, parents, tokens, history)
        if stops.all() or self._is_enough(length):
            self.result = self._best()
        return Continuation(parents[chosen], tokens[chosen])

    def _collect(self, totals: Scores, stops: NDArray[np.bool_], parents: Numbers, tokens: Numbers, history: Numbers) -> None:
        """Keep the best sequences that ended; only the first half of what was looked at may end."""
        scores = totals / np.float32(history.shape[1] ** self._settings.length_penalty)
        new = [
            _Candidate(np.append(history[parents[place], 1:], tokens[place]), scores[place])
            for place in np.flatnonzero(stops[: self.beams])
        ]
        self._ended = sorted([*self._ended, *new], key=lambda candidate: -candidate.score)[: self.beams]

    def _is_enough(self, length: int) -> bool:
        """Whether nothing better than what ended is to be expected; `length` tokens are generated now."""
        settings, full = self._settings, all(candidate.tokens is not None for candidate in self._ended)
        if full and settings.early_stopping is True:
            return True
        longest = settings.max_new_tokens if settings.early_stopping == "never" and settings.length_penalty > 0 else length
        hoped_for = self._running[0] / np.float32(longest**settings.length_penalty)
        return not hoped_for > (self._ended[-1].score if full else _IMPOSSIBLE)

    def _best(self) -> Generated:
        best = self._ended[0]
        tokens = () if best.tokens is None else tuple(best.tokens.tolist())
        return Generated(tokens, _finish_reason(tokens, self._settings.max_new_tokens, self._special), float(best.score))


def _finish_reason(tokens: Sequence[int], limit: int, special: SpecialTokens) -> FinishReason:
    """What ended a sequence: at the limit an end token counts where none is forced."""
    by_itself = len(tokens) < limit or (tokens[-1] in special.end and special.forced_last is None)
    return "eos" if by_itself else "length"


def _descending(scores: Scores) -> Numbers:
    """Places from the highest score to the lowest, equal ones in their order."""
    return np.argsort(-scores, kind="stable")
