"""Rows hold the right tokens at the right places in the text."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ArtifactError, RequestError
from service.tokenization import TextTokenizer, longest_first, window_starts
from tests.service.builders import bert_tokenizer, roberta_tokenizer

BUILDERS = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}
TOKENIZERS = {name: TextTokenizer(build()) for name, build in BUILDERS.items()}
kinds = st.sampled_from(sorted(BUILDERS))
# Words of the vocabulary, emoji of several code points, combining marks, CJK, right-to-left, control characters.
PIECES = [*"abc wrote.?", "é", "e\u0301", "日", "本", "🙂", "👩\u200d👧", "🏳\ufe0f\u200d🌈", "ß", "ש", "\u200b", "\n", "\0", "ﬁ"]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join)


@given(kinds, texts, texts)
def test_offsets_are_code_points_of_their_own_text(kind, question, context):
    """Each token of the context lies inside it, in order, and the characters of known words are found at their offsets."""
    row = TOKENIZERS[kind].row(question, context, max_length=10_000)
    offsets = row.offsets[row.context_mask]
    assert np.all((offsets >= 0) & (offsets <= len(context)))
    assert np.all(np.diff(offsets[:, 0]) >= 0)
    assert np.all(offsets[:, 1] >= offsets[:, 0])


@pytest.mark.parametrize("kind", sorted(BUILDERS))
@pytest.mark.parametrize("word", ["本", "🙂", "café", "in"])
def test_a_word_is_found_at_its_offsets(kind, word):
    """Characters outside the first plane count once, so that slices of Python strings fit."""
    context = f"👩‍👩‍👧 日🙂 e\u0301 ada {word} ."
    row = TOKENIZERS[kind].row("who", context, max_length=1000)
    place = context.rindex(word)
    offsets = row.offsets[row.context_mask]
    assert place in offsets[:, 0]
    assert place + len(word) in offsets[:, 1]


@given(kinds, texts, texts, st.integers(0, 6), st.integers(1, 12))
def test_windows_equal_those_of_the_tokenizers_library(kind, question, context, stride, extra):
    """Slicing one tokenisation gives what truncating with a stride gives."""
    reference = BUILDERS[kind]()
    reference.encode_special_tokens = True
    full = reference.encode(question, context)
    context_tokens = full.sequence_ids.count(1)
    max_length = len(full.ids) - context_tokens + stride + extra
    reference.enable_truncation(max_length, stride=stride, strategy="only_second")
    first = reference.encode(question, context)
    rows = TOKENIZERS[kind].windows(question, context, max_length=max_length, stride=stride, default_stride=0, most=10_000)
    for row, expected in zip(rows, [first, *first.overflowing], strict=True):
        assert row.input_ids.tolist() == expected.ids
        assert row.token_type_ids.tolist() == expected.type_ids
        assert row.offsets.tolist() == [list(pair) for pair in expected.offsets]
        assert row.context_mask.tolist() == [index == 1 for index in expected.sequence_ids]


@given(st.integers(0, 300), st.integers(1, 50), st.data())
def test_windows_cover_every_token_with_the_stated_overlap(tokens, room, data):
    """Every token is in a window, neighbours share `overlap` tokens, and only the last window reaches the end."""
    overlap = data.draw(st.integers(0, room - 1))
    starts = window_starts(tokens, room, overlap)
    assert {token for start in starts for token in range(start, min(start + room, tokens))} == set(range(tokens))
    assert all(right - left == room - overlap for left, right in pairwise(starts))
    assert all(start + room < tokens for start in starts[:-1])


@given(kinds, texts, st.none() | texts, st.integers(6, 40))
def test_cut_row_equals_that_of_the_tokenizers_library(kind, text, pair, max_length):
    """A text or pair that is too long is cut as the library cuts the longest first."""
    reference = BUILDERS[kind]()
    reference.encode_special_tokens = True
    whole = len(reference.encode(text, pair).ids)
    reference.enable_truncation(max_length, strategy="longest_first")
    row = TOKENIZERS[kind].row(text, pair, max_length=max_length)
    assert row.input_ids.tolist() == reference.encode(text, pair).ids
    assert row.truncated == (whole > max_length)


@given(st.tuples(st.integers(0, 50), st.integers(0, 50)), st.integers(0, 60))
def test_longest_first_fits_and_wastes_nothing(counts, budget):
    """What is kept fits, fills the budget, and never cuts the shorter text below half of it."""
    kept = longest_first(counts, budget)
    assert sum(kept) == min(sum(counts), budget)
    assert all(0 <= left <= count for left, count in zip(kept, counts, strict=True))
    assert min(kept) >= min(*counts, budget // 2)


def test_feed_is_one_row_of_int64(text_tokenizer):
    """The graph gets int64 [1, sequence] for each of its possible inputs."""
    row = text_tokenizer.row("ada wrote", "it", max_length=20)
    feed = row.feed()
    assert set(feed) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(array.dtype == np.int64 and array.shape == (1, len(row)) for array in feed.values())


@pytest.mark.parametrize(("kind", "written"), [("bert", "[SEP]"), ("roberta", "</s>")])
def test_special_token_written_in_a_text_is_text(kind, written):
    """A client cannot end the context by writing the separator."""
    row = TOKENIZERS[kind].row("who", f"ada {written} wrote", max_length=100)
    separator = row.input_ids[-1]
    assert separator not in row.input_ids[row.context_mask]


def test_question_longer_than_the_window_is_refused(text_tokenizer):
    """A question that leaves no room for context is refused, with the two lengths."""
    with pytest.raises(RequestError, match="window of 8; shorten the question"):
        text_tokenizer.windows("a b c d e f", "it", max_length=8, stride=None, default_stride=0, most=10)


def test_stride_that_leaves_no_step_is_refused(text_tokenizer):
    """A stride as large as the room would never move on."""
    room = 20 - len(text_tokenizer.row("a", "b", max_length=99)) + 1
    with pytest.raises(RequestError, match=f"choose a stride below {room}"):
        text_tokenizer.windows("a", "b", max_length=20, stride=room, default_stride=0, most=10)


def test_default_stride_gives_way_to_a_long_question(text_tokenizer):
    """The manifest's own stride never makes a request fail."""
    assert text_tokenizer.windows("a", "b a b a b a b a", max_length=9, stride=None, default_stride=500, most=99)


def test_too_many_windows_are_refused(text_tokenizer):
    """The number of windows is bounded."""
    with pytest.raises(RequestError, match="at most 3 are taken"):
        text_tokenizer.windows("a", "b a " * 100, max_length=12, stride=None, default_stride=0, most=3)


@pytest.mark.parametrize("before", [1, 2000])
def test_lone_surrogate_is_refused(text_tokenizer, before):
    """Text that is not Unicode is the request's fault, however long it is."""
    with pytest.raises(RequestError, match="surrogate"):
        text_tokenizer.row("ada " * before + "\ud800", max_length=20)


@given(kinds, texts, st.none() | texts)
def test_long_texts_are_read_as_short_ones_are(kind, text, pair):
    """What is encoded as a batch of one has the tokens and places that the tokenizers library gives."""
    reference = BUILDERS[kind]()
    reference.encode_special_tokens = True
    text *= 5000 // len(text)
    expected = reference.encode(text, pair)
    row = TOKENIZERS[kind].row(text, pair, max_length=100_000)
    assert row.input_ids.tolist() == expected.ids
    assert row.offsets.tolist() == [list(place) for place in expected.offsets]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff"])
def test_damaged_tokenizer_is_one_clear_line(tmp_path, content):
    """A file that is no tokenizer is refused by name."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        TextTokenizer.from_file(path)
