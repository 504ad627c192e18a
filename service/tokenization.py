"""Text to rows of token ids, by the `tokenizer.json` of an artifact.

A row is what one call of the session takes. A long context becomes several rows, *windows*, that share `stride` tokens with their
neighbours; it is tokenised once and sliced. Offsets count Unicode code points, as Python's own string slices do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, decoders, models

from service.errors import ArtifactError, RequestError, TooLargeError

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

REPLACEMENT = "\ufffd"
"""What stands in decoded text for bytes that are no whole character."""

_LONG = 4096
"""Characters from which on a text is encoded as a batch of one, which lets other threads run meanwhile, as `encode` does not."""

_NO_OFFSETS: IntArray = np.zeros((0, 2), dtype=np.int64)
_NO_MASK: BoolArray = np.zeros(0, dtype=np.bool_)


@dataclass(frozen=True, eq=False)
class Row:
    """One row of tokens.

    Attributes:
        input_ids: [sequence].
        token_type_ids: [sequence]; not every graph takes them.
        offsets: [sequence, 2], start and end of each token in its own text, in code points; (0, 0) for special tokens. Empty where a
            task has no use for places in the text.
        context_mask: [sequence], True for tokens of the second text; empty as the offsets are.
        first: index, among all tokens of the second text, of the first one in this row.
        truncated: whether tokens of the texts were left out.
    """

    input_ids: IntArray
    token_type_ids: IntArray
    offsets: IntArray
    context_mask: BoolArray
    first: int = 0
    truncated: bool = False

    def __len__(self) -> int:
        """Tokens in the row."""
        return len(self.input_ids)

    def feed(self) -> dict[str, IntArray]:
        """Inputs of the graph, [1, sequence] each; the session passes over those that the graph does not take."""
        return {
            "input_ids": self.input_ids[None],
            "attention_mask": np.ones((1, len(self)), dtype=np.int64),
            "token_type_ids": self.token_type_ids[None],
        }


def padded(rows: Sequence[Row]) -> dict[str, IntArray]:
    """Inputs of the graph for rows that share a call, [rows, longest] each; padding is 0 and is not attended to."""
    shape = (len(rows), max(map(len, rows)))
    feed = {name: np.zeros(shape, dtype=np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for index, row in enumerate(rows):
        for name, values in row.feed().items():
            feed[name][index, : len(row)] = values[0]
    return feed


class TextTokenizer:
    """Rows from text. Nothing in it changes after it is made, so threads may share it.

    Special tokens come from the tokenizer's own template alone: `[SEP]` or `</s>` written in a text is ordinary text.

    Attributes:
        spaced: whether decoded text has spaces between words and signs, as its tokens do not say how they were written.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take over a tokenizer; its own truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self.spaced = isinstance(tokenizer.model, models.WordPiece)
        self._continuing = ""
        if self.spaced:
            self._continuing = tokenizer.model.continuing_subword_prefix
            tokenizer.decoder = decoders.WordPiece(prefix=self._continuing, cleanup=False)
        self._tokenizer = tokenizer
        self._special = frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)

    @classmethod
    def from_file(cls, path: Path) -> "TextTokenizer":
        """Read a `tokenizer.json`."""
        try:
            return cls(Tokenizer.from_buffer(path.read_bytes()))
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); fetch or export the artifact again") from error
        except ValueError as error:
            raise ArtifactError(f"{path}: not a tokenizer ({error}); fetch or export the artifact again") from error

    def row(self, text: str, text_pair: str | None = None, *, max_length: int, places: bool = True) -> Row:
        """One row of a text or a pair; when it is too long, the longer of the two texts is cut first.

        Args:
            text: the text, or the first of the pair.
            text_pair: the second one.
            max_length: most tokens in the row, special tokens included.
            places: whether the offsets and the context's mask are wanted: they take half as long as the tokens do.
        """
        encoding = self._encode(text, text_pair)
        if not places and len(encoding) <= max_length:
            return Row(_ids(encoding.ids), _ids(encoding.type_ids), offsets=_NO_OFFSETS, context_mask=_NO_MASK)
        sequence = _sequence_ids(encoding)
        if len(sequence) <= max_length:
            return _whole(encoding, sequence)
        counts = (int((sequence == 0).sum()), int((sequence == 1).sum()))
        kept = longest_first(counts, max_length - (len(sequence) - sum(counts)))
        keep = np.ones(len(sequence), dtype=np.bool_)
        for index, count in enumerate(kept):
            keep[np.flatnonzero(sequence == index)[count:]] = False
        return _take(_whole(encoding, sequence), np.flatnonzero(keep), truncated=kept != counts)

    def windows(
        self,
        question: str | None,
        context: str,
        *,
        max_length: int,
        stride: int | None,
        default_stride: int,
        most: int,
        max_question: int | None = None,
    ) -> list[Row]:
        """Rows that together hold the whole context, each with the question in front.

        Args:
            question: repeated in every row; None for a text that stands alone.
            context: cut into windows.
            max_length: most tokens in a row, special tokens included.
            stride: tokens that neighbouring windows share; refused when it leaves no room to move on.
            default_stride: what to use without a `stride`; made smaller when a long question leaves little room.
            most: windows beyond this are too many for one request.
            max_question: tokens of the question that are kept; all of them without it.
        """
        encoding = self._encode(context, None) if question is None else self._encode(question, context)
        sequence = _sequence_ids(encoding)
        inside = np.flatnonzero(sequence == (0 if question is None else 1))
        cut = np.flatnonzero(sequence == 0)[max_question:] if question is not None and max_question is not None else inside[:0]
        room = max_length - (len(sequence) - len(inside) - len(cut))
        overlap = _overlap(room, stride, default_stride, max_length)
        starts = window_starts(len(inside), room, overlap)
        if len(starts) > most:
            raise TooLargeError(
                f"the context takes {len(starts)} windows, at most {most} are taken; shorten it or lower the stride", field="context"
            )
        begin, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (len(sequence), len(sequence))
        whole = _whole(encoding, sequence)
        if len(starts) == 1 and not len(cut):
            return [whole]
        before, after = np.setdiff1d(np.arange(begin), cut), np.arange(end, len(sequence))
        return [_take(whole, np.concatenate([before, inside[first : first + room], after]), first=first) for first in starts]

    def parts(self, text: str, *, max_length: int, cuts: Callable[[IntArray, int], list[int]], most: int) -> list[Row]:
        """Rows that hold a part of a text each, one behind the other.

        Args:
            text: the text.
            max_length: most tokens in a row, special tokens included.
            cuts: from the offsets of the text's tokens [tokens, 2], and how many of them a row has room for: the first token of each part.
            most: parts beyond this are too many for one request.
        """
        encoding = self._encode(text, None)
        sequence = _sequence_ids(encoding)
        inside, whole = np.flatnonzero(sequence == 0), _whole(encoding, sequence)
        if len(sequence) <= max_length or not len(inside):
            return [whole]
        begin, end = int(inside[0]), int(inside[-1]) + 1
        before, after = np.arange(begin), np.arange(end, len(sequence))
        starts = cuts(whole.offsets[begin:end], max_length - len(before) - len(after))
        if len(starts) > most:
            raise TooLargeError(f"the text takes {len(starts)} windows, at most {most} are taken; shorten it", field="text")
        bounds = [begin + start for start in starts] + [end]
        return [
            _take(whole, np.concatenate([before, np.arange(first, last), after]), first=first - begin) for first, last in pairwise(bounds)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special ones left out; one that goes on a word begins one where there is none."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.removeprefix(self._continuing)

    def is_special(self, token: int) -> bool:
        """Whether a token has no text of its own."""
        return token in self._special

    def _encode(self, text: str, text_pair: str | None) -> Encoding:
        try:
            if len(text) + len(text_pair or "") < _LONG:
                return self._tokenizer.encode(text, text_pair)
            return self._tokenizer.encode_batch([text if text_pair is None else (text, text_pair)])[0]
        except (UnicodeError, TypeError) as error:
            raise RequestError("the text is not valid Unicode (a lone surrogate); send well-formed text") from error


class Pieces:
    """Words and signs of tokens that come one by one, of a tokenizer that is `spaced`."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Start with nothing."""
        self._tokenizer = tokenizer
        self._open: list[int] = []

    def add(self, token: int) -> list[str]:
        """The pieces that are whole now: the last one is not before another one has begun."""
        pieces = self._tokenizer.decode([*self._open, token]).split()
        self._open = [*self._open, token] if len(pieces) < 2 else [token]
        return pieces[:-1]


class Characters:
    """Text of tokens that come one by one, in whole characters, of any tokenizer."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Start with nothing."""
        self._tokenizer = tokenizer
        self._known: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> str:
        """What this token adds; nothing as long as it ends within a character.

        The tokens that were told last are decoded again with it, as what a token says may depend on whether it is the first one.
        """
        self._new.append(token)
        known, text = self._tokenizer.decode(self._known), self._tokenizer.decode([*self._known, *self._new])
        if len(text) <= len(known) or text.endswith(REPLACEMENT):
            return ""
        self._known, self._new = self._new, []
        return text[len(known) :]


def window_starts(tokens: int, room: int, overlap: int) -> range:
    """First token of each window: every `room - overlap`, the last window being the first one that reaches the end."""
    step = room - overlap
    count = 1 + max(0, -(-(tokens - room) // step))
    return range(0, count * step, step)


def longest_first(counts: tuple[int, int], budget: int) -> tuple[int, int]:
    """Tokens to keep of each text so that together they fit: the longer text is cut down to the shorter, then both alike."""
    first, second = counts
    if first + second <= budget:
        return counts
    shorter = min(first, second, budget // 2)
    longer = budget - shorter
    return (longer, shorter) if first > second else (shorter, longer)


def _overlap(room: int, stride: int | None, default_stride: int, max_length: int) -> int:
    if room < 1:
        raise RequestError(
            f"the question takes {max_length - room} tokens of a window of {max_length}; shorten the question", field="question"
        )
    if stride is None:
        return min(default_stride, room // 2)
    if stride >= room:
        raise RequestError(
            f"stride is {stride}, but a window has room for {room} tokens of context; choose a stride below {room}", field="stride"
        )
    return stride


def _sequence_ids(encoding: Encoding) -> IntArray:
    """[sequence]: 0 or 1 for tokens of the first or second text, -1 for special tokens."""
    return _ids([-1 if index is None else index for index in encoding.sequence_ids])


def _ids(values: Sequence[int]) -> IntArray:
    return np.array(values, dtype=np.int64)


def _whole(encoding: Encoding, sequence: IntArray) -> Row:
    """All tokens of an encoding, however many."""
    return Row(
        input_ids=_ids(encoding.ids),
        token_type_ids=_ids(encoding.type_ids),
        offsets=np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
        context_mask=sequence == 1,
    )


def _take(row: Row, positions: IntArray, *, first: int = 0, truncated: bool = False) -> Row:
    return Row(
        input_ids=row.input_ids[positions],
        token_type_ids=row.token_type_ids[positions],
        offsets=row.offsets[positions],
        context_mask=row.context_mask[positions],
        first=first,
        truncated=truncated,
    )
