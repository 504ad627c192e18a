"""Keys and values of everything that is being decoded, in arrays whose first rows are in use, so that a call takes them as they are.

A graph reads `[:rows]` of each array, which is contiguous: nothing is copied for a step. Rows have room for the same number of tokens,
and masks say how many are written. Who leaves makes room for the last one; arrays are replaced when that room has to change. Nothing is
written to rows that are not in use, so room for rows that never come costs nothing.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from service.generation.scores import Numbers
from service.generation.sessions import CacheShape
from service.runtime.base import Array


class Cache:
    """Keys and values by name, fp32 [rows, heads, room, head_size] each.

    Attributes:
        room: tokens that fit into a row.
    """

    def __init__(self, shapes: Mapping[str, CacheShape], *, rows: int) -> None:
        """Make an empty one for at most that many rows."""
        self.room = 0
        self._shapes, self._rows = dict(shapes), rows
        self._arrays = {name: self._empty(shape, 0) for name, shape in self._shapes.items()}

    def feed(self, rows: int) -> dict[str, Array]:
        """The first rows, as inputs of a graph; not to be kept, since they change."""
        return {name: array[:rows] for name, array in self._arrays.items()}

    def resize(self, room: int, rows: int) -> None:
        """Give every row this much room, and keep what fits into it of the first rows; others are to be cleared before they are used."""
        if room == self.room:
            return
        kept = min(room, self.room)
        for name, shape in self._shapes.items():
            resized = self._empty(shape, room)
            resized[:rows, :, :kept] = self._arrays[name][:rows, :, :kept]
            resized[:rows, :, kept:] = 0
            self._arrays[name] = resized
        self.room = room

    def clear(self, rows: Iterable[int]) -> None:
        """Forget what rows held: what is masked still takes part in sums, and not a number times zero is not zero."""
        for array in self._arrays.values():
            array[list(rows)] = 0

    def write(self, row: int, values: Mapping[str, Array]) -> None:
        """Put values, [1, heads, length, head_size] by name, at the start of a row."""
        for name, array in self._arrays.items():
            array[row, :, : values[name].shape[2]] = values[name][0]

    def append(self, values: Mapping[str, Array], lengths: Numbers) -> None:
        """Put one token's values, [rows, heads, 1, head_size] by name, behind the `lengths` that the first rows have."""
        rows = np.arange(len(lengths))
        for name, array in self._arrays.items():
            array[rows, :, lengths] = values[name][:, :, 0]

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a row hold the first tokens of another one."""
        for array in self._arrays.values():
            array[target, :, :length] = array[source, :, :length]

    def _empty(self, shape: CacheShape, room: int) -> Array:
        return np.empty((self._rows, shape.heads, room, shape.head_size), dtype=np.float32)
