"""Rows of a training, and their order: a pure function of seed and epoch, so that a resumed run sees the rows that the uninterrupted one
would have seen."""

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Dataset, Sampler

from pruning.tasks.base import Feature

MEGA_BATCH = 50


class Rows(Dataset[Feature]):
    """Features as a torch dataset."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Feature:
        return self.features[index]


class LengthGroupedSampler(Sampler[int]):
    """Rows of like lengths together: shuffled, cut into stretches of 50 batches, each sorted by length, batches shuffled again.

    The order is a pure function of the seed and the epoch, so a run that is resumed in the middle of an epoch goes on with the
    rows that were left.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, *, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order: list[int] = torch.randperm(len(self.lengths), generator=generator).tolist()
        stretch = self.batch_size * MEGA_BATCH
        grouped = [i for at in range(0, len(order), stretch) for i in sorted(order[at : at + stretch], key=lambda i: -self.lengths[i])]
        full = len(grouped) // self.batch_size
        for batch in torch.randperm(full, generator=generator).tolist():
            yield from grouped[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from grouped[full * self.batch_size :]
