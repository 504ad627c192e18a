"""From the tokens of a summary to its text: spaces and capitals as its document has them.

A tokenizer like BERT's takes words apart at punctuation and may know no capitals: it gives "the u . s . economy grew 3 . 5 %". What the
document says is how such things are written: "U.S." and "3.5" are in it in one piece, and each word has the capitals that it has most
often there. The text is written from left to right, and nothing that was written changes when tokens follow; so it can be streamed.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

LONGEST_COMPOUND = 9
CLINGS_LEFT = frozenset(".,!?;:%)]}\u2019\u201d\u2026")
CLINGS_RIGHT = frozenset("([{\u201c\u2018$£€#@")
CLINGS_BOTH = frozenset("/_")
CONTRACTED = frozenset({"s", "t", "m", "d", "re", "ve", "ll"})
APOSTROPHES = frozenset("'\u2019")
SENTENCE_ENDS = frozenset(".!?")
_FUNCTION_WORDS = """
a after an and as at before but by for from he her his how if in it its my no not of on or our she so that the their there these they
this those to we what when where while who why with you
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words that are hardly ever names, however they stand at the beginning of a sentence."""

_PIECE = re.compile(r"[^\W_]+|[^\w\s]|_")
_SENTENCE_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*$")


@dataclass(frozen=True)
class _Part:
    """A word, a sign or a compound, and the piece that follows; None at the end."""

    text: str
    following: str | None


@dataclass(frozen=True)
class Wording:
    """How a document writes its words.

    Attributes:
        words: by the word without capitals: with those that it has most often.
        compounds: what stands in one piece, by its words and signs without capitals.
        beginnings: what compounds begin with, of one piece or more.
    """

    words: Mapping[str, str] = field(default_factory=dict)
    compounds: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    beginnings: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def of(cls, document: str) -> Self:
        """Read a document. A word at the beginning of a sentence counts only where it stands nowhere else and may be a name.

        Words of what stands in one piece count in compounds with hyphens alone: the "S" of "U.S." is no word.
        """
        inside, first = dict[str, Counter[str]](), dict[str, Counter[str]]()
        compounds = dict[tuple[str, ...], Counter[str]]()
        starts = True
        for chunk in document.split():
            pieces = _PIECE.findall(chunk)
            joined = list(_compounds(pieces))
            for compound in joined:
                compounds.setdefault(tuple(map(_plain, compound)), Counter())["".join(compound)] += 1
            alone = not joined or "-" in pieces
            for piece in filter(_is_word, pieces):
                word = _plain(piece)
                if alone and not (starts and word in FUNCTION_WORDS):
                    (first if starts else inside).setdefault(word, Counter())[piece] += 1
                starts = False
            starts = _ends_sentence(chunk) or (starts and not any(map(_is_word, pieces)))
        return cls(
            words={word: _most_usual(counts) for word, counts in {**first, **inside}.items()},
            compounds={pieces: _most_usual(counts) for pieces, counts in compounds.items()},
            beginnings=frozenset(pieces[:length] for pieces in compounds for length in range(1, len(pieces))),
        )


class Rewriting:
    """A text on its way from words and signs to what its document would write."""

    def __init__(self, wording: Wording, *, restore_case: bool) -> None:
        """Start with nothing.

        Args:
            wording: of the document.
            restore_case: whether capitals are the document's too, and sentences begin with one; otherwise they stay as they come.
        """
        self._wording = wording if restore_case else Wording(compounds=wording.compounds, beginnings=wording.beginnings)
        self._restore_case = restore_case
        self._pieces: list[str] = []
        self._clings, self._starts, self._quoted, self._before = True, restore_case, False, ""

    def add(self, pieces: Iterable[str], *, ended: bool = False) -> str:
        """What can be written now that these whole words and signs have come; nothing that follows changes it.

        Args:
            pieces: words and signs.
            ended: whether nothing follows; otherwise what may still change is kept until it cannot.
        """
        self._pieces += pieces
        return "".join(map(self._joined, self._certain(ended=ended)))

    def _certain(self, *, ended: bool) -> list[_Part]:
        """Take what the first pieces are in the document, as far as what follows cannot change it."""
        pieces, plain, wording = self._pieces, [_plain(piece) for piece in self._pieces], self._wording
        parts, place, count = list[_Part](), 0, len(pieces)
        while place < count and (ended or (place + 1 < count and not _may_grow(plain[place:], wording))):
            longest = min(LONGEST_COMPOUND, count - place)
            length = next((n for n in range(longest, 1, -1) if tuple(plain[place : place + n]) in wording.compounds), 1)
            if not ended and place + length >= count:
                break
            words = tuple(plain[place : place + length])
            text = wording.words.get(words[0], pieces[place]) if length == 1 else wording.compounds[words]
            place += length
            parts.append(_Part(text, pieces[place] if place < count else None))
        del pieces[:place]
        return parts

    def _joined(self, part: _Part) -> str:
        """The part, with a space before it where there is one."""
        text, left, right = part.text, part.text in CLINGS_LEFT or part.text in CLINGS_BOTH, part.text in CLINGS_RIGHT | CLINGS_BOTH
        if text in APOSTROPHES and self._before[-1:].isalnum() and (part.following or "").lower() in CONTRACTED:
            left = right = True
        elif text in APOSTROPHES and self._before.endswith("s") and not self._quoted:
            left = True
        elif text in ('"', "'"):
            left, right, self._quoted = self._quoted, not self._quoted, not self._quoted
        elif text == "." and self._before.isdecimal() and (part.following or "").isdecimal():
            right = True
        if self._starts and _is_word(text):
            text, self._starts = text[0].upper() + text[1:], False
        elif self._restore_case and not right and text in SENTENCE_ENDS:
            self._starts = True
        clung, self._clings, self._before = self._clings or left, right, text
        return text if clung else f" {text}"


class Stripping:
    """A text on its way that begins with no space, and ends with none."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._begun, self._spaces = False, ""

    def add(self, text: str) -> str:
        """What can be written now that this has come: spaces wait for what follows them."""
        text = self._spaces + text if self._begun else text.lstrip()
        kept = text.rstrip()
        self._begun, self._spaces = bool(kept) or self._begun, text[len(kept) :]
        return kept


def _may_grow(rest: Sequence[str], wording: Wording) -> bool:
    """Whether all that is left is the beginning of a compound."""
    return len(rest) < LONGEST_COMPOUND and tuple(rest) in wording.beginnings


def _is_word(piece: str) -> bool:
    return piece[0].isalnum()


def _ends_sentence(chunk: str) -> bool:
    """Whether a sentence ends with this; "U.S." has a full stop inside, and ends none."""
    end = _SENTENCE_END.search(chunk)
    return end is not None and "." not in chunk[: end.start()]


def _compounds(pieces: Sequence[str]) -> Iterator[Sequence[str]]:
    """What a chunk without spaces holds in one piece: words with signs between them, with a last full stop too where there are others.

    What is contracted ("it's") is joined without it, and its words may have other capitals elsewhere.
    """
    words = [place for place, piece in enumerate(pieces) if _is_word(piece)]
    if len(words) < 2 or (pieces[words[-1] - 1] in APOSTROPHES and pieces[words[-1]].lower() in CONTRACTED):
        return
    first, last = words[0], words[-1] + 1
    if last - first <= LONGEST_COMPOUND:
        yield pieces[first:last]
        if pieces[last:] and pieces[last] == "." and "." in pieces[first:last] and last - first < LONGEST_COMPOUND:
            yield pieces[first : last + 1]


def _plain(word: str) -> str:
    """The word as a tokenizer without capitals and accents has it."""
    lower = word.lower()
    return lower if lower.isascii() else "".join(each for each in unicodedata.normalize("NFD", lower) if unicodedata.category(each) != "Mn")


def _most_usual(counts: Counter[str]) -> str:
    return counts.most_common(1)[0][0]
