"""Summaries of masks that never were, of any size."""

import numpy as np

from pruning.mask_summary import Kind, LayerHeads, MagnitudeHistogram, MaskSummary, MatrixSummary, Pixels, ScoreSample
from pruning.steering import Reading

PARTS: dict[str, Kind] = {
    "query": "attention",
    "key": "attention",
    "value": "attention",
    "output": "attention",
    "up": "feed_forward",
    "down": "feed_forward",
}


def matrix_of(layer: int, part: str, density: float, *, side: int = 10) -> MatrixSummary:
    """A mask of `side` x `side` groups of four weights; which are left is random."""
    keep = np.arange(side * side) < round(density * side * side)
    np.random.default_rng(layer).shuffle(keep)
    return MatrixSummary(
        name=f"{layer}.{part}",
        kind=PARTS[part],
        layer=layer,
        part=part,
        weights=4 * keep.size,
        left=4 * int(keep.sum()),
        pixels=Pixels.of(keep.reshape(side, side).astype(np.uint8)),
    )


def sample_of(kind: Kind, count: int = 50) -> ScoreSample:
    """Random scores."""
    rng = np.random.default_rng(count)
    kept = tuple(bool(each) for each in rng.integers(0, 2, count))
    return ScoreSample(kind=kind, magnitudes=tuple(rng.random(count)), scores=tuple(rng.normal(size=count)), kept=kept)


def mask_summary(*, layers: int = 3, side: int = 10, points: int = 50) -> MaskSummary:
    """Each layer has a tenth more than the one before; the last has lost its attention, and has no mask there."""
    shares = {"lowest": 0.0, "highest": 1.0}
    bins = {"every": (0.25, 0.5, 0.25), "left": (0.0, 0.1, 0.2)}
    whole = LayerHeads(blocks=("QKVO", "QKVO", "VO"), live=(0, 1, 2))
    return MaskSummary(
        matrices=tuple(
            matrix_of(layer, part, 0.2 + 0.1 * layer, side=side)
            for layer in range(layers)
            for part, kind in PARTS.items()
            if layer < layers - 1 or kind != "attention"
        ),
        magnitudes=tuple(MagnitudeHistogram(kind=kind, **shares, **bins) for kind in ("attention", "feed_forward")),
        scores=(sample_of("attention", points), sample_of("feed_forward", points)),
        heads=(LayerHeads(blocks=("QKVO", "Q", ""), live=(0,)), *[whole] * (layers - 2), LayerHeads(blocks=(), live=())),
        trace=tuple(Reading(step, 1 - step / 200, 1 - step / 190, 0.1, 1.0 + step) for step in range(0, 100, 10)),
    )
