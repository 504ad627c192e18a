"""Texts of summaries: written as their documents write, and never taken back."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.generation.text import Rewriting, Stripping, Wording

NEWS = (
    "The U.S. economy grew 3.5 % in May. \"It's well-known,\" said Anna O'Neil of AT&T (New York). "
    "NASA paid $1,000 for a Café. The economy of NASA grew. Yesterday it did not."
)


def taken_apart(text: str) -> str:
    """A text as an uncased tokenizer gives it back: no capitals, no accents, and spaces around every sign."""
    plain = "".join(each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn")
    return " ".join(re.findall(r"[^\W_]+|[^\w\s]|_", plain))


def rewritten(text: str, document: str, *, restore_case: bool = True) -> str:
    """A whole text as its document would write it."""
    return Rewriting(Wording.of(document), restore_case=restore_case).add(text.split(), ended=True)


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        ("the u . s . economy grew 3 . 5 %", "The U.S. economy grew 3.5%"),
        ("nasa grew . the economy did not", "NASA grew. The economy did not"),
        ("it is well - known : it ' s a cafe", "It is well-known: it's a Café"),
        ("at & t paid $ 1 , 000 , said anna o ' neil", "AT&T paid $1,000, said Anna O'Neil"),
        ("the states ' economy ( new york ) grew", "The states' economy (New York) grew"),
        ('" it did " , said anna ; " it grew "', '"It did", said Anna; "it grew"'),
        ("they ' ve paid 2 . 75 for it", "They've paid 2.75 for it"),
        ("", ""),
    ],
)
def test_words_are_written_as_in_the_document(decoded, expected):
    """Capitals, accents and what stands in one piece come from the document; signs that it does not have cling as is usual."""
    assert rewritten(decoded, NEWS) == expected


def test_beginning_of_a_sentence_says_nothing_about_a_word_that_stands_elsewhere():
    """A capital there counts for a word that is nowhere else only."""
    wording = Wording.of("Grew it so? It grew. Anna did.")
    assert (wording.words["grew"], wording.words["it"], wording.words["anna"]) == ("grew", "it", "Anna")


def test_most_usual_capitals_win():
    """Of several ways to write a word, the one that the document has most often."""
    assert rewritten("we may go in may", "We go in May or May, or may not. So be it.") == "We May go in May"


def test_capitals_of_the_model_stay_where_it_knows_them():
    """Where case is not restored, what stands together in the document is joined, and no letter of other words changes."""
    assert rewritten("Anna ' s U . S . economy grew", NEWS, restore_case=False) == "Anna's U.S. economy grew"


@given(st.text(alphabet="aBc.,'\"$5- (\n", max_size=60), st.text(alphabet="abc.,'\"$5-( ", max_size=40), st.booleans())
def test_nothing_that_was_written_is_taken_back(document, summary, restore_case):
    """Piece by piece the same is written as at once, but for an end that may still change."""
    text, pieces = Rewriting(Wording.of(document), restore_case=restore_case), taken_apart(summary).split()
    told = "".join(text.add([piece]) for piece in pieces)
    assert told + text.add([], ended=True) == rewritten(" ".join(pieces), document, restore_case=restore_case)


@given(st.lists(st.text(alphabet="ab \n", max_size=4)))
def test_spaces_at_the_end_wait_for_what_follows(parts):
    """Bit by bit, a text begins with no space, ends with none, and loses none inside."""
    text = Stripping()
    assert "".join(map(text.add, parts)) == "".join(parts).strip()


def test_document_is_restored_from_its_own_words():
    """What a document says is written again as it stands there, but for spaces that it has around signs."""
    document = "Anna O'Neil of AT&T paid $1,000 for a well-known U.S. Café, and it's 3.5 km to New York."
    assert rewritten(taken_apart(document), document) == document
