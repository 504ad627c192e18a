"""Texts that are written token by token are those that are written at once, and each token costs the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.generation.text import Wording
from service.tasks.base import Writer
from service.tasks.writing import DocumentWriter, PlainWriter
from service.tokenization import TextTokenizer
from tests.service.builders import bert_tokenizer, roberta_tokenizer
from tests.service.summarizing import LONG_DOCUMENT

BERT, BYTES = bert_tokenizer(), roberta_tokenizer()


class Counting(TextTokenizer):
    """Notes how many tokens are decoded at a time."""

    def __init__(self, tokenizer):
        """Around a tokenizer."""
        super().__init__(tokenizer)
        self.decoded = []

    def decode(self, ids):
        """See `TextTokenizer`."""
        self.decoded.append(len(ids))
        return super().decode(ids)


def writer_of(tokenizer: TextTokenizer, *, restore_case: bool = True) -> Writer:
    """The writer of a text with this tokenizer."""
    return DocumentWriter(tokenizer, Wording.of(LONG_DOCUMENT), restore_case) if tokenizer.spaced else PlainWriter(tokenizer)


@pytest.mark.parametrize("tokenizer", [BERT, BYTES], ids=["pieces", "bytes"])
@given(data=st.data(), restore_case=st.booleans())
def test_tokens_one_by_one_give_the_beginning_of_the_whole(tokenizer, data, restore_case):
    """Whatever tokens come, words within words, special ones and parts of characters, nothing told is taken back."""
    tokens = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=30))
    writer = writer_of(TextTokenizer(tokenizer), restore_case=restore_case)
    append, whole = writer.begin(), writer.whole(tokens)
    told = ""
    for token in tokens:
        told += append(token)
        assert whole.startswith(told)


@given(st.text(max_size=30))
def test_no_half_character_is_told(text):
    """Byte by byte all of a text is told, in whole characters, but for an end that is none."""
    tokenizer = TextTokenizer(BYTES)
    tokens = BYTES.encode(text, add_special_tokens=False).ids
    append = PlainWriter(tokenizer).begin()
    assert "".join(map(append, tokens)) == tokenizer.decode(tokens).strip().rstrip("\ufffd").rstrip()


@pytest.mark.parametrize("tokenizer", [BERT, BYTES], ids=["pieces", "bytes"])
def test_each_token_costs_the_same(tokenizer):
    """What was written is not decoded again: a call decodes a few tokens, however long the text is by then."""
    counting = Counting(tokenizer)
    tokens = tokenizer.encode(LONG_DOCUMENT * 4, add_special_tokens=False).ids
    append = writer_of(counting).begin()
    assert "".join(map(append, tokens))
    assert max(counting.decoded) < 10 < len(tokens)
