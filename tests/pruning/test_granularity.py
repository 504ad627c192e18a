"""Groups of a weight: pooled, gated and expanded alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruning.errors import ConfigError
from pruning.granularity import Grid


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_a_gate_multiplies_its_own_rectangle(rows, columns, down, across):
    """Gating is multiplying by the expanded gate, and pooling is its transpose: the gradient of a gate."""
    grid, generator = Grid(rows, columns), torch.Generator().manual_seed(0)
    weight = torch.randn(rows * down, columns * across, generator=generator, dtype=torch.float64)
    gate = torch.randn(down, across, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    gated = grid.gated(weight, gate)
    torch.testing.assert_close(gated, weight * grid.expand(gate))
    gated.backward(upstream)
    torch.testing.assert_close(gate.grad, grid.pool(upstream * weight))


def test_rectangles_that_do_not_fit_are_refused():
    """With both sizes."""
    with pytest.raises(ConfigError, match="4x8 do not divide a weight of 12x12"):
        Grid(4, 8).shape(torch.zeros(12, 12))
