"""What a target counts, read from masks while a model is trained: the share of the dense model that is left."""

from collections.abc import Callable

from transformers import PreTrainedModel

from pruning.bench import dimensions_of, latency_table
from pruning.compaction import live_structure
from pruning.config import DensityTarget, GenerationTarget, MacsTarget, ParametersTarget, SpeedupTarget, Target
from pruning.errors import NothingPrunedError, UnreachableTargetError
from pruning.generation_bench import generation_prices
from pruning.generation_latency import GenerationCondition
from pruning.latency import Condition, costs_from_macs, costs_from_parameters, predict_ms
from pruning.masking import Masks
from pruning.processes import from_main
from pruning.structure import parameters, shapes, shapes_of, sides
from service.artifact import LayerShape

Left = Callable[[Masks], float]


def goal_of(target: Target) -> float:
    """The share that a target asks for: of the weights, of the multiply-accumulates, of the parameters, or of the time."""
    match target:
        case SpeedupTarget() | GenerationTarget():
            return 1 / target.speedup
        case DensityTarget():
            return target.density
        case MacsTarget():
            return target.macs
        case ParametersTarget():
            return target.parameters


def left_by_density(model: PreTrainedModel) -> Left:
    """Share of the layers' linear weights that no closed gate masks; `model` has no masks yet."""
    total = parameters(model).encoder
    return lambda masks: 1 - masks.closed() / total


def left_by(target: Target, model: PreTrainedModel, task: str, *, outputs: int | None = None) -> Left:
    """Reads the share that a target counts; `model` has no masks yet. For a speed-up its latency table is measured, or found.

    Args:
        target: what is to be reached.
        model: of any structure.
        task: the task, by its standard name.
        outputs: tokens that the model chooses from once its vocabulary is reduced, which a speed-up of generation then reckons with.

    Raises:
        NothingPrunedError: a model that dropped layers or output tokens reaches it as it is.
    """
    match target:
        case DensityTarget():
            return left_by_density(model)
        case MacsTarget():
            dense = shapes(model)
            costs = costs_from_macs(
                dimensions_of(model, task), target.sequence_length, dense, sides=sides(model), target_length=target.target_length, step=1
            )
            return lambda masks: costs.total(live_shapes(model)) / costs.total(dense)
        case ParametersTarget():
            dense, total = shapes(model), parameters(model).total
            costs = costs_from_parameters(dimensions_of(model, task), total, dense, step=1)
            return lambda masks: costs.total(live_shapes(model)) / total
        case SpeedupTarget():
            condition = Condition(precision=target.precision, sequence_length=target.sequence_length, runtime=target.runtime)
            table = from_main(lambda: latency_table(model, task, condition))
            whole = predict_ms(table, shapes(model))
            return lambda masks: predict_ms(table, live_shapes(model)) / whole
        case GenerationTarget():
            prices = from_main(lambda: generation_prices(model, condition_of(target), outputs=outputs))
            if prices.latency_ms(shapes(model)) <= prices.dense_ms / target.speedup:
                raise NothingPrunedError(f"target {target.label} is met before anything is pruned; ask for more")
            return lambda masks: prices.latency_ms(live_shapes(model)) / prices.dense_ms


def check_reachable(masks: Masks, left: Left, goal: float) -> None:
    """Close every gate once: what is left then must be less than what the target asks for.

    Args:
        masks: on the model, as they will be trained.
        left: reads what the target counts.
        goal: the share of it that is to be left.

    Raises:
        UnreachableTargetError: it is not; the message says what can be reached.
    """
    with masks.all_closed():
        least = left(masks)
    if goal <= least:
        raise UnreachableTargetError(
            f"the target is out of reach: {100 * goal:.3g} % of what it counts is to be left (1/{1 / goal:.3g}), and with every gate "
            f"closed that `granularity` gives {100 * least:.3g} % is (1/{1 / least:.3g}); ask for more to be left, or give gates to more "
            "of the model"
        )


def condition_of(target: GenerationTarget) -> GenerationCondition:
    """What the latency that a target speaks of is a latency of."""
    return GenerationCondition(**target.model_dump(exclude={"speedup"}))


def live_shapes(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    """Heads and neurons of each layer that compaction will leave."""
    return shapes_of(live_structure(model))
