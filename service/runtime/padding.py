"""Padding of a feed to one of few lengths, for runtimes that pay in time or memory for every new shape.

Padding is not attended to, so it changes nothing but the last bits, in a graph that takes an attention mask and quantizes nothing on
the fly. Other graphs are not to be padded.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from service.runtime.base import Array

MASK = "attention_mask"


def step_up(length: int, step: int) -> int:
    """The next multiple of a step."""
    return -(-length // step) * step


def bucket_for(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds a length; the length itself beyond the last."""
    return next((bucket for bucket in buckets if bucket >= length), length)


def pad_feed(feed: Mapping[str, Array], length: int) -> dict[str, Array]:
    """Inputs [batch, sequence] with zeros up to [batch, length]. The caller sees to it that one of them is the attention mask."""
    return {name: np.pad(values, ((0, 0), (0, length - values.shape[1]))) for name, values in feed.items()}


def cut_outputs(outputs: Mapping[str, Array], per_token: Iterable[str], length: int) -> dict[str, Array]:
    """Outputs without the padding: those that are [batch, sequence] are cut to the feed's own length."""
    cut = set(per_token)
    return {name: values[:, :length] if name in cut else values for name, values in outputs.items()}
