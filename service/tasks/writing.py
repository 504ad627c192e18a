"""What writes the text of generated tokens: all at once, or token by token for a stream, at a cost that does not grow with the text."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.generation.text import Rewriting, Stripping, Wording
from service.tasks.base import Append
from service.tokenization import Characters, Pieces, TextTokenizer


@dataclass(frozen=True)
class DocumentWriter:
    """Writes as a document does, where tokens do not say how words and signs are joined; see `service.tasks.base.Writer`.

    Attributes:
        tokenizer: of the tokens.
        wording: of the document.
        restore_case: whether capitals are the document's too.
    """

    tokenizer: TextTokenizer
    wording: Wording
    restore_case: bool

    def whole(self, tokens: Sequence[int]) -> str:
        """The text of all its tokens."""
        return Rewriting(self.wording, restore_case=self.restore_case).add(self.tokenizer.decode(tokens).split(), ended=True)

    def begin(self) -> Append:
        """A text whose tokens come one by one."""
        pieces, text = Pieces(self.tokenizer), Rewriting(self.wording, restore_case=self.restore_case)
        return lambda token: text.add(pieces.add(token))


@dataclass(frozen=True)
class PlainWriter:
    """Writes what the tokens say, without spaces around it; see `service.tasks.base.Writer`."""

    tokenizer: TextTokenizer

    def whole(self, tokens: Sequence[int]) -> str:
        """The text of all its tokens."""
        return self.tokenizer.decode(tokens).strip()

    def begin(self) -> Append:
        """A text whose tokens come one by one."""
        characters, text = Characters(self.tokenizer), Stripping()
        return lambda token: text.add(characters.add(token))
