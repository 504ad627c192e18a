"""Texts of summaries: written as their documents write, and never taken back."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.generation.text import Wording, restored, stripped, tidied
from tests.service.builders import roberta_tokenizer

NEWS = (
    "The U.S. economy grew 3.5 % in May. \"It's well-known,\" said Anna O'Neil of AT&T (New York). "
    "NASA paid $1,000 for a Café. The economy of NASA grew. Yesterday it did not."
)


def taken_apart(text: str) -> str:
    """A text as an uncased tokenizer gives it back: no capitals, no accents, and spaces around every sign."""
    plain = "".join(each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn")
    return " ".join(re.findall(r"[^\W_]+|[^\w\s]|_", plain))


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
    assert restored(decoded, Wording.of(NEWS)) == expected


def test_beginning_of_a_sentence_says_nothing_about_a_word_that_stands_elsewhere():
    """A capital there counts for a word that is nowhere else only."""
    wording = Wording.of("Grew it so? It grew. Anna did.")
    assert (wording.words["grew"], wording.words["it"], wording.words["anna"]) == ("grew", "it", "Anna")


def test_most_usual_capitals_win():
    """Of several ways to write a word, the one that the document has most often."""
    assert restored("we may go in may", Wording.of("We go in May or May, or may not. So be it.")) == "We May go in May"


def test_capitals_of_the_model_stay_where_it_knows_them():
    """`tidied` joins what stands together in the document, and changes no letter of other words."""
    assert tidied("Anna ' s U . S . economy grew", Wording.of(NEWS)) == "Anna's U.S. economy grew"


@given(st.text(alphabet="aBc.,'\"$5- (\n", max_size=60), st.text(alphabet="abc.,'\"$5-( ", max_size=40))
def test_nothing_that_was_written_is_taken_back(document, summary):
    """However far a text has come, what is written of it is the beginning of what is written in the end."""
    wording, pieces = Wording.of(document), taken_apart(summary)
    for write in (restored, tidied):
        whole = write(pieces, wording)
        told = [write(pieces[:length], wording, ended=False) for length in range(len(pieces) + 1)]
        assert [part for part in told if not whole.startswith(part)] == []


@given(st.text(max_size=30))
def test_no_half_character_is_told(text):
    """Byte by byte, what is told is the beginning of the whole, and ends with a whole character."""
    tokenizer = roberta_tokenizer()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    whole = stripped(tokenizer.decode(ids))
    for length in range(len(ids) + 1):
        assert whole.startswith(stripped(tokenizer.decode(ids[:length]), ended=False))


def test_document_is_restored_from_its_own_words():
    """What a document says is written again as it stands there, but for spaces that it has around signs."""
    document = "Anna O'Neil of AT&T paid $1,000 for a well-known U.S. Café, and it's 3.5 km to New York."
    assert restored(taken_apart(document), Wording.of(document)) == document
