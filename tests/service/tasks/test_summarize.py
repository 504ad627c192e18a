"""How a document is divided, and what becomes of parts that say nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.artifact import read_manifest
from service.errors import RequestError
from service.generation import Generated
from service.tasks.base import Round
from service.tasks.summarize import Summarization, SummarizeRequest, SummarizeResponse, cuts
from service.tokenization import TextTokenizer
from tests.service.builders import bert_tokenizer
from tests.service.summarizing import DOCUMENT, LONG_DOCUMENT, write_summarizer


@given(st.lists(st.integers(0, 400), unique=True).map(sorted), st.integers(1, 400), st.integers(1, 120))
def test_parts_fit_and_none_is_tiny(breaks, tokens, room):
    """Wherever sentences begin, parts have at most the room there is, and of several none has less than about a quarter of it."""
    starts = cuts(np.array(breaks, dtype=np.int64), tokens, room)
    lengths = np.diff([*starts, tokens])
    assert max(lengths) <= room
    assert len(lengths) == 1 or min(lengths) >= room // 4 - 1


@pytest.mark.parametrize(
    ("breaks", "tokens", "expected"),
    [([0, 1, 2], 1000, [0, 500]), ([0, 480], 1000, [0, 480, 740]), ([499], 501, [0, 251]), ([], 300, [0])],
)
def test_breaks_near_equal_parts_are_taken(breaks, tokens, expected):
    """A break that would leave a rest of a few tokens is passed over; one near the middle is not."""
    assert cuts(np.array(breaks, dtype=np.int64), tokens, 500) == expected


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Of a tiny model."""
    return read_manifest(write_summarizer(tmp_path_factory.mktemp("models") / "summarize/dense"))


def test_summaries_that_do_not_get_fewer_are_cut_only_where_that_is_allowed(manifest):
    """Where the parts' summaries take as many parts again, they are cut to one, or refused if nothing may be cut."""
    task, tokenizer = Summarization(), TextTokenizer(bert_tokenizer())
    request = SummarizeRequest(text=LONG_DOCUMENT, long_text="map_reduce")
    rows = task.preprocess(request, tokenizer, manifest)
    wordy = Round(rows, [Generated((3,), "eos")] * len(rows)), [LONG_DOCUMENT] * len(rows)
    (cut,) = task.postprocess(request, [wordy[0]], wordy[1], tokenizer, manifest)
    assert cut.truncated
    uncut = request.model_copy(update={"truncation": False})
    with pytest.raises(RequestError, match="do not get fewer") as refused:
        task.postprocess(uncut, [wordy[0]], wordy[1], tokenizer, manifest)
    assert refused.value.field == "text"
    fitting = task.postprocess(uncut, [wordy[0]], [DOCUMENT, *[""] * (len(rows) - 1)], tokenizer, manifest)
    assert [row.truncated for row in fitting] == [False]


def test_parts_that_say_nothing_have_an_empty_summary(manifest):
    """Where no part has a summary there is nothing to read in another round."""
    task, tokenizer = Summarization(), TextTokenizer(bert_tokenizer())
    request = SummarizeRequest(text=LONG_DOCUMENT, long_text="map_reduce")
    rows = task.preprocess(request, tokenizer, manifest)
    silent = Round(rows, [Generated((3,), "eos")] * len(rows))
    response = task.postprocess(request, [silent], [""] * len(rows), tokenizer, manifest)
    assert isinstance(response, SummarizeResponse)
    assert (response.summary, response.windows) == ("", len(rows))
    (source,) = task.postprocess(request, [silent], ["", DOCUMENT, *[""] * (len(rows) - 2)], tokenizer, manifest)
    assert source.input_ids.tolist() == tokenizer.row(DOCUMENT, max_length=99).input_ids.tolist()
