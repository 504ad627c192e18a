"""What fine-pruning did to each matrix: kept beside a masked checkpoint, and summed up for the report.

The summary holds what the figures of Movement Pruning (Sanh et al., 2020, arXiv:2005.07683) and Block Pruning (Lagunas et al., 2021,
arXiv:2109.04838) are drawn from: what is left in each layer, the masks, magnitudes, scores, and heads.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruning.checkpoint_manifest import read_checkpoint_manifest
from pruning.errors import CheckpointError
from pruning.mask_summary import Kind, LayerHeads, MagnitudeHistogram, MaskSummary, MatrixSummary, Pixels, ScoreSample
from pruning.masking import Masked, Masks
from pruning.steering import Reading

FILE_NAME = "masks.safetensors"
BINS = 40
SAMPLE = 600
LETTERS = {"query": "Q", "key": "K", "value": "V", "output": "O"}


@dataclass(frozen=True)
class SavedMask:
    """One mask as it was when the training ended.

    Attributes:
        name, kind, layer, part: as in `pruning.masking.Masked`.
        rows, columns: weights of a group.
        members: weights that live and die with a group, those of other matrices included.
        keep: 1 for an open gate, 0 for a closed one; uint8 `[groups down, groups across]`.
        magnitude: root mean square of the unmasked weights of each group, float16 of the same shape.
        scores: float16 of the same shape; None for methods that learn none.
    """

    name: str
    kind: Kind
    layer: int
    part: str
    rows: int
    columns: int
    members: int
    keep: NDArray[np.uint8]
    magnitude: NDArray[np.float16]
    scores: NDArray[np.float16] | None


@torch.no_grad()
def save_masks(masks: Masks, folder: Path) -> None:
    """Write the masks and what they were decided by into `folder`, before they are baked in."""
    tensors: dict[str, Tensor] = {}
    for each in masks.masked:
        tensors[f"{each.name}.keep"] = each.mask.keep.to("cpu", torch.uint8)
        tensors[f"{each.name}.magnitude"] = _half(_magnitude(each))
        if each.mask.scores is not None:
            tensors[f"{each.name}.scores"] = _half(each.mask.scores)
    about = {each.name: _about(each) for each in masks.masked}
    save_file(tensors, folder / FILE_NAME, metadata={"masks": json.dumps(about)})


def _about(masked: Masked) -> dict[str, Any]:
    grid = masked.mask.grid
    where = {"kind": masked.kind, "layer": masked.layer, "part": masked.part}
    return {**where, "rows": grid.rows, "columns": grid.columns, "members": masked.mask.members}


def _magnitude(masked: Masked) -> Tensor:
    """Root mean square of each group's weights, followers included, `[groups down, groups across]`."""
    squares = masked.mask.grid.pool(masked.weight.float().square())
    for linear, rows in masked.followers:
        squares = squares + rows.pool(linear.weight.float().square()).T
    return (squares / masked.mask.members).sqrt()


def _half(values: Tensor) -> Tensor:
    """As float16; what is too large for it becomes its largest value."""
    limits = torch.finfo(torch.float16)
    return values.clamp(limits.min, limits.max).to("cpu", torch.float16).contiguous()


def read_masks(folder: Path) -> tuple[SavedMask, ...]:
    """Read what `save_masks` wrote, in the order of the layers.

    Raises:
        CheckpointError: there is no such file, or it is not one.
    """
    path = folder / FILE_NAME
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["masks"])
            saved = [_saved(file, set(file.keys()), name, **fields) for name, fields in about.items()]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the masks of a fine-pruned model ({error}); fine-prune it again") from error
    return tuple(saved)


def _saved(file: Any, there: set[str], name: str, **fields: Any) -> SavedMask:  # noqa: ANN401 - safetensors is not typed
    keep, magnitude = (file.get_tensor(f"{name}.{what}") for what in ("keep", "magnitude"))
    scores = file.get_tensor(f"{name}.scores") if f"{name}.scores" in there else None
    return SavedMask(name=name, keep=keep, magnitude=magnitude, scores=scores, **fields)


def summarise(folder: Path, details: Mapping[str, Any]) -> MaskSummary | None:
    """What the report says of a masked model.

    Args:
        folder: the masked checkpoint.
        details: of the stage that made it: `structure` and `trace`.

    Returns:
        The summary; None for a model that was pruned with no training.
    """
    if not (folder / FILE_NAME).is_file():
        return None
    masks = read_masks(folder)
    kinds = [of_kind for kind in get_args(Kind) if (of_kind := [each for each in masks if each.kind == kind])]
    return MaskSummary(
        matrices=tuple(_matrix(each) for each in masks),
        magnitudes=tuple(_histogram(of_kind) for of_kind in kinds),
        scores=tuple(sample for of_kind in kinds if (sample := _sample(of_kind))),
        heads=_heads(masks, [layer.heads for layer in read_checkpoint_manifest(folder).layers], details["structure"]),
        trace=tuple(Reading(**reading) for reading in details["trace"]),
    )


def _matrix(mask: SavedMask) -> MatrixSummary:
    return MatrixSummary(
        name=mask.name,
        kind=mask.kind,
        layer=mask.layer,
        part=mask.part,
        weights=mask.keep.size * mask.members,
        left=int(np.count_nonzero(mask.keep)) * mask.members,
        pixels=Pixels.of(mask.keep),
    )


def _histogram(masks: Sequence[SavedMask]) -> MagnitudeHistogram:
    """Of masks of one kind."""
    lowest, highest = _range(masks)
    total = sum(mask.keep.size * mask.members for mask in masks)
    every, left = (np.sum([_binned(mask, lowest, highest, kept_only=only) for mask in masks], axis=0) / total for only in (False, True))
    return MagnitudeHistogram(kind=masks[0].kind, lowest=lowest, highest=highest, every=_rounded(every), left=_rounded(left))


def _range(masks: Sequence[SavedMask]) -> tuple[float, float]:
    """Between which magnitudes nearly all are: the few beyond would leave no room for the rest."""
    ends = [np.quantile(mask.magnitude.astype(np.float32), [0.001, 0.999]) for mask in masks]
    lowest, highest = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    return (lowest, highest) if lowest < highest else (lowest, lowest + 1.0)


def _binned(mask: SavedMask, lowest: float, highest: float, *, kept_only: bool) -> NDArray[np.float64]:
    """Weights in each bin."""
    values = mask.magnitude[mask.keep > 0] if kept_only else mask.magnitude.ravel()
    counts, _ = np.histogram(np.clip(values.astype(np.float32), lowest, highest), bins=BINS, range=(lowest, highest))
    return counts.astype(np.float64) * mask.members


def _sample(masks: Sequence[SavedMask]) -> ScoreSample | None:
    """Up to `SAMPLE` groups of masks of one kind, each as likely as any other; None without scores."""
    drawn = [
        (mask.magnitude.ravel()[at], mask.scores.ravel()[at], mask.keep.ravel()[at])
        for mask, at in _drawn(masks)
        if mask.scores is not None
    ]
    if not drawn:
        return None
    magnitudes, scores, kept = (np.concatenate(values) for values in zip(*drawn, strict=True))
    return ScoreSample(kind=masks[0].kind, magnitudes=_rounded(magnitudes), scores=_rounded(scores), kept=tuple((kept > 0).tolist()))


def _drawn(masks: Sequence[SavedMask]) -> Iterator[tuple[SavedMask, NDArray[np.int64]]]:
    """Each mask with the flat indices of its groups that were drawn."""
    sizes = [mask.keep.size for mask in masks]
    starts = np.cumsum([0, *sizes])
    drawn = np.sort(np.random.default_rng(0).choice(starts[-1], size=min(SAMPLE, int(starts[-1])), replace=False))
    for mask, start, at in zip(masks, starts[:-1], np.split(drawn, np.searchsorted(drawn, starts[1:-1])), strict=True):
        yield mask, at - start


def _heads(masks: Sequence[SavedMask], counts: Sequence[int], structure: Sequence[Mapping[str, Any]]) -> tuple[LayerHeads, ...]:
    """Layer by layer, from how many heads there were and what compaction leaves; none where attention is not masked."""
    attention = [mask for mask in masks if mask.kind in ("attention", "decoder_attention")]
    if not attention:
        return ()
    return tuple(
        LayerHeads(blocks=_blocks([mask for mask in attention if mask.layer == layer], count), live=tuple(kept["heads"]))
        for layer, (count, kept) in enumerate(zip(counts, structure, strict=True))
    )


def _blocks(of_layer: Sequence[SavedMask], heads: int) -> tuple[str, ...]:
    """For each head of a layer, the letters of its matrices in which a weight is left."""
    left = {letter: alive for mask in of_layer for letter, alive in _alive(mask, heads)}
    return tuple("".join(letter for letter, alive in left.items() if alive[head]) for head in range(heads))


def _alive(mask: SavedMask, heads: int) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Letters of the matrices that a mask of attention decides for, and whether each head has a weight left there."""
    outward = mask.part in ("output", "heads")
    along, size = (0, mask.columns) if outward else (1, mask.rows)
    alive = np.repeat(mask.keep.max(axis=along), size).reshape(heads, -1).max(axis=1)
    for letter in LETTERS.values() if mask.part == "heads" else (LETTERS[mask.part],):
        yield letter, alive


def _rounded(values: NDArray[Any]) -> tuple[float, ...]:
    """With as many digits as pictures need."""
    return tuple(float(f"{value:.4g}") for value in values)
