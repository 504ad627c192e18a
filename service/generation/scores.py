"""What is done to the logits of a step before tokens are chosen: all rows at once, in float32, in transformers' order.

Repetition penalty, repeated n-grams, the minimal length, the forced first and last token. Beam search hands in log-probabilities, where
greedy search and sampling hand in logits, as transformers does: to the repetition penalty that is a difference.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from service.generation.settings import GenerationSettings, SpecialTokens

Scores = NDArray[np.float32]
Numbers = NDArray[np.int64]

_CHUNK = 256


@dataclass
class Rules:
    """What each row is held to, one number per row.

    Attributes:
        repetition_penalty: float32; 1 changes nothing.
        ngram_size: int64; 0 forbids nothing.
        fewest: int64, tokens before the one that ends the sequence.
        limit: int64, most tokens.
    """

    repetition_penalty: Scores
    ngram_size: Numbers
    fewest: Numbers
    limit: Numbers

    @classmethod
    def of(cls, settings: list[GenerationSettings]) -> Self:
        """The rules of rows with these settings."""
        return cls(
            repetition_penalty=np.array([each.repetition_penalty for each in settings], dtype=np.float32),
            ngram_size=np.array([each.no_repeat_ngram_size for each in settings], dtype=np.int64),
            fewest=np.array([each.fewest_new_tokens for each in settings], dtype=np.int64),
            limit=np.array([each.max_new_tokens for each in settings], dtype=np.int64),
        )


class History(NamedTuple):
    """What each row holds so far.

    Attributes:
        tokens: int64 [rows, longest], the start token first; behind a row's length anything may stand.
        lengths: int64 [rows], the start token counted.
    """

    tokens: Numbers
    lengths: Numbers


class Best(NamedTuple):
    """The best tokens of each row, best first: scores float32 and token ids int64 [rows, count]."""

    scores: Scores
    tokens: Numbers


def log_softmax(scores: Scores, rows: Iterable[int]) -> None:
    """Change these rows of logits [rows, vocabulary] in place to log-probabilities, one at a time: a row fits into a processor's cache."""
    exponentials = np.empty(scores.shape[1], dtype=scores.dtype)
    for row in rows:
        values = scores[row]
        values -= values.max()
        np.exp(values, out=exponentials)
        values -= np.log(exponentials.sum())


def apply_rules(scores: Scores, history: History, rules: Rules, special: SpecialTokens) -> None:
    """Change scores [rows, vocabulary] in place to what the rules allow."""
    penalize_repetition(scores, history, rules.repetition_penalty)
    forbid_repeated_ngrams(scores, history, rules.ngram_size)
    generated = history.lengths - 1
    scores[np.ix_(np.flatnonzero(generated < rules.fewest), np.array(special.end, dtype=np.int64))] = -np.inf
    if special.forced_first is not None:
        _force(scores, generated == 0, special.forced_first)
    if special.forced_last is not None:
        _force(scores, generated == rules.limit - 1, special.forced_last)


def penalize_repetition(scores: Scores, history: History, penalties: Scores) -> None:
    """Divide what is positive, and multiply what is negative, of the tokens that a row holds (Keskar et al., 2019, arXiv:1909.05858)."""
    rows = np.flatnonzero(penalties != 1)
    if not rows.size:
        return
    longest = history.lengths[rows].max()
    held = np.arange(longest) < history.lengths[rows, np.newaxis]
    tokens = np.where(held, history.tokens[rows, :longest], history.tokens[rows, :1])
    found, by = scores[rows[:, np.newaxis], tokens], penalties[rows, np.newaxis]
    scores[rows[:, np.newaxis], tokens] = np.where(found < 0, found * by, found / by)


def forbid_repeated_ngrams(scores: Scores, history: History, sizes: Numbers) -> None:
    """Forbid each token that would end a sequence of `sizes[row]` tokens that the row holds already; 0 forbids nothing."""
    for size in np.unique(sizes[(sizes > 0) & (history.lengths >= sizes)]):
        rows = np.flatnonzero((sizes == size) & (history.lengths >= size))
        tokens, lengths = history.tokens[rows, : history.lengths[rows].max()], history.lengths[rows, np.newaxis]
        last = np.take_along_axis(tokens, lengths - size + 1 + np.arange(size - 1), axis=1)  # [rows, size - 1]
        starts = sliding_window_view(tokens, size, axis=1)  # [rows, starts, size]
        repeated = (starts[..., :-1] == last[:, np.newaxis]).all(axis=2) & (np.arange(starts.shape[1]) + size <= lengths)
        row, start = np.nonzero(repeated)
        scores[rows[row], starts[row, start, -1]] = -np.inf


def best_tokens(scores: Scores, count: int) -> Best:
    """The `count` best tokens of each row; of equal ones the lower id comes first, but which of those at the end are left out is open.

    Scores are searched by chunks: what is among the best is in one of the `count` chunks with the highest maximum.
    """
    rows, vocabulary = scores.shape
    chunks = vocabulary // _CHUNK
    if count == 1:
        tokens = scores.argmax(axis=1)[:, np.newaxis]
    elif chunks <= 2 * count:
        tokens = _sorted_best(scores, count)
    else:
        maxima = sliding_window_view(scores, _CHUNK, axis=1)[:, ::_CHUNK].max(axis=2)
        chosen = np.sort(np.argpartition(-maxima, count - 1, axis=1)[:, :count], axis=1)
        inside = (chosen[..., np.newaxis] * _CHUNK + np.arange(_CHUNK)).reshape(rows, -1)
        rest = np.broadcast_to(np.arange(chunks * _CHUNK, vocabulary), (rows, vocabulary - chunks * _CHUNK))
        candidates = np.concatenate([inside, rest], axis=1)
        places = _sorted_best(np.take_along_axis(scores, candidates, axis=1), count)
        tokens = np.take_along_axis(candidates, places, axis=1)
    return Best(np.take_along_axis(scores, tokens, axis=1), tokens)


def draw(scores: Scores, settings: GenerationSettings, generator: np.random.Generator) -> int:
    """Draw a token from scores [vocabulary]: temperature, the `top_k` best, the nucleus of `top_p` (Holtzman et al., 2020, 1904.09751)."""
    scores = scores / np.float32(settings.temperature)
    order = np.arange(len(scores))
    if 0 < settings.top_k < len(scores):
        order = np.flatnonzero(scores >= -np.partition(-scores, settings.top_k - 1)[settings.top_k - 1])
    order = order[np.argsort(-scores[order], kind="stable")]
    probabilities = np.exp(scores[order].astype(np.float64) - scores[order[0]])
    sums = np.cumsum(probabilities)
    before = sums - probabilities
    kept = int(np.count_nonzero(before < settings.top_p * sums[-1])) if settings.top_p < 1 else len(order)
    return int(order[min(np.searchsorted(sums[:kept], generator.random() * sums[kept - 1], side="right"), kept - 1)])


def _sorted_best(scores: Scores, count: int) -> Numbers:
    """Places of the `count` highest scores of each row, best first, the lower place first where they are equal."""
    count = min(count, scores.shape[1])
    places = np.sort(np.argpartition(-scores, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(scores, places, axis=1), axis=1, kind="stable")
    return np.take_along_axis(places, order, axis=1)


def _force(scores: Scores, rows: NDArray[np.bool_], token: int) -> None:
    scores[rows] = -np.inf
    scores[rows, token] = 0
