"""What is asked of an engine and what it says: the graphs, how much at once, a request, and what a step did to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.generation.searches import Generated
from service.generation.sessions import CachedSession
from service.generation.settings import GenerationSettings, SpecialTokens
from service.runtime.base import Session


@dataclass(frozen=True)
class EncoderDecoder:
    """What generates.

    Attributes:
        encoder: session of `encoder.onnx`.
        decoder: session of `decoder.onnx`.
        special: the model's special tokens.
        positions: most tokens of a source, and of what is generated.
    """

    encoder: Session
    decoder: CachedSession
    special: SpecialTokens
    positions: int


@dataclass(frozen=True)
class Limits:
    """How much is decoded at once.

    Attributes:
        rows: most rows in a call of the decoder, each beam one.
        cached_tokens: most tokens that there is room for in the caches: rows times the longest limit, and requests times the longest
            source, both rounded up.
        joins: most requests that join before a step. Their sources are encoded while everybody else waits.
    """

    rows: int = 64
    cached_tokens: int = 65_536
    joins: int = 4


@dataclass(eq=False)
class Generation:
    """One request, as `Engine.submit` gives it back.

    Attributes:
        source: its tokens.
        settings: how it is decoded.
        log_probabilities: whether the steps of one sequence come with them.
        cancelled: whether nobody waits for it any more.
        result: what came of it, once it is done.
        error: what a graph raised while it took part; there will be no result then.
        joined_at: when it began to be encoded, on the engine's clock.
        own_seconds: its share of the time of the steps that it took part in.
    """

    source: Sequence[int]
    settings: GenerationSettings
    log_probabilities: bool = False
    cancelled: bool = False
    result: Generated | None = None
    error: Exception | None = None
    joined_at: float | None = None
    own_seconds: float = 0.0


class Progress(NamedTuple):
    """What a step did to a request.

    Attributes:
        generation: the request.
        token: its new token, if it is one sequence; beams have none before they are done.
        log_probability: of that token among those that were allowed, if it was asked for.
        result: what came of the request, if it is done; one that has an `error` is gone too.
    """

    generation: Generation
    token: int | None
    log_probability: float | None
    result: Generated | None

    @property
    def tokens(self) -> int:
        """Tokens that came with it: of beams all at the end."""
        return 1 if self.token is not None else len(self.result.tokens) if self.result is not None else 0
