"""Search: which heads and neurons stay, given what each costs and how much there is to spend.

Every block offers levels, from all of its groups down to none. A level has a cost (measured milliseconds, MACs, parameters: one unit
throughout) and an error, what the loss is expected to suffer. `choose` takes one level per block by a multiple-choice knapsack;
`search` does so on Fisher information and then swaps groups within each layer (Kwon et al., 2022, arXiv:2204.09656); `refine`
re-weights the blocks' errors at random and keeps what the calibration loss itself prefers, as SPDY does (Frantar & Alistarh, 2022,
arXiv:2201.13096; used by ZipLM, arXiv:2302.04089).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pruning.errors import UnreachableTargetError
from pruning.importance import Importance, diagonal, full
from pruning.structure import LayerStructure, Structure
from service.artifact import LayerShape

BUCKETS = 10_000
REARRANGE_SWEEPS = 10

Floats = npt.NDArray[np.float64]
Levels = Mapping[int, float] | Sequence[float]


@dataclass(frozen=True)
class Costs:
    """What a model costs, as a sum over its blocks, in any one unit.

    Attributes:
        fixed: What no mask can save: embeddings, norms, the task's head.
        attention: Per layer, the cost with h heads kept: a sequence indexed by h from 0, or a mapping from the allowed h.
        feed_forward: The same by neurons kept; usually a mapping, for sizes on a grid. The largest entry is the dense block.
    """

    fixed: float
    attention: tuple[Levels, ...]
    feed_forward: tuple[Levels, ...]

    def total(self, shapes: Sequence[LayerShape]) -> float:
        """Cost of a model with these shapes."""
        heads = sum(levels[shape.heads] for levels, shape in zip(self.attention, shapes, strict=True))
        neurons = sum(levels[shape.intermediate] for levels, shape in zip(self.feed_forward, shapes, strict=True))
        return self.fixed + heads + neurons

    @property
    def dense(self) -> float:
        """Cost with every group in place."""
        return self.fixed + sum(_price(levels)[max(_price(levels))] for levels in (*self.attention, *self.feed_forward))

    @property
    def least(self) -> float:
        """Cost of the cheapest mask there is."""
        return self.fixed + sum(min(_price(levels).values()) for levels in (*self.attention, *self.feed_forward))


@dataclass(frozen=True)
class Ranking:
    """In which order a block gives up its groups, and the error that comes of it.

    Attributes:
        order: Group indices, the first to leave first.
        errors: float64 `[groups + 1]`; `errors[k]` is the expected error with the last `k` of `order` kept, 0 with all.
    """

    order: npt.NDArray[np.int64]
    errors: Floats

    def kept(self, count: int) -> tuple[int, ...]:
        """The groups that stay when `count` do, ascending."""
        return tuple(sorted(self.order[len(self.order) - count :].tolist()))


class Rankings(NamedTuple):
    """One ranking per layer for its attention and for its feed-forward."""

    attention: tuple[Ranking, ...]
    feed_forward: tuple[Ranking, ...]


class Refined(NamedTuple):
    """What `refine` found: the structure, and the factors on the blocks' errors, `[2 * layers]`, by which the knapsack chooses it."""

    structure: Structure
    weights: Floats


def search(importance: Importance, costs: Costs, budget: float) -> Structure:
    """The mask of least Fisher error within the budget: knapsack over the diagonal, then swaps within each layer.

    Raises:
        UnreachableTargetError: Not even the cheapest mask fits; the message says what would.
    """
    return rearrange(importance, choose(rank(importance), costs, budget))


def rank(importance: Importance) -> Rankings:
    """Groups by their diagonal Fisher information, least first; the error of a set is the sum over it."""
    return Rankings(
        attention=tuple(_ranking(diagonal(gradients).numpy()) for gradients in importance.heads),
        feed_forward=tuple(_ranking(diagonal(gradients).numpy()) for gradients in importance.neurons),
    )


def choose(rankings: Rankings, costs: Costs, budget: float, weights: Floats | None = None) -> Structure:
    """One level per block, of least total error within the budget.

    Args:
        rankings: Order and error of removal in each block.
        costs: Which levels there are, and what each costs.
        budget: What the whole model may cost, `costs.fixed` included. It is kept strictly.
        weights: Factors on the blocks' errors, `[2 * layers]`, attention and feed-forward in turn; 1 if left out.

    Raises:
        UnreachableTargetError: Not even the cheapest mask fits; the message says what would.
    """
    if budget < costs.least * (1 - 1e-12):
        raise UnreachableTargetError(
            f"a cost of at most {budget:.6g} was asked for, and the smallest that any mask reaches is {costs.least:.6g} "
            f"(dense {costs.dense:.6g}): ask for a speed-up of at most {costs.dense / costs.least:.4g}x"
        )
    blocks = [ranking for pair in zip(*rankings, strict=True) for ranking in pair]
    prices = [_price(levels) for pair in zip(costs.attention, costs.feed_forward, strict=True) for levels in pair]
    factors = np.ones(len(blocks)) if weights is None else weights
    sizes = [sorted(price) for price in prices]
    errors = [factor * block.errors[size] for factor, block, size in zip(factors, blocks, sizes, strict=True)]
    spend = [np.array([price[size] for size in grid]) for price, grid in zip(prices, sizes, strict=True)]
    levels = knapsack(errors, spend, budget - costs.fixed)
    kept = [block.kept(grid[level]) for block, grid, level in zip(blocks, sizes, levels, strict=True)]
    return tuple(LayerStructure(heads, neurons) for heads, neurons in zip(kept[::2], kept[1::2], strict=True))


def knapsack(errors: Sequence[Floats], costs: Sequence[Floats], budget: float) -> list[int]:
    """The level of each block that together err least while their costs stay within the budget.

    Dynamic programming over `BUCKETS` equal steps between the cheapest choice and the budget. Costs are rounded up to a step, so the
    budget is kept strictly and at most a step per block of it is left unused.

    Args:
        errors: Per block, `[levels]`.
        costs: Per block, `[levels]`; every block's cheapest level must fit the budget together.
        budget: Upper bound of the sum of costs.
    """
    extra = [cost - cost.min() for cost in costs]
    room = budget - sum(float(cost.min()) for cost in costs)
    if sum(float(cost.max()) for cost in extra) <= room:
        return [int(np.lexsort((cost, error))[0]) for error, cost in zip(errors, costs, strict=True)]
    step = room / BUCKETS
    steps = [np.ceil(cost / step - 1e-9) if step > 0 else np.where(cost > 0, np.inf, 0.0) for cost in extra]
    best = np.zeros(BUCKETS + 1)
    choices = []
    for error, taken in zip(errors, steps, strict=True):
        best, choice = _take_block(best, error, taken)
        choices.append(choice)
    return _trace(choices, steps)


def rearrange(importance: Importance, structure: Structure) -> Structure:
    """Swap removed groups for kept ones within each layer's blocks while the full Fisher error falls; counts stay as they are."""
    return tuple(
        LayerStructure(heads=_swap(full(heads).numpy(), stays.heads), neurons=_swap(full(neurons).numpy(), stays.neurons))
        for heads, neurons, stays in zip(importance.heads, importance.neurons, structure, strict=True)
    )


def fisher_error(information: Floats, kept: Sequence[int]) -> float:
    """Expected rise of the loss, up to a factor, when all but `kept` leave: the sum of the removed groups' Fisher block."""
    removed = np.setdiff1d(np.arange(len(information)), np.array(kept, dtype=np.int64))
    return float(information[np.ix_(removed, removed)].sum())


def refine(
    rankings: Rankings,
    costs: Costs,
    budget: float,
    evaluate: Callable[[Structure], float],
    *,
    trials: int = 50,
    start: Floats | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Refined:
    """Search around the knapsack's answer for the mask with the least *measured* loss.

    Each trial multiplies some blocks' errors by random factors, solves the knapsack anew and evaluates the mask; the factors of the
    best mask so far are the next trial's starting point.

    Args:
        rankings: As for `choose`.
        costs: As for `choose`.
        budget: As for `choose`.
        evaluate: Calibration loss of a mask; called at most `trials + 1` times, never twice for one mask.
        trials: How many re-weightings to try; with 0 the knapsack's answer stands.
        start: Factors to begin with, such as those found for a budget near this one; 1 if left out.
        seed: Of the random factors; the result is a function of the arguments.
        progress: Show a progress bar on stderr.
    """
    random = np.random.default_rng(seed)
    weights = np.ones(2 * len(rankings.attention)) if start is None else start
    best = choose(rankings, costs, budget, weights)
    losses = {best: evaluate(best)}
    bar = tqdm(range(trials), desc="search", unit="trial", disable=not progress)
    for trial in bar:
        candidate = weights * _factors(random, len(weights), trial / trials)
        structure = choose(rankings, costs, budget, candidate)
        if structure not in losses:
            losses[structure] = evaluate(structure)
        if losses[structure] < losses[best]:
            best, weights = structure, candidate
            bar.set_postfix(loss=f"{losses[best]:.4g}")
    return Refined(best, weights)


def _factors(random: np.random.Generator, blocks: int, progress: float) -> Floats:
    """Log-normal factors on a random fifth of the blocks, at least one; the steps shrink as the search goes on."""
    chosen = random.random(blocks) < 0.2
    chosen[random.integers(blocks)] = True
    return np.exp(chosen * random.normal(scale=1.5 - progress, size=blocks))


def _price(levels: Levels) -> Mapping[int, float]:
    return levels if isinstance(levels, Mapping) else dict(enumerate(levels))


def _ranking(scores: Floats) -> Ranking:
    order = np.argsort(scores, kind="stable")
    return Ranking(order=order, errors=np.concatenate([[0.0], np.cumsum(scores[order])])[::-1])


def _take_block(best: Floats, error: Floats, taken: Floats) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Add a block to `best[s]`, the least error of the blocks so far within s steps; also the block's level at each s."""
    options = np.full((len(error), len(best)), np.inf)
    for level, steps in enumerate(taken):
        if steps < len(best):
            options[level, int(steps) :] = best[: len(best) - int(steps)] + error[level]
    choice = options.argmin(axis=0)
    return np.take_along_axis(options, choice[None], axis=0)[0], choice


def _trace(choices: Sequence[npt.NDArray[np.int64]], steps: Sequence[Floats]) -> list[int]:
    """Walk back from the full budget to each block's level."""
    left, levels = BUCKETS, []
    for choice, taken in zip(reversed(choices), reversed(steps), strict=True):
        levels.append(int(choice[left]))
        left -= int(taken[levels[-1]])
    return levels[::-1]


def _swap(information: Floats, kept: Sequence[int]) -> tuple[int, ...]:
    """Greedy exchange of one kept for one removed group while `fisher_error` falls.

    With m the indicator of the removed, the error is m' F m; swapping a removed r for a kept k changes it by
    F[r,r] + F[k,k] - 2 F[r,k] - 2 (F m)[r] + 2 (F m)[k].
    """
    removed = np.ones(len(information), dtype=bool)
    removed[list(kept)] = False
    own = information.diagonal()
    for _ in range(REARRANGE_SWEEPS * len(information)):
        out, back = np.flatnonzero(~removed), np.flatnonzero(removed)
        if not (len(out) and len(back)):
            break
        pull = information @ removed
        gain_back, gain_out = own[back] - 2 * pull[back], own[out] + 2 * pull[out]
        change = gain_back[:, None] + gain_out[None, :] - 2 * information[np.ix_(back, out)]
        row, column = np.unravel_index(change.argmin(), change.shape)
        if change[row, column] >= -1e-12 * abs(own).sum():
            break
        removed[back[row]], removed[out[column]] = False, True
    return tuple(np.flatnonzero(~removed).tolist())
