"""The measured latency table: what each block costs at each size, in the runtime and precision that will serve.

Multiply-accumulates do not predict 8-bit latency: kernels have a floor, the attention core stays fp32, and below some width only
taking the whole block out gains anything. So a target is a measured speed-up, and the search pays in milliseconds from a
`LatencyTable`, as in ZipLM (Kurtic et al., 2023, arXiv:2302.04089). `pruning/bench.py` takes the table; here is what is done with
it: predicting, calibrating against whole models, prices for the search, and the loop that meets a target.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from pruning.errors import UnreachableTargetError
from pruning.families.base import Side
from pruning.search import Costs
from pruning.structure import Structure, shapes_of
from pruning.timing import Ratio
from service.artifact import LayerShape, Machine

logger = logging.getLogger(__name__)

FORMAT: Literal[1] = 1
GRID_STEP = 16
TOLERANCE = 0.05
_PLAUSIBLE_FACTOR = 2.0
_INDEPENDENT = 0.05


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Condition(_Part):
    """What a latency is a latency of: one row of that many tokens, so served."""

    precision: str = Field(description="Arithmetic of the linear layers: fp32, int8.")
    sequence_length: int = Field(gt=0, description="Tokens in the row; none of them is padding.")
    runtime: str = Field(default="onnxruntime", description="Runtime that serves.")
    threads: int = Field(default=1, gt=0, description="Threads inside one call.")


class Dimensions(_Part):
    """The dense model, as far as latency depends on it."""

    family: str = Field(description="Model family: bert, roberta, distilbert.")
    task: str = Field(description="The task, by its standard name; its head is part of every row.")
    layers: int = Field(gt=0, description="Encoder layers.")
    hidden_size: int = Field(gt=0, description="Width of the residual stream.")
    heads: int = Field(gt=0, description="Attention heads of a layer.")
    head_size: int = Field(gt=0, description="Columns of one head.")
    intermediate: int = Field(gt=0, description="Feed-forward neurons of a layer.")
    vocabulary: int = Field(gt=0, description="Tokens in the embedding table.")

    @property
    def dense(self) -> tuple[LayerShape, ...]:
        """Shapes of the dense model."""
        return (LayerShape(heads=self.heads, intermediate=self.intermediate),) * self.layers


class Identity(_Part):
    """All that a table depends on; one that was taken under another identity says nothing here."""

    format: Literal[1] = Field(default=FORMAT, description="Version of the table's format and of how it is measured.")
    condition: Condition = Field(description="What was measured.")
    dimensions: Dimensions = Field(description="Of which model.")
    machine: Machine = Field(description="Where, and with which version of the runtime.")
    versions: dict[str, str] = Field(description="Versions of the packages that make the graph.")


class Factors(_Part):
    """What the table's parts are multiplied by to agree with whole models."""

    fixed: float = Field(default=1.0, gt=0, description="Of what is outside the layers.")
    attention: float = Field(default=1.0, gt=0, description="Of attention blocks.")
    feed_forward: float = Field(default=1.0, gt=0, description="Of feed-forward blocks.")


class Point(_Part):
    """A whole model that was measured end to end."""

    layers: tuple[LayerShape, ...] = Field(description="Its shapes.")
    measured_ms: float = Field(gt=0, description="Latency of one row, in the same statistic as the table's.")


class Predictor(Protocol):
    """Predicts latency from shapes, in any one unit of work.

    Attributes:
        dense_ms: of the dense model.
    """

    @property
    def dense_ms(self) -> float:
        """See the attribute."""

    def latency_ms(self, layers: Sequence[LayerShape]) -> float:
        """Of a model of these shapes."""


class LatencyTable(_Part):
    """Milliseconds per block and size. A block's share includes its residual addition and its norm."""

    identity: Identity = Field(description="What the table is valid for.")
    fixed_ms: float = Field(ge=0, description="Embeddings, the task's head, and the call itself.")
    attention_ms: dict[int, float] = Field(min_length=2, description="Attention block by heads kept; 0 is a removed block.")
    feed_forward_ms: dict[int, float] = Field(min_length=2, description="Feed-forward block by neurons kept; 0 is a removed block.")
    factors: Factors = Field(default=Factors(), description="Calibration; see `calibrate`.")
    points: tuple[Point, ...] = Field(default=(), description="Whole models that it was calibrated with.")
    spread: float = Field(default=0.0, ge=0, description="Unrest while measuring: quartile distance over median, median over sizes.")

    @property
    def dense_ms(self) -> float:
        """Latency of one row through the dense model."""
        return self.latency_ms(self.identity.dimensions.dense)

    def latency_ms(self, layers: Sequence[LayerShape]) -> float:
        """Latency of one row through a model of these shapes; dropped layers are simply not among them."""
        return predict_ms(self, layers)


def predict_ms(table: LatencyTable, layers: Sequence[LayerShape]) -> float:
    """Latency of one row through a model of these shapes, in milliseconds; dropped layers are simply not among them."""
    fixed, attention, feed_forward = _parts(table, layers)
    return table.factors.fixed * fixed + table.factors.attention * attention + table.factors.feed_forward * feed_forward


def predicted_speedup(table: Predictor, layers: Sequence[LayerShape]) -> float:
    """Structural speed-up that the table expects: dense over these shapes, all else equal."""
    return table.dense_ms / table.latency_ms(layers)


def budget_for(table: Predictor, speedup: float) -> float:
    """Milliseconds that may be taken for this structural speed-up."""
    return table.dense_ms / speedup


def calibrate(table: LatencyTable, points: Sequence[Point]) -> LatencyTable:
    """Factors for the fixed part and the two kinds of block, such that predictions agree with whole models.

    The least change from 1 of the three factors that minimises the relative squared error; directions in which the points hardly
    differ are left alone. Should a factor come out implausible (over 2 or under 1/2), one factor for everything is taken instead.
    """
    measured = np.array([point.measured_ms for point in points])
    shares = np.array([_parts(table, point.layers) for point in points]) / measured[:, None]  # [points, 3]
    change, *_ = np.linalg.lstsq(shares, 1.0 - shares.sum(axis=1), rcond=_INDEPENDENT)
    values = 1.0 + change
    if np.any(values > _PLAUSIBLE_FACTOR) or np.any(values < 1 / _PLAUSIBLE_FACTOR):
        values = np.full(3, 1.0 / float(np.median(shares.sum(axis=1))))
        logger.warning("latency table and whole models disagree: all of it is scaled by %.2f; was the machine busy?", values[0])
    fixed, attention, feed_forward = (float(value) for value in values)
    factors = Factors(fixed=fixed, attention=attention, feed_forward=feed_forward)
    return table.model_copy(update={"factors": factors, "points": tuple(points)})


def costs_from_table(table: LatencyTable, layers: Sequence[LayerShape] | None = None, *, step: int = GRID_STEP) -> Costs:
    """Prices for the search, in milliseconds.

    Args:
        table: what was measured.
        layers: what the model to be pruned has now; the dense model by default.
        step: neurons are kept in multiples of this, or as many as there are.
    """
    shapes = table.identity.dimensions.dense if layers is None else layers
    factors = table.factors

    def attention(_: Side, heads: int) -> float:
        return factors.attention * interpolate(table.attention_ms, heads)

    def feed_forward(_: Side, neurons: int) -> float:
        return factors.feed_forward * interpolate(table.feed_forward_ms, neurons)

    return costs_by_size(shapes, fixed=factors.fixed * table.fixed_ms, attention=attention, feed_forward=feed_forward, step=step)


def costs_from_macs(
    dimensions: Dimensions,
    sequence_length: int,
    layers: Sequence[LayerShape] | None = None,
    *,
    sides: Sequence[Side] | None = None,
    target_length: int | None = None,
    step: int = GRID_STEP,
) -> Costs:
    """Prices in multiply-accumulates of the layers for one row of that length, the attention core included.

    Args:
        dimensions: the dense model's.
        sequence_length: tokens in the row.
        layers: what the model to be pruned has now; the dense model by default.
        sides: where each of them is; all of them in an encoder by default.
        target_length: tokens that a decoder is given; as many as the row has if None.
        step: neurons are kept in multiples of this, or as many as there are.
    """
    target = sequence_length if target_length is None else target_length

    def attention(side: Side, heads: int) -> float:
        queries = sequence_length if side == "encoder" else target
        keys = sequence_length if side == "cross" else queries
        return 2 * heads * dimensions.head_size * (dimensions.hidden_size * (queries + keys) + queries * keys)

    def feed_forward(side: Side, neurons: int) -> float:
        return 2 * neurons * dimensions.hidden_size * (sequence_length if side == "encoder" else target)

    shapes = dimensions.dense if layers is None else layers
    return costs_by_size(shapes, attention=attention, feed_forward=feed_forward, sides=sides, step=step)


def costs_from_density(dimensions: Dimensions, layers: Sequence[LayerShape] | None = None, *, step: int = GRID_STEP) -> Costs:
    """Prices in linear weights of the layers: what density counts."""
    head = 4 * dimensions.hidden_size * dimensions.head_size
    neuron = 2 * dimensions.hidden_size
    shapes = dimensions.dense if layers is None else layers
    return costs_by_size(shapes, attention=lambda _, heads: head * heads, feed_forward=lambda _, neurons: neuron * neurons, step=step)


def costs_from_parameters(
    dimensions: Dimensions, total: int, layers: Sequence[LayerShape] | None = None, *, step: int = GRID_STEP
) -> Costs:
    """Prices in parameters of the whole model, of which it has `total` now: weights and biases of heads and neurons, and a fixed rest."""
    head = dimensions.head_size * (4 * dimensions.hidden_size + 3)
    neuron = 2 * dimensions.hidden_size + 1
    shapes = dimensions.dense if layers is None else layers
    prunable = sum(head * shape.heads + neuron * shape.intermediate for shape in shapes)
    return costs_by_size(
        shapes,
        fixed=total - prunable,
        attention=lambda _, heads: head * heads,
        feed_forward=lambda _, neurons: neuron * neurons,
        step=step,
    )


def costs_by_size(
    layers: Sequence[LayerShape],
    *,
    attention: Callable[[Side, int], float],
    feed_forward: Callable[[Side, int], float],
    step: int,
    sides: Sequence[Side] | None = None,
    fixed: float = 0.0,
) -> Costs:
    """Prices for the search where a block's price follows from its side and size.

    Args:
        layers: what the model to be pruned has now.
        attention: price of an attention on that side with so many heads.
        feed_forward: price of a feed-forward on that side with so many neurons.
        step: neurons are kept in multiples of this, or as many as there are.
        sides: where each layer is; all of them in an encoder by default.
        fixed: what no mask can save.
    """
    everywhere: list[Side] = ["encoder"] * len(layers)
    placed = list(zip(everywhere if sides is None else sides, layers, strict=True))
    return Costs(
        fixed=fixed,
        attention=tuple(tuple(attention(side, heads) for heads in range(layer.heads + 1)) for side, layer in placed),
        feed_forward=tuple(
            {neurons: feed_forward(side, neurons) for neurons in (*range(0, layer.intermediate, step), layer.intermediate)}
            for side, layer in placed
        ),
    )


@dataclass(frozen=True)
class Fit:
    """A structure that was searched for a target, and what it turned out to be.

    Attributes:
        structure: the one whose measured speed-up is nearest to the target.
        budget_ms: the budget it was found with, after correction.
        predicted: structural speed-up by the table.
        measured: structural speed-up end to end.
        rounds: searches that were made.
    """

    structure: Structure
    budget_ms: float
    predicted: float
    measured: Ratio
    rounds: int

    def error(self, target: float) -> float:
        """Relative distance of the measured speed-up from the target; negative when too slow."""
        return self.measured.value / target - 1.0


def fit_to_target(
    search_at_budget: Callable[[float], Structure],
    table: Predictor,
    target: float,
    measure: Callable[[Sequence[LayerShape]], Ratio],
    *,
    tolerance: float = TOLERANCE,
    rounds: int = 3,
) -> Fit:
    """Search, measure end to end, correct the budget by what was missed, until the target is met.

    Args:
        search_at_budget: the best structure within so many milliseconds, as the table counts them.
        table: predicts; its error is what the loop takes out.
        target: structural speed-up, over 1.
        measure: structural speed-up of a model of these shapes; `bench.StructuralBench.speedup`.
        tolerance: relative error that is good enough.
        rounds: most searches.

    Raises:
        UnreachableTargetError: no mask has the first budget. One that only a corrected budget asks for too much of ends the loop.
    """
    budget = budget_for(table, target)
    fits: list[Fit] = []
    for number in range(1, rounds + 1):
        try:
            structure = search_at_budget(budget)
        except UnreachableTargetError:
            if not fits:
                raise
            break
        if any(fit.structure == structure for fit in fits):
            break
        layers = shapes_of(structure)
        fit = Fit(structure, budget, predicted_speedup(table, layers), measure(layers), number)
        fits.append(fit)
        logger.info("target=%.3g predicted=%.3f measured=%.3f budget_ms=%.3f", target, fit.predicted, fit.measured.value, budget)
        if abs(fit.error(target)) <= tolerance:
            break
        budget = table.latency_ms(layers) * fit.measured.value / target
    best = min(fits, key=lambda fit: abs(math.log(fit.measured.value / target)))
    if abs(best.error(target)) > tolerance:
        logger.warning("asked for a speed-up of %.3g, the nearest structure measures %.3f", target, best.measured.value)
    return best


def interpolate(levels: Mapping[int, float], size: int) -> float:
    """Cost of a block of a size between the measured ones.

    Linear between two sizes. Below the smallest that is left of a block it costs what that does, as kernels have a floor; 0 stands
    for itself.
    """
    if size in levels:
        return levels[size]
    sizes = sorted(each for each in levels if each > 0)
    if size > sizes[-1]:
        raise ValueError(f"size {size} is beyond the table, which ends at {sizes[-1]}")
    return float(np.interp(size, sizes, [levels[each] for each in sizes]))


def non_decreasing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest non-decreasing sequence, by pooling neighbours that are out of order (isotonic regression)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while pools and pools[-1][0] > mean:
            other, others = pools.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        pools.append((mean, count))
    return np.concatenate([np.full(count, mean) for mean, count in pools])


def _parts(table: LatencyTable, layers: Sequence[LayerShape]) -> tuple[float, float, float]:
    """Uncalibrated milliseconds of the fixed part, of all attention and of all feed-forward blocks."""
    attention = sum(interpolate(table.attention_ms, layer.heads) for layer in layers)
    feed_forward = sum(interpolate(table.feed_forward_ms, layer.intermediate) for layer in layers)
    return table.fixed_ms, attention, feed_forward
