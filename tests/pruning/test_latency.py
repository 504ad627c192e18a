"""What is done with a latency table; no time is measured here."""

import logging
from itertools import pairwise

import numpy as np
import pytest

from pruning.errors import UnreachableTargetError
from pruning.latency import (
    Condition,
    Dimensions,
    Identity,
    LatencyTable,
    Point,
    budget_for,
    calibrate,
    costs_from_density,
    costs_from_macs,
    costs_from_table,
    fit_to_target,
    interpolate,
    non_decreasing,
    predict_ms,
    predicted_speedup,
)
from pruning.structure import LayerStructure, shapes_of
from pruning.timing import Ratio
from service.artifact import LayerShape, Machine

DIMENSIONS = Dimensions(
    family="bert", task="question-answering", layers=3, hidden_size=64, heads=4, head_size=16, intermediate=256, vocabulary=100
)
IDENTITY = Identity(
    condition=Condition(precision="int8", sequence_length=32),
    dimensions=DIMENSIONS,
    machine=Machine(cpu="abacus", cores=1, isa=(), runtime="onnxruntime 0"),
    versions={},
)


def shape(heads, neurons):
    """One layer's shape."""
    return LayerShape(heads=heads, intermediate=neurons)


def structure(*layers):
    """A structure that keeps the first heads and neurons of each layer."""
    return tuple(LayerStructure(tuple(range(heads)), tuple(range(neurons))) for heads, neurons in layers)


@pytest.fixture
def table():
    """A table with round numbers and a floor below 64 neurons."""
    return LatencyTable(
        identity=IDENTITY,
        fixed_ms=1.0,
        attention_ms={0: 0.1, 1: 1.0, 2: 1.5, 3: 2.0, 4: 2.5},
        feed_forward_ms={0: 0.1, 64: 1.0, 128: 1.6, 256: 3.0},
    )


def test_prediction_is_the_fixed_part_and_the_sum_over_blocks(table):
    """Blocks add up, each by its own size."""
    assert predict_ms(table, [shape(4, 256), shape(0, 128)]) == pytest.approx(1.0 + 2.5 + 3.0 + 0.1 + 1.6)


def test_a_dropped_layer_costs_nothing(table):
    """A layer that is not there adds nothing; one with both blocks removed still has its norms."""
    assert predict_ms(table, [shape(4, 256)]) < predict_ms(table, [shape(4, 256), shape(0, 0)])


def test_sizes_in_between_are_interpolated(table):
    """Halfway between two measured sizes costs halfway between their times."""
    assert interpolate(table.feed_forward_ms, 96) == pytest.approx(1.3)


def test_below_the_smallest_block_the_floor_holds(table):
    """A few neurons cost what the smallest measured block does: only none at all is cheaper."""
    assert interpolate(table.feed_forward_ms, 16) == 1.0
    assert interpolate(table.feed_forward_ms, 0) == 0.1


def test_a_size_beyond_the_table_is_refused(table):
    """There is no extrapolation above what was measured."""
    with pytest.raises(ValueError, match="beyond the table"):
        interpolate(table.feed_forward_ms, 512)


def test_the_dense_model_is_one_time_faster_than_itself(table):
    """The structural speed-up refers to the dense model, and a smaller one has more."""
    assert predicted_speedup(table, DIMENSIONS.dense) == 1.0
    assert predicted_speedup(table, [shape(2, 128)] * 3) > 1.0


def test_a_budget_buys_the_speedup_it_was_made_for(table):
    """Spending the whole budget for 2x gives 2x."""
    assert predict_ms(table, DIMENSIONS.dense) / budget_for(table, 2.0) == pytest.approx(2.0)


def test_calibrated_predictions_reproduce_the_points(table):
    """A machine on which attention is slower and feed-forward faster than the table says is met after calibration."""
    models = [DIMENSIONS.dense, (shape(1, 256),) * 3, (shape(4, 64),) * 3, (shape(2, 0), shape(0, 128), shape(3, 64))]
    real = table.model_copy(update={"fixed_ms": 1.2, "attention_ms": {k: 1.3 * v for k, v in table.attention_ms.items()}})
    points = [Point(layers=layers, measured_ms=predict_ms(real, layers)) for layers in models]
    calibrated = calibrate(table, points)
    for point in points:
        assert predict_ms(calibrated, point.layers) == pytest.approx(point.measured_ms, rel=0.01)
    assert calibrated.points == tuple(points)


def test_one_point_is_met_exactly(table):
    """With the dense model alone, the prediction for it becomes what was measured."""
    calibrated = calibrate(table, [Point(layers=DIMENSIONS.dense, measured_ms=20.0)])
    assert predict_ms(calibrated, DIMENSIONS.dense) == pytest.approx(20.0)


def test_calibrating_twice_is_calibrating_once(table):
    """Factors come from the table and the points, not from earlier factors."""
    points = [Point(layers=DIMENSIONS.dense, measured_ms=20.0)]
    assert calibrate(calibrate(table, points), points) == calibrate(table, points)


def test_implausible_points_scale_everything_and_warn(table, caplog):
    """Points that no such factors explain scale the whole table, and the log says so."""
    dense_ms = predict_ms(table, DIMENSIONS.dense)
    with caplog.at_level(logging.WARNING):
        calibrated = calibrate(table, [Point(layers=DIMENSIONS.dense, measured_ms=10 * dense_ms)])
    assert predict_ms(calibrated, DIMENSIONS.dense) == pytest.approx(10 * dense_ms)
    assert calibrated.factors.fixed == calibrated.factors.attention == calibrated.factors.feed_forward
    assert "disagree" in caplog.text


def test_prices_for_the_search_are_the_predictions(table):
    """What the search adds up is what the table predicts, calibration included."""
    calibrated = calibrate(table, [Point(layers=DIMENSIONS.dense, measured_ms=20.0)])
    layers = [shape(3, 128), shape(0, 16), shape(4, 0)]
    assert costs_from_table(calibrated).total(layers) == pytest.approx(predict_ms(calibrated, layers))


def test_prices_follow_what_the_model_has_left(table):
    """A model that is compact already is offered no more than it has."""
    costs = costs_from_table(table, [shape(2, 100), shape(0, 0)])
    assert [len(levels) for levels in costs.attention] == [3, 1]
    assert max(costs.feed_forward[0]) == 100
    assert list(costs.feed_forward[1]) == [0]


def test_neurons_are_offered_in_steps(table):
    """Widths on offer are multiples of the step, and the whole block."""
    sizes = costs_from_table(table, step=48).feed_forward[0]
    assert list(sizes) == [0, 48, 96, 144, 192, 240, 256]


def test_macs_count_linears_and_the_attention_core():
    """The dense price is the textbook count for one row."""
    length, hidden, columns = 32, 64, 4 * 16
    per_layer = length * (4 * hidden * columns + 2 * hidden * 256) + 2 * length**2 * columns
    assert costs_from_macs(DIMENSIONS, length).dense == 3 * per_layer


def test_density_counts_the_linear_weights():
    """The dense price is the number of weights in the encoder's linears."""
    assert costs_from_density(DIMENSIONS).dense == 3 * (4 * 64 * 64 + 2 * 64 * 256)


def test_a_table_survives_its_json(table):
    """Written and read again it is the same table."""
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table


def test_pooling_makes_a_sequence_non_decreasing_and_keeps_its_sum():
    """Noise is averaged out of order's way; what is in order already stays."""
    noisy = np.array([1.0, 3.0, 2.0, 2.5, 5.0, 4.0])
    smooth = non_decreasing(noisy)
    assert all(a <= b for a, b in pairwise(smooth))
    assert smooth.sum() == pytest.approx(noisy.sum())
    assert np.array_equal(non_decreasing(smooth), smooth)


class Loop:
    """A search over uniform widths, and a machine on which feed-forward is 20 % dearer and the fixed part three times the table's."""

    def __init__(self, table):
        """Keep the table to search by, and the truth to measure by."""
        slower = {size: 1.2 * value for size, value in table.feed_forward_ms.items()}
        self.table = table
        self.real = table.model_copy(update={"fixed_ms": 3 * table.fixed_ms, "feed_forward_ms": slower})
        self.budgets = []

    def search(self, budget):
        """The widest uniform structure within the budget."""
        self.budgets.append(budget)
        candidates = (structure(*[(heads, neurons)] * 3) for heads in range(4, -1, -1) for neurons in range(256, -1, -4))
        fitting = [each for each in candidates if predict_ms(self.table, shapes_of(each)) <= budget]
        if not fitting:
            raise UnreachableTargetError("no mask is that fast")
        return max(fitting, key=lambda each: predict_ms(self.table, shapes_of(each)))

    def measure(self, layers):
        """The real speed-up, without noise."""
        value = predicted_speedup(self.real, layers)
        return Ratio(value, value, value)


def test_the_loop_reaches_a_target_that_the_table_mispredicts(table):
    """With a table that is wrong, the measured speed-up is within tolerance of what was asked."""
    loop = Loop(table)
    first = loop.measure(shapes_of(loop.search(budget_for(table, 2.0)))).value
    fit = fit_to_target(loop.search, table, 2.0, loop.measure, tolerance=0.05)
    assert abs(first / 2.0 - 1) > 0.05
    assert fit.measured.value == pytest.approx(2.0, rel=0.05)


def test_a_table_that_is_right_needs_one_round(table):
    """Nothing is searched twice when the first structure measures as predicted."""
    loop = Loop(table)
    loop.real = table
    fit = fit_to_target(loop.search, table, 2.0, loop.measure)
    assert fit.rounds == len(loop.budgets) == 1
    assert fit.predicted == fit.measured.value


def test_a_target_that_no_mask_reaches_is_an_error(table):
    """The search's own message reaches the caller."""
    loop = Loop(table)
    with pytest.raises(UnreachableTargetError, match="no mask"):
        fit_to_target(loop.search, table, 100.0, loop.measure)


def test_a_correction_that_asks_too_much_leaves_the_nearest(table, caplog):
    """When only the corrected budget cannot be had, the nearest structure comes back and the log says what it measures."""
    loop = Loop(table)
    most = predicted_speedup(table, [shape(0, 0)] * 3)
    with caplog.at_level(logging.WARNING):
        fit = fit_to_target(loop.search, table, 0.99 * most, loop.measure, tolerance=0.01)
    assert fit.measured.value < 0.98 * most
    assert "nearest structure" in caplog.text


def test_the_nearest_of_the_rounds_is_kept(table):
    """Whatever the last round gives, the answer is the round that came nearest."""
    speedups = iter([2.6, 2.2, 3.5])
    candidates = iter([structure((4, 128)), structure((3, 128)), structure((2, 128))])
    fit = fit_to_target(lambda _: next(candidates), table, 2.0, lambda _: Ratio(s := next(speedups), s, s))
    assert fit.measured.value == 2.2
    assert fit.structure == structure((3, 128))
