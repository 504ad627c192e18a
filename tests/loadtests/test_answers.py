"""What counts as the same answer."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.answers import Judge, same

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1, 1) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=15)
@given(documents)
def test_an_answer_is_the_same_as_itself(document):
    """Whatever JSON it is, and however it is written."""
    assert same(document, document)
    assert Judge(json.dumps(document)).right(json.dumps(document, indent=1).encode())


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ([{"answer": "Ada", "score": 0.5004, "start": 3}], True),
        ([{"answer": "Ada", "score": 0.6, "start": 3}], False),
        ([{"answer": "Bob", "score": 0.5, "start": 3}], False),
        ([{"answer": "Ada", "score": 0.5, "start": 4}], False),
        ([{"answer": "Ada", "score": 0.5}], False),
        ([], False),
        ({"answer": "Ada"}, False),
    ],
)
def test_words_and_places_are_exact_and_scores_to_rounding(found, right):
    """Only a fraction may differ, and only by a thousandth."""
    judge = Judge(json.dumps([{"answer": "Ada", "score": 0.5, "start": 3}]))
    assert [judge.right(json.dumps(found).encode()) for _ in range(2)] == [right, right]


def test_what_is_no_json_is_wrong():
    """A torn answer is no answer."""
    assert not Judge("[1]").right(b"[1")
