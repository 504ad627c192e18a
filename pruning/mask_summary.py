"""What a report keeps of the masks of a fine-pruned model: small enough for its JSON, enough to draw every picture again."""

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pruning.steering import Reading

Kind = Literal["attention", "feed_forward", "decoder_attention", "decoder_feed_forward"]
PIXELS = 48
LEVELS = 15


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Pixels(_Part):
    """A mask made small: the share of open gates under each pixel, in sixteen levels."""

    height: int = Field(gt=0, le=PIXELS, description="Rows of pixels.")
    width: int = Field(gt=0, le=PIXELS, description="Columns of pixels.")
    packed: str = Field(description="Levels from 0 (all closed) to 15 (all open), row by row, a byte each; deflated, then base64.")

    @model_validator(mode="after")
    def _is_whole(self) -> "Pixels":
        levels = self._levels()
        if len(levels) != self.height * self.width or max(levels, default=0) > LEVELS:
            raise ValueError(f"`packed` does not hold {self.height} x {self.width} levels from 0 to {LEVELS}")
        return self

    @classmethod
    def of(cls, keep: NDArray[np.uint8]) -> "Pixels":
        """From gates, 0 or 1, `[groups down, groups across]`; an exact copy when they are no more than the pixels."""
        shares = keep.astype(np.float32)
        for axis in (0, 1):
            edges = _edges(shares.shape[axis])
            sizes = np.diff([*edges, shares.shape[axis]])
            shares = np.add.reduceat(shares, edges, axis=axis) / np.expand_dims(sizes, 1 - axis)
        levels = np.round(shares * LEVELS).astype(np.uint8)
        return cls(height=len(levels), width=levels.shape[1], packed=base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode())

    def shares(self) -> NDArray[np.float64]:
        """Shares of open gates, `[height, width]`."""
        return np.frombuffer(self._levels(), np.uint8).reshape(self.height, self.width) / LEVELS

    def _levels(self) -> bytes:
        try:
            return zlib.decompressobj().decompress(base64.b64decode(self.packed, validate=True), PIXELS * PIXELS + 1)
        except (binascii.Error, zlib.error, ValueError) as error:
            raise ValueError(f"`packed` cannot be read ({error})") from None


def _edges(count: int) -> NDArray[np.int64]:
    """Where each of up to `PIXELS` parts of so many groups begins."""
    parts = min(count, PIXELS)
    return np.arange(parts) * count // parts


class MatrixSummary(_Part):
    """The mask of one matrix, or of the matrices whose groups it decides for."""

    name: str = Field(description="Of the masked linear.")
    kind: Kind = Field(description="Of the block that it is part of.")
    layer: int = Field(ge=0, description="Counted from 0.")
    part: str = Field(description="query, key, value, output, heads; up, down, neurons.")
    weights: int = Field(gt=0, description="Weights that the mask decides about.")
    left: int = Field(ge=0, description="Of them, those whose gate is open.")
    pixels: Pixels = Field(description="The mask, made small.")

    @property
    def density(self) -> float:
        """Share of its weights that are left."""
        return self.left / self.weights


class MagnitudeHistogram(_Part):
    """How large the weights are, all of them and those left: shares of one kind's weights, in bins of equal width."""

    kind: Kind = Field(description="Of the blocks.")
    lowest: float = Field(description="Lower end of the first bin, which also counts what is smaller.")
    highest: float = Field(description="Upper end of the last bin, which also counts what is larger.")
    every: tuple[float, ...] = Field(min_length=1, description="Share of the weights in each bin.")
    left: tuple[float, ...] = Field(min_length=1, description="Share that is in the bin and left.")

    @model_validator(mode="after")
    def _is_whole(self) -> "MagnitudeHistogram":
        _check_lengths(every=self.every, left=self.left)
        if self.lowest >= self.highest:
            raise ValueError("`lowest` must be less than `highest`")
        return self


class ScoreSample(_Part):
    """Learned scores of some groups of one kind, drawn at random, beside the magnitude of their weights."""

    kind: Kind = Field(description="Of the blocks.")
    magnitudes: tuple[float, ...] = Field(description="Root mean square of each group's weights.")
    scores: tuple[float, ...] = Field(description="Score of each group.")
    kept: tuple[bool, ...] = Field(description="Whether its gate is open.")

    @model_validator(mode="after")
    def _is_whole(self) -> "ScoreSample":
        _check_lengths(magnitudes=self.magnitudes, scores=self.scores, kept=self.kept)
        return self


class LayerHeads(_Part):
    """The heads of one layer."""

    blocks: tuple[str, ...] = Field(description="For each head, in which of its matrices a weight is left: letters of QKVO.")
    live: tuple[int, ...] = Field(description="Heads that compaction leaves.")


class MaskSummary(_Part):
    """The masks of one fine-pruned model, and how they came about."""

    matrices: tuple[MatrixSummary, ...] = Field(min_length=1, description="Layer by layer.")
    magnitudes: tuple[MagnitudeHistogram, ...] = Field(description="One for each kind of block.")
    scores: tuple[ScoreSample, ...] = Field(default=(), description="One for each kind of block; none for methods that learn no scores.")
    heads: tuple[LayerHeads, ...] = Field(default=(), description="Layer by layer; none where attention is not masked.")
    trace: tuple[Reading, ...] = Field(default=(), description="Readings of the target control.")

    @property
    def pruned(self) -> int:
        """Weights whose gate is closed."""
        return sum(each.weights - each.left for each in self.matrices)

    @property
    def density(self) -> float:
        """Share of the masked weights that are left."""
        return 1 - self.pruned / sum(each.weights for each in self.matrices)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that have a mask, ascending."""
        return tuple(sorted({each.layer for each in self.matrices}))

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts that have a mask, attention first."""
        return tuple(dict.fromkeys(each.part for each in sorted(self.matrices, key=lambda each: each.kind)))

    def matrix(self, layer: int, part: str) -> MatrixSummary | None:
        """One of its matrices; None if it has no mask."""
        return next((each for each in self.matrices if (each.layer, each.part) == (layer, part)), None)


def _check_lengths(**lists: Sequence[object]) -> None:
    if len({len(each) for each in lists.values()}) > 1:
        raise ValueError(f"{', '.join(lists)} have different lengths")
