"""What is pruned as one: a weight cut into groups, values pooled into one per group, and one gate per group put on the weight.

Every granularity is a grid of equal rectangles; a single weight, a row, a column and a head are rectangles too.
"""

from dataclasses import dataclass

from torch import Tensor

from pruning.errors import ConfigError


@dataclass(frozen=True)
class Grid:
    """Rectangles of `rows` x `columns` weights.

    Attributes:
        rows, columns: of one group.
    """

    rows: int
    columns: int

    @property
    def size(self) -> int:
        """Weights in a group."""
        return self.rows * self.columns

    def shape(self, weight: Tensor) -> tuple[int, int]:
        """How many groups a weight `[out, in]` has, down and across; `ConfigError` when they do not fit."""
        out, inputs = weight.shape
        if out % self.rows or inputs % self.columns:
            raise ConfigError(
                f"groups of {self.rows}x{self.columns} do not divide a weight of {out}x{inputs}; choose sizes that divide both sides"
            )
        return out // self.rows, inputs // self.columns

    def pool(self, values: Tensor) -> Tensor:
        """Sums over groups, `[out, in]` -> `[groups down, groups across]`."""
        return self.cut(values).sum(dim=(1, 3))

    def gated(self, weight: Tensor, gate: Tensor) -> Tensor:
        """The weight `[out, in]` with each group multiplied by its own of `[groups down, groups across]`."""
        return (self.cut(weight) * gate[:, None, :, None]).reshape(weight.shape)

    def expand(self, gate: Tensor) -> Tensor:
        """One value per weight, `[groups down, groups across]` -> `[out, in]`."""
        return gate.repeat_interleave(self.rows, dim=0).repeat_interleave(self.columns, dim=1)

    def cut(self, values: Tensor) -> Tensor:
        """`[out, in]` -> `[groups down, rows, groups across, columns]`."""
        down, across = self.shape(values)
        return values.reshape(down, self.rows, across, self.columns)
