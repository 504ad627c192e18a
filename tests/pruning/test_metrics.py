"""Scores of single predictions, and what a sample of them says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruning.metrics import (
    Scores,
    best_threshold,
    class_f1,
    difference_interval,
    interval,
    mean_of,
    normalize_answer,
    squad_v1_scores,
    squad_v2_scores,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Denver\nBroncos!", "denver broncos"),
        ("a an the", ""),
        ("theatre and an", "theatre and"),
        ("U.S.-based", "usbased"),
        ("the-end", "theend"),
        ("«Ödön»", "«ödön»"),
    ],
)
def test_normalisation_is_the_official_one(text, expected):
    """Case, ASCII punctuation, whole-word articles and white space do not count; other characters do."""
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos"], 1.0, 1.0),
        ("Denver", ["Denver Broncos"], 0.0, 2 / 3),
        ("Denver", ["Carolina Panthers", "Denver"], 1.0, 1.0),
        ("gold gold", ["gold"], 0.0, 2 / 3),  # a bag of words: the second one is an error
        ("Paris", ["London"], 0.0, 0.0),
        ("", ["London"], 0.0, 0.0),
        ("the", ["The"], 1.0, 0.0),  # v1.1: nothing in common is 0, even where both are empty
    ],
)
def test_squad_v1_scores_by_hand(prediction, answers, exact, f1):
    """Exact match and F1 are the best over the gold answers."""
    assert squad_v1_scores(prediction, answers) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("", [], 1.0, 1.0),
        ("Paris", [], 0.0, 0.0),
        ("the", [], 1.0, 1.0),  # normalises to nothing
        ("", ["Paris"], 0.0, 0.0),
        ("", ["the", "Paris"], 0.0, 0.0),  # a gold answer that normalises to nothing is left out
        ("", ["the"], 1.0, 1.0),
        ("in Paris", ["Paris", "Lyon"], 0.0, 2 / 3),
    ],
)
def test_squad_v2_scores_by_hand(prediction, answers, exact, f1):
    """Answering nothing is right exactly where there is no answer."""
    assert squad_v2_scores(prediction, answers) == pytest.approx((exact, f1))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_class_f1_is_the_harmonic_mean(pairs):
    """The ratio of sums is the harmonic mean of precision and recall."""
    predicted, labels = [int(p) for p, _ in pairs], [int(label) for _, label in pairs]
    true = sum(p and label for p, label in pairs)
    precision, recall = true / max(sum(predicted), 1), true / max(sum(labels), 1)
    expected = 200 * precision * recall / (precision + recall) if true else 0.0
    assert class_f1(predicted, labels, positive=1).percent() == pytest.approx(expected)


def test_interval_is_as_wide_as_theory_says():
    """For a mean of coin flips the interval is the value and about 1.96 standard errors on either side."""
    flips = np.random.default_rng(1).random(2_000) < 0.8
    found = interval(mean_of(flips))
    error = 100 * 1.96 * np.sqrt(flips.mean() * (1 - flips.mean()) / len(flips))
    assert (found.value - found.low, found.high - found.value) == pytest.approx((error, error), rel=0.15)


def test_interval_covers_the_truth():
    """Over repeated samples about 95 of 100 intervals hold the true value."""
    generator = np.random.default_rng(2)
    found = [interval(mean_of(generator.random(150) < 0.7), resamples=400, seed=seed) for seed in range(100)]
    assert 88 <= sum(each.low <= 70 <= each.high for each in found) <= 99


def test_interval_does_not_depend_on_the_chunks(monkeypatch):
    """A large sample is resampled in parts, each part drawn from the same stream."""
    scores = mean_of(np.arange(50) % 3 == 0)
    whole = interval(scores)
    monkeypatch.setattr("pruning.metrics._CHUNK", 70)
    assert interval(scores) == whole


def test_interval_of_a_part_counts_only_that_part():
    """Examples that a metric does not count change neither its value nor their number."""
    scores = mean_of([1.0, 0.0, 1.0, 1.0], counted=[True, True, False, False])
    assert (scores.percent(), scores.examples) == (50.0, 2)


def test_interval_survives_resamples_without_the_part():
    """A metric that counts one example of many is still given, with an interval of numbers."""
    found = interval(mean_of([1.0] * 10, counted=[True] + [False] * 9))
    assert (found.value, found.low, found.high) == (100.0, 100.0, 100.0)


def test_f1_of_a_label_that_never_occurs_is_zero():
    """F1 without a single positive is 0, not an error."""
    found = interval(class_f1([0, 0], [0, 0], positive=1))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_difference_of_a_metric_from_itself_is_exactly_zero():
    """The same scores differ by 0, in the value and at both ends."""
    scores = class_f1([1, 0, 1, 1], [1, 1, 0, 1], positive=1)
    found = difference_interval(scores, scores)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_pairing_narrows_the_interval():
    """Where two models err on the same examples, the paired interval is far narrower than either model's own."""
    ours = (np.random.default_rng(3).random(1_000) < 0.7).astype(float)
    theirs = ours.copy()
    theirs[np.flatnonzero(ours)[:20]] = 0.0
    paired, alone = difference_interval(mean_of(ours), mean_of(theirs)), interval(mean_of(ours))
    assert paired.value == pytest.approx(2.0)
    assert 0 < paired.low < 2.0 < paired.high
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_difference_changes_sign_with_the_order():
    """Swapping the two swaps the ends and the sign."""
    a, b = mean_of([1.0, 0.0, 1.0, 0.5]), mean_of([0.0, 0.0, 1.0, 1.0])
    forward, backward = difference_interval(a, b), difference_interval(b, a)
    assert (forward.value, forward.low, forward.high) == pytest.approx((-backward.value, -backward.high, -backward.low))


def test_scores_of_sums_are_percentages():
    """A metric is 100 times the ratio of the sums."""
    assert Scores(np.array([1.0, 2.0]), np.array([4.0, 4.0])).percent() == 37.5


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=1, max_size=12))
def test_best_threshold_is_best(rows):
    """No threshold between or beyond the margins scores better than the one found, ties of margins included."""
    margins, spans, answerable = [float(m) for m, _, _ in rows], [s for _, s, _ in rows], [a for _, _, a in rows]

    def score(threshold):
        return sum(span * has if margin <= threshold else not has for margin, span, has in zip(margins, spans, answerable, strict=True))

    # a question without an answer scores 0 for any span
    spans = [span * has for span, has in zip(spans, answerable, strict=True)]
    found = best_threshold(margins, spans, answerable)
    assert score(found) == pytest.approx(max(score(t / 2) for t in range(-9, 10)))
