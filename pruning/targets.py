"""What a target counts, read from masks while a model is trained: the share of the dense model that is left."""

from collections.abc import Callable

from transformers import PreTrainedModel

from pruning.bench import dimensions_of, latency_table
from pruning.compaction import live_heads, live_neurons
from pruning.config import DensityTarget, MacsTarget, SpeedupTarget, Target
from pruning.families import EncoderLayer, family_of
from pruning.latency import Condition, costs_from_macs, predict_ms
from pruning.masking import Masks
from pruning.structure import parameters, shapes
from service.artifact import LayerShape

Left = Callable[[Masks], float]


def goal_of(target: Target) -> float:
    """The share that a target asks for: of the weights, of the multiply-accumulates, or of the time."""
    match target:
        case SpeedupTarget():
            return 1 / target.speedup
        case DensityTarget():
            return target.density
        case MacsTarget():
            return target.macs


def left_by_density(model: PreTrainedModel) -> Left:
    """Share of the encoder's linear weights that no closed gate masks; `model` has no masks yet."""
    total = parameters(model).encoder
    return lambda masks: 1 - masks.closed() / total


def left_by(target: Target, model: PreTrainedModel, task: str) -> Left:
    """Reads the share that a target counts; `model` has no masks yet. For a speed-up its latency table is measured, or found."""
    match target:
        case DensityTarget():
            return left_by_density(model)
        case MacsTarget():
            dense = shapes(model)
            costs = costs_from_macs(dimensions_of(model, task), target.sequence_length, dense, step=1)
            return lambda masks: costs.total(live_shapes(model)) / costs.total(dense)
        case SpeedupTarget():
            table = latency_table(
                model, task, Condition(precision=target.precision, sequence_length=target.sequence_length, runtime=target.runtime)
            )
            whole = predict_ms(table, shapes(model))
            return lambda masks: predict_ms(table, live_shapes(model)) / whole


def live_shapes(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    """Heads and neurons of each layer that compaction will leave."""
    return tuple(
        LayerShape(heads=_heads(layer), intermediate=int(live_neurons(layer.feed_forward).sum()) if layer.feed_forward else 0)
        for layer in family_of(model).layers(model)
    )


def _heads(layer: EncoderLayer) -> int:
    return int(live_heads(layer.attention).sum()) if layer.attention else 0
