"""Sentences that a text is taught to be copied from it by."""

from collections import Counter

import pytest

from pruning.copying import DELETED_WORDS, FEWEST_WORDS, MOST_WORDS, chosen_sentence, copies
from pruning.sentence_splitting import sentences

TEXT = (
    "Dr. Smith of the U.S. team said that the probe had landed on the comet. "
    "It was cold. "
    "The probe had landed on the comet at noon, a week before pictures are expected. "
    "Pictures of the comet are expected from the probe within a week or two."
)


def test_sentences_end_after_abbreviations_go_on() -> None:
    """A title or an abbreviation within a sentence does not end it."""
    assert [each.split()[0] for each in sentences(TEXT)] == ["Dr.", "It", "The", "Pictures"]


def test_best_sentence_shares_most_with_the_others() -> None:
    """What is taken has the words that the rest has too; what is too short for a summary is not taken."""
    assert chosen_sentence(sentences(TEXT), kind="best_sentence") == sentences(TEXT)[2]
    assert chosen_sentence(sentences(TEXT)[1:], kind="first_sentence") == sentences(TEXT)[2]
    assert chosen_sentence(["Too short."], kind="best_sentence") is None


@pytest.mark.parametrize("kind", ["best_sentence", "first_sentence"])
def test_targets_are_sentences_of_their_passages(kind: str) -> None:
    """A document and its passages each hold their target, whose length is a summary's, and a seed gives the same ones again."""
    text = " ".join([TEXT] * 3)
    pairs = list(copies(text, kind=kind, passages=3, seed=1))

    assert pairs == list(copies(text, kind=kind, passages=3, seed=1))
    assert 2 <= len(pairs) <= 4
    assert all(target in passage and passage in pairs[0][0] for passage, target in pairs)
    assert all(FEWEST_WORDS <= len(target.split()) <= MOST_WORDS for _, target in pairs)


def test_noise_takes_words_and_order_and_the_target_has_them() -> None:
    """What is read is some of the target's words, not in its order; a seed gives the same again, and one word is never taken."""
    text = " ".join([TEXT] * 3)
    pairs = list(copies(text, kind="denoised", passages=3, seed=1))

    assert pairs == list(copies(text, kind="denoised", passages=3, seed=1)) != list(copies(text, kind="denoised", passages=3, seed=2))
    assert pairs[0][1] == text
    assert all(target in text and not Counter(noised.split()) - Counter(target.split()) for noised, target in pairs)
    left = len(pairs[0][0].split()) / len(text.split())
    assert 1 - 2 * DELETED_WORDS < left < 1
    words = iter(text.split())
    assert not all(word in words for word in pairs[0][0].split())  # not a subsequence
    assert {noised for seed in range(20) for noised, _ in copies("Yes.", kind="denoised", passages=0, seed=seed)} == {"Yes."}
