"""Distributions of lengths: what a user types, and what is drawn."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.errors import TextsError
from loadtests.lengths import Fixed, Mix, Uniform, parse_lengths

tokens = st.integers(1, 4000)
distributions = st.one_of(
    st.builds(Fixed, tokens),
    st.tuples(tokens, tokens).map(lambda pair: Uniform(min(pair), max(pair))),
    st.lists(st.tuples(tokens, st.integers(1, 9).map(float)), min_size=1, max_size=4).map(lambda pairs: Mix(tuple(pairs))),
)


@settings(deadline=None)
@given(distributions)
def test_what_is_shown_can_be_typed(lengths):
    """A distribution is written as it is read."""
    assert parse_lengths(str(lengths)) == lengths


@settings(deadline=None)
@given(distributions, st.integers())
def test_a_seed_gives_the_same_lengths(lengths, seed):
    """Lengths are drawn from the seed alone, and are lengths of the distribution."""
    first, second = ([lengths.draw(source) for _ in range(5)] for source in (random.Random(seed), random.Random(seed)))
    assert first == second
    match lengths:
        case Fixed(length):
            assert set(first) == {length}
        case Uniform(shortest, longest):
            assert all(shortest <= length <= longest for length in first)
        case Mix(weights):
            assert set(first) <= dict(weights).keys()


@pytest.mark.parametrize("text", ["", "long", "0", "9-3", "0-3", "32:0", "32:1.2.3", "32:5;64:2"])
def test_nonsense_is_refused_in_one_line(text):
    """What is no distribution is named, and what was expected is said."""
    with pytest.raises(TextsError, match=r"length|weight"):
        parse_lengths(text)
