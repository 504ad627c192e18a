"""Pruning with no training, put together: importance -> search at a budget -> reconstruction.

Kwon et al. (2022, arXiv:2204.09656), with four changes: the budget is measured milliseconds (`latency.py`), groups are ranked by what
their removal costs after the others were refitted (`surgeon.py`), the search is refined on the calibration loss of refitted models
(`preview.py`), and what is left is refitted by least squares. One importance pass serves any number of targets. With reconstruction
switched off, ranking and search are Kwon's own.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.bench import StructuralBench, dimensions_of, latency_table
from pruning.config import DensityTarget, GenerationTarget, MacsTarget, ParametersTarget, PruneConfig, SpeedupTarget, Target
from pruning.distillation import distillation_losses
from pruning.errors import DataError, NothingPrunedError
from pruning.examples import Example
from pruning.generation_bench import GenerationBench, generation_prices
from pruning.importance import Importance, inference, real_tokens
from pruning.latency import Condition, Fit, costs_from_density, costs_from_macs, costs_from_parameters, costs_from_table, fit_to_target
from pruning.preview import Preview
from pruning.reconstruction import BlockFit, reconstruct
from pruning.search import Costs, Floats, choose, rank, rearrange, refine
from pruning.structure import Structure, bake, dense_structure, gated, parameters, shapes, shapes_of, sides
from pruning.surgeon import rank_by_surgeon
from pruning.targets import condition_of
from pruning.tasks.base import Batch, Task, batches, inputs_of
from pruning.training import computes_in_bf16

logger = logging.getLogger(__name__)

SEARCH_BATCHES = 4
CORRECTION_SHARE = 4


@dataclass(frozen=True)
class Calibration:
    """The calibration sample.

    Attributes:
        batches: Of like lengths, targets included; what importance and reconstruction see.
        search: A few of them, drawn evenly over the lengths; what candidate structures are scored on.
    """

    batches: tuple[Batch, ...]
    search: tuple[Batch, ...]


@dataclass(frozen=True)
class Pruning:
    """What pruning to one target decided and did.

    Attributes:
        structure: What stays.
        fit: Predicted and measured structural speed-up; None for targets that are no speed-up.
        blocks: What reconstruction did to each block; empty if it was switched off.
    """

    structure: Structure
    fit: Fit | None
    blocks: tuple[BlockFit, ...]


def calibration_sample(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    config: PruneConfig,
    *,
    max_length: int,
    stride: int,
    seed: int,
    target_length: int = 64,
) -> Calibration:
    """Draw the calibration sample from training examples; a long context counts once for each of its windows."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(examples), generator=generator)[: config.calibration_examples].tolist()
    rows = task.features([examples[i] for i in drawn], tokenizer, max_length=max_length, stride=stride, target_length=target_length)
    features = rows[: config.calibration_examples]
    order = torch.randperm(len(features), generator=generator).tolist()
    shuffled = [features[i] for i in order]
    if len(features) < 2:
        raise DataError(f"{len(features)} calibration example(s): pruning needs at least two, and does well with 1,024")
    by_length = batches(shuffled, tokenizer, batch_size=min(config.batch_size, len(features) // 2))
    mixed = [by_length[i] for i in torch.randperm(len(by_length), generator=generator).tolist()]
    return Calibration(batches=tuple(mixed), search=tuple(mixed[:SEARCH_BATCHES]))


def prune(
    model: PreTrainedModel,
    task: Task,
    importance: Importance,
    calibration: Calibration,
    target: Target,
    config: PruneConfig,
    *,
    seed: int,
    outputs: int | None = None,
) -> Pruning:
    """Prune `model` in place to one target: afterwards removed groups have zero columns and survivors are refitted.

    Args:
        model: The dense model, fine-tuned.
        task: Its task.
        importance: From one pass over the calibration sample; shared by all targets.
        calibration: Scores candidate structures, and is what reconstruction fits to.
        target: What to reach.
        config: How much to search, and whether to reconstruct.
        seed: Of the search.
        outputs: Tokens that a model chooses from once its vocabulary is reduced, which a speed-up of generation then reckons with.

    Raises:
        UnreachableTargetError: No mask reaches the target; the message says what can be reached.
        NothingPrunedError: The target is met by removing nothing.
    """
    find = _finder(model, task, importance, calibration, config, seed=seed)
    fit: Fit | None = None
    match target:
        case SpeedupTarget():
            fit = _fit_speedup(model, task, target, find)
            structure = fit.structure
        case GenerationTarget():
            fit = _fit_generation(model, target, find, outputs=outputs)
            structure = fit.structure
        case DensityTarget():
            costs = costs_from_density(dimensions_of(model, task.name), shapes(model))
            structure = find(costs, costs.dense * target.density)
        case MacsTarget():
            dimensions = dimensions_of(model, task.name)
            costs = costs_from_macs(
                dimensions, target.sequence_length, shapes(model), sides=sides(model), target_length=target.target_length
            )
            structure = find(costs, costs.dense * target.macs)
        case ParametersTarget():
            costs = costs_from_parameters(dimensions_of(model, task.name), parameters(model).total, shapes(model))
            structure = find(costs, costs.dense * target.parameters)
    if structure == dense_structure(model):
        raise NothingPrunedError(f"target {target.label} is met by removing nothing; ask for more")
    logger.info("target=%s layers=%s", target.label, [(s.heads, s.intermediate) for s in shapes_of(structure)])
    if not config.reconstruct:
        bake(model, structure)
        return Pruning(structure, fit, ())
    return Pruning(structure, fit, reconstruct(model, structure, calibration.batches, bf16=computes_in_bf16(), progress=True))


def _finder(
    model: PreTrainedModel, task: Task, importance: Importance, calibration: Calibration, config: PruneConfig, *, seed: int
) -> Callable[[Costs, float], Structure]:
    """The search at a price list and a budget, refined on calibration loss; it reckons with reconstruction where there will be one.

    A search for a corrected budget goes on from where the one before ended, with fewer trials.
    """
    rankings = rank_by_surgeon(model, importance) if config.reconstruct else rank(importance)
    applied = Preview(model, importance).refitted if config.reconstruct else functools.partial(gated, model)
    loss = functools.cache(calibration_loss(model, task, calibration.search, applied))
    weights: Floats | None = None

    def find(costs: Costs, budget: float) -> Structure:
        nonlocal weights
        if config.search_trials:
            trials = config.search_trials if weights is None else config.search_trials // CORRECTION_SHARE
            found, weights = refine(rankings, costs, budget, loss, trials=trials, start=weights, seed=seed, progress=True)
        else:
            found = choose(rankings, costs, budget)
        return found if config.reconstruct else rearrange(importance, found)

    return find


def _fit_speedup(model: PreTrainedModel, task: Task, target: SpeedupTarget, find: Callable[[Costs, float], Structure]) -> Fit:
    """Search in measured milliseconds, and correct the budget by what whole models of the structure found measure."""
    condition = Condition(precision=target.precision, sequence_length=target.sequence_length, runtime=target.runtime)
    table = latency_table(model, task.name, condition)
    costs = costs_from_table(table, shapes(model))
    bench = StructuralBench(model, task.name, condition)
    return fit_to_target(lambda budget: find(costs, budget), table, target.speedup, bench.speedup)


def _fit_generation(
    model: PreTrainedModel, target: GenerationTarget, find: Callable[[Costs, float], Structure], *, outputs: int | None
) -> Fit:
    """As `_fit_speedup`, for what generating takes."""
    condition = condition_of(target)
    prices = generation_prices(model, condition, outputs=outputs)
    costs = prices.costs(shapes(model))
    bench = GenerationBench(model, condition, outputs=outputs)
    return fit_to_target(lambda budget: find(costs, budget), prices, target.speedup, bench.speedup)


def calibration_loss(
    model: PreTrainedModel, task: Task, search: Sequence[Batch], applied: Callable[[Structure], AbstractContextManager[None]]
) -> Callable[[Structure], float]:
    """Scores a structure: the mean divergence of the outputs from the dense model's, in nats, inside `applied(structure)`.

    Of a model that generates, outputs are the tokens of the targets, each counted alike. In bf16 where the machine computes in it: both
    sides are rounded alike, and a score only has to order structures.
    """

    def outputs(batch: Batch) -> tuple[torch.Tensor, ...]:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=computes_in_bf16()):
            found = tuple(logits.float() for logits in task.logits(model(**inputs_of(batch, task))))
        return (found[0][real_tokens(batch, "decoder")],) if found[0].ndim == 3 else found

    with inference(model), torch.no_grad():
        references = [outputs(batch) for batch in search]

    def loss(structure: Structure) -> float:
        with inference(model), torch.no_grad(), applied(structure):
            found = [
                distillation_losses(
                    outputs(batch), reference, temperature=1.0, attention_mask=batch["attention_mask"] if len(reference) > 1 else None
                )
                for batch, reference in zip(search, references, strict=True)
            ]
        return float(torch.cat(found).mean())

    return loss
