"""What training data and held-out data share: passages of documents, and summaries that training has had for a target."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pruning.examples import Example, SummaryExample

SHARED_WORDS = 16
_WORD = re.compile(r"\w+")


def without_documents(examples: Sequence[Example], held_out: Iterable[Example]) -> list[Example]:
    """The examples whose document shares no passage with those held out; examples of other tasks all stay.

    A passage is `SHARED_WORDS` words in a row, whatever their case and the signs between them. The examples' documents are looked at from
    every `SHARED_WORDS // 2`-th word on, so that a passage half as long again is always found.
    """
    known = {passage for each in held_out if isinstance(each, SummaryExample) for passage in _passages_of(each.document, step=1)}
    documents = {each.document for each in examples if isinstance(each, SummaryExample)}
    shared = {text for text in documents if not known.isdisjoint(_passages_of(text, step=SHARED_WORDS // 2))} if known else set()
    return [each for each in examples if not (isinstance(each, SummaryExample) and each.document in shared)]


def unseen_summaries(examples: Iterable[Example], trained: Iterable[Example]) -> list[SummaryExample]:
    """The documents with the summaries that no training document has for a target; a document left with none is left out.

    Summaries are the same when their words are, whatever their case and the signs between them.
    """
    seen = {_words(text) for each in trained if isinstance(each, SummaryExample) for text in each.summaries}
    unseen = [
        replace(each, summaries=tuple(text for text in each.summaries if _words(text) not in seen))
        for each in examples
        if isinstance(each, SummaryExample)
    ]
    return [each for each in unseen if each.summaries]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def _passages_of(text: str, *, step: int) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    for start in range(0, max(1, len(words) - SHARED_WORDS + 1), step):
        yield " ".join(words[start : start + SHARED_WORDS])
