"""Rules over logits equal transformers' processors row by row; the best tokens and draws are what sorting everything gives."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    ForcedBOSTokenLogitsProcessor,
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from service.generation.scores import History, Rules, apply_rules, best_tokens, draw, log_softmax
from service.generation.settings import GenerationSettings, SpecialTokens

VOCABULARY = 12
LONGEST = 15


class EvenNumbers:
    """In the place of a generator: numbers that are spread evenly over 0 to 1."""

    def __init__(self, count: int) -> None:
        self._numbers = iter((np.arange(count) + 0.5) / count)

    def random(self) -> float:
        """The next one."""
        return float(next(self._numbers))


@st.composite
def rows(draw: st.DrawFn) -> tuple[History, list[GenerationSettings]]:
    """Rows of different lengths, over few tokens so that they repeat themselves, each with settings of its own."""
    count = draw(st.integers(1, 4))
    lengths = draw(st.lists(st.integers(1, LONGEST), min_size=count, max_size=count))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    settings = [
        GenerationSettings(
            max_new_tokens=draw(st.integers(length, LONGEST)),
            min_new_tokens=draw(st.integers(0, length)),
            no_repeat_ngram_size=draw(st.integers(0, 4)),
            repetition_penalty=draw(st.sampled_from([1.0, 1.5, 0.5])),
        )
        for length in lengths
    ]
    return History(rng.integers(0, 4, (count, LONGEST)), np.array(lengths)), settings


def by_transformers(row: torch.Tensor, scores: torch.Tensor, settings: GenerationSettings, special: SpecialTokens) -> np.ndarray:
    """Scores [vocabulary] of one row after transformers' processors, in its order."""
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(settings.repetition_penalty)])
    if settings.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    processors.append(MinNewTokensLengthLogitsProcessor(1, settings.fewest_new_tokens, list(special.end)))
    if special.forced_first is not None:
        processors.append(ForcedBOSTokenLogitsProcessor(special.forced_first))
    if special.forced_last is not None:
        processors.append(ForcedEOSTokenLogitsProcessor(settings.max_new_tokens + 1, special.forced_last))
    return processors(row[None], scores[None])[0].numpy()


@given(rows(), st.sampled_from([(2,), (2, 5)]), st.sampled_from([None, 3]), st.sampled_from([None, 2]), st.integers(0, 1000))
def test_rules_equal_transformers(
    drawn: tuple[History, list[GenerationSettings]], end: tuple[int, ...], first: int | None, last: int | None, seed: int
):
    """Every row gets, bit for bit, what transformers makes of it alone."""
    history, settings = drawn
    special = SpecialTokens(start=2, end=end, forced_first=first, forced_last=last)
    scores = np.random.default_rng(seed).normal(size=(len(settings), VOCABULARY)).astype(np.float32)
    expected = [
        by_transformers(torch.from_numpy(history.tokens[row, : history.lengths[row]]), torch.from_numpy(scores[row]), own, special)
        for row, own in enumerate(settings)
    ]
    apply_rules(scores, history, Rules.of(settings), special)
    np.testing.assert_array_equal(scores, np.stack(expected))


@given(st.integers(1, 3), st.integers(20, 6000), st.integers(1, 12), st.booleans(), st.integers(0, 1000))
def test_best_tokens_equal_sorting(count: int, vocabulary: int, looks_at: int, ties: bool, seed: int):
    """The best scores are those that sorting gives, in order, with tokens that have them; the lowest token first where they are equal."""
    scores = np.random.default_rng(seed).normal(size=(count, vocabulary)).astype(np.float32)
    if ties:
        scores = np.round(scores)
    scores[:, ::7] = -np.inf
    best = best_tokens(scores, looks_at)
    np.testing.assert_array_equal(best.scores, -np.sort(-scores, axis=1)[:, :looks_at])
    np.testing.assert_array_equal(np.take_along_axis(scores, best.tokens, axis=1), best.scores)
    ordered = (np.diff(best.scores) < 0) | (np.diff(best.tokens) > 0)
    assert ordered.all()


@given(st.integers(0, 1000))
def test_log_softmax_equals_torch(seed: int):
    """To the rounding of float32, whatever the scale of the logits; rows that were not named stay as they are."""
    logits = (np.random.default_rng(seed).normal(size=(3, 500)) * 30).astype(np.float32)
    expected = torch.from_numpy(logits.copy()).log_softmax(-1).numpy()
    expected[1] = logits[1]
    log_softmax(logits, [0, 2])
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@given(
    st.integers(2, 400),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0, 1, 5, 50]),
    st.sampled_from([1.0, 0.9, 0.3]),
    st.integers(0, 1000),
)
def test_draws_follow_the_distribution_of_transformers(vocabulary: int, temperature: float, top_k: int, top_p: float, seed: int):
    """Drawn with random numbers that are spread evenly, each token comes as often as its probability says."""
    scores = np.random.default_rng(seed).normal(size=vocabulary).astype(np.float32) * 2
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    expected = warpers(torch.zeros(1, 1), torch.from_numpy(scores)[None]).softmax(-1)[0].numpy()
    draws, settings = 500, GenerationSettings(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    even = EvenNumbers(draws)
    counts = np.bincount([draw(scores, settings, even) for _ in range(draws)], minlength=vocabulary)
    assert np.abs(counts - draws * expected).max() <= 1.01
    assert not counts[expected == 0].any()


def test_what_is_forbidden_is_never_drawn():
    """A token of score minus infinity does not come, be it the only other one."""
    scores = np.array([-np.inf, 0.0, -np.inf], dtype=np.float32)
    assert {draw(scores, GenerationSettings(do_sample=True), np.random.default_rng(seed)) for seed in range(50)} == {1}
