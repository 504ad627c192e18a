"""What can be asked of generation, in the words of transformers' `generate`, and the special tokens of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

_MOST = 1_000_000


class GenerationSettings(BaseModel, frozen=True, extra="forbid"):
    """How one request is decoded. Fields mean what they mean to transformers 4.57; what it counts tokens with is said here.

    `max_length` is taken as well; see `in_new_tokens`.
    """

    max_new_tokens: int = Field(142, ge=1, le=_MOST, description="Most tokens to generate, the last one included.")
    min_new_tokens: int | None = Field(
        None, ge=0, le=_MOST, description="Fewest tokens before the last one; takes the place of min_length."
    )
    min_length: int = Field(0, ge=0, le=_MOST, description="Fewest tokens before the last one, the decoder's start token counted too.")
    num_beams: int = Field(1, ge=1, le=_MOST, description="Beams of beam search; 1 is greedy, or sampling.")
    length_penalty: float = Field(
        1.0, ge=-3, le=10, description="Power of the length by which a beam's score is divided; above 0 favours long ones."
    )
    early_stopping: bool | Literal["never"] = Field(
        False,
        description="When beam search stops: true, once there are num_beams candidates; false, once a better one is unlikely; "
        "never, once there can be no better one.",
    )
    no_repeat_ngram_size: int = Field(0, ge=0, le=_MOST, description="No sequence of that many tokens occurs twice; 0 allows all.")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, description="Above 1, tokens that were generated get less likely.")
    do_sample: bool = Field(False, description="Draw tokens instead of taking the best.")
    temperature: float = Field(1.0, ge=0.01, le=100, description="Logits are divided by it before a token is drawn.")
    top_k: int = Field(50, ge=0, le=_MOST, description="Draw from that many best tokens; 0 is all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Draw from the fewest best tokens whose probabilities sum to at least this.")
    seed: int | None = Field(None, ge=0, lt=2**64, description="Of the draws; the same seed draws the same tokens.")

    @model_validator(mode="before")
    @classmethod
    def _limit_in_new_tokens(cls, given: Any) -> Any:  # noqa: ANN401 - whatever was given
        return in_new_tokens(given) if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample draws one sequence: it needs num_beams 1")
        if self.fewest_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"at least {self.fewest_new_tokens} new tokens and at most {self.max_new_tokens}: raise max_new_tokens or lower the minimum"
            )
        return self

    @property
    def fewest_new_tokens(self) -> int:
        """Tokens to generate before the one that ends the sequence."""
        return max(0, self.min_length - 1) if self.min_new_tokens is None else self.min_new_tokens


def in_new_tokens(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without `max_length`: it counts the decoder's start token too, and gives way to `max_new_tokens`."""
    said = dict(settings)
    limit = said.pop("max_length", None)
    if limit is not None and said.get("max_new_tokens") is None:
        said["max_new_tokens"] = limit - 1 if isinstance(limit, int) else limit
    return said


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that steer a model's decoder.

    Attributes:
        start: what the decoder reads first.
        end: tokens that end a sequence.
        forced_first: the token that every sequence begins with behind the start, if there is one.
        forced_last: the token that a sequence ends with that reaches its limit, if there is one.
        padding: what fills up a source.
    """

    start: int
    end: tuple[int, ...]
    forced_first: int | None = None
    forced_last: int | None = None
    padding: int = 0
