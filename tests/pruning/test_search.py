"""Search: the knapsack, the swaps within a layer, and the search around them."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning.errors import UnreachableTargetError
from pruning.importance import Importance, full
from pruning.search import BUCKETS, Costs, choose, fisher_error, knapsack, rank, rearrange, refine, search
from pruning.structure import Structure, shapes_of

LAYERS, HEADS, NEURONS = 3, 4, 24
GRID = range(0, NEURONS + 1, 4)


def importance_of(seed: int) -> Importance:
    """Random gradients whose groups differ in size and are correlated."""
    generator = torch.Generator().manual_seed(seed)

    def gradients(groups: int) -> torch.Tensor:
        mixing = torch.randn(groups, groups, generator=generator)
        return torch.randn(50, groups, generator=generator) @ mixing * torch.rand(groups, generator=generator)

    return Importance(tuple(gradients(HEADS) for _ in range(LAYERS)), tuple(gradients(NEURONS) for _ in range(LAYERS)), ())


def costs_of(*, fixed: float = 2.0) -> Costs:
    """A head costs 1, a neuron 0.25, and a block that is there at all 0.5."""
    attention = tuple(heads + 0.5 * (heads > 0) for heads in range(HEADS + 1))
    return Costs(fixed, (attention,) * LAYERS, ({size: 0.25 * size + 0.5 * (size > 0) for size in GRID},) * LAYERS)


def diagonal_error(importance: Importance, structure: Structure) -> float:
    """Sum of the diagonal Fisher information of everything that was removed."""
    total = 0.0
    for heads, neurons, kept in zip(importance.heads, importance.neurons, structure, strict=True):
        for gradients, stays in ((heads, kept.heads), (neurons, kept.neurons)):
            scores = gradients.double().square().mean(0)
            total += float(scores.sum() - scores[list(stays)].sum())
    return total


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray], float]:
    """A few blocks with a few levels each, and a budget that something fits."""
    levels = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    number = st.integers(0, 20)
    errors = [np.array([draw(number) for _ in range(count)], dtype=float) for count in levels]
    costs = [np.array([draw(number) for _ in range(count)], dtype=float) for count in levels]
    least, most = (sum(extreme(cost) for cost in costs) for extreme in (np.min, np.max))
    return errors, costs, draw(st.integers(int(least), int(most) + 1))


@settings(deadline=None)
@given(problems())
def test_knapsack_is_as_good_as_trying_everything(problem: tuple[list[np.ndarray], list[np.ndarray], float]) -> None:
    """The levels found fit the budget, and err no more than any others that leave the step per block that rounding may take."""
    errors, costs, budget = problem
    step = (budget - sum(float(cost.min()) for cost in costs)) / BUCKETS
    every = list(itertools.product(*(range(len(error)) for error in errors)))
    spent = [sum(cost[level] for cost, level in zip(costs, levels, strict=True)) for levels in every]
    erred = [sum(error[level] for error, level in zip(errors, levels, strict=True)) for levels in every]

    levels = knapsack(errors, costs, budget)

    found = every.index(tuple(levels))
    assert spent[found] <= budget
    assert erred[found] >= min(error for error, cost in zip(erred, spent, strict=True) if cost <= budget)
    roomy = [error for error, cost in zip(erred, spent, strict=True) if cost <= budget - len(costs) * step]
    assert all(erred[found] <= error for error in roomy)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9])
def test_budget_is_kept_and_used(share: float) -> None:
    """The mask costs no more than was allowed, and less than one head's worth is left over."""
    costs = costs_of()
    budget = share * costs.dense

    spent = costs.total(shapes_of(search(importance_of(0), costs, budget)))

    assert budget - 1.5 <= spent <= budget


def test_more_budget_never_costs_accuracy() -> None:
    """The error of the chosen mask falls, or stays, as the budget grows."""
    importance, costs = importance_of(1), costs_of()
    budgets = np.linspace(costs.least, costs.dense, 12)

    errors = [diagonal_error(importance, choose(rank(importance), costs, budget)) for budget in budgets]

    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(errors))
    assert errors[0] > errors[-1] == 0


def test_within_a_block_the_least_important_leave() -> None:
    """Before swaps, nothing that left had more diagonal information than something that stayed."""
    importance, costs = importance_of(2), costs_of()

    structure = choose(rank(importance), costs, 0.5 * costs.dense)

    for gradients, kept in zip(importance.neurons, structure, strict=True):
        scores = gradients.square().mean(0)
        removed = sorted(set(range(NEURONS)) - set(kept.neurons))
        if removed and kept.neurons:
            assert scores[removed].max() <= scores[list(kept.neurons)].min()


def test_sizes_stay_on_the_grid() -> None:
    """Only levels that the costs name are chosen."""
    structure = search(importance_of(3), costs_of(), 0.6 * costs_of().dense)

    assert {len(layer.neurons) for layer in structure} <= set(GRID)


@pytest.mark.parametrize("seed", range(5))
def test_rearranging_never_raises_the_full_fisher_error(seed: int) -> None:
    """Swaps keep the counts and lower the error with correlations counted, on at least one block here."""
    importance, costs = importance_of(seed), costs_of()
    before = choose(rank(importance), costs, 0.5 * costs.dense)

    after = rearrange(importance, before)

    pairs = [
        (fisher_error(full(gradients).numpy(), old), fisher_error(full(gradients).numpy(), new))
        for gradients, old, new in zip(
            importance.heads + importance.neurons,
            [layer.heads for layer in before] + [layer.neurons for layer in before],
            [layer.heads for layer in after] + [layer.neurons for layer in after],
            strict=True,
        )
    ]
    assert shapes_of(after) == shapes_of(before)
    assert all(new <= old * (1 + 1e-9) for old, new in pairs)
    assert any(new < 0.99 * old for old, new in pairs)


def test_rearranging_finds_the_pair_that_cancels() -> None:
    """Two groups whose gradients are opposite are removed together although each alone matters more than a third."""
    gradients = torch.tensor([[2.0, -2.0, 1.0], [-2.0, 2.0, 1.0]])
    importance = Importance((gradients,), (gradients[:, :0],), ())
    costs = Costs(0.0, ((0.0, 1.0, 2.0, 3.0),), ((0.0,),))

    assert search(importance, costs, 1.0)[0].heads == (2,)


def test_a_budget_below_everything_is_refused_with_what_can_be_reached() -> None:
    """The message names the smallest cost and the largest speed-up there is."""
    with pytest.raises(UnreachableTargetError, match=r"smallest that any mask reaches is 2 .*at most 17\.5x"):
        search(importance_of(0), costs_of(), 1.9)


def test_the_least_budget_removes_everything() -> None:
    """What the error message says can be reached is reached."""
    costs = costs_of()

    structure = search(importance_of(0), costs, costs.least)

    assert costs.total(shapes_of(structure)) == costs.least


def test_the_dense_budget_removes_nothing() -> None:
    """A budget of the dense cost, or more, is no reason to remove anything."""
    costs = costs_of()

    structure = search(importance_of(0), costs, costs.dense)

    assert [(len(layer.heads), len(layer.neurons)) for layer in structure] == [(HEADS, NEURONS)] * LAYERS


def test_removed_blocks_are_passed_over() -> None:
    """A layer whose attention is gone already takes part with its feed-forward alone."""
    importance, costs = importance_of(0), costs_of()
    importance = Importance((importance.heads[0][:, :0], *importance.heads[1:]), importance.neurons, ())
    costs = Costs(costs.fixed, ((0.0,), *costs.attention[1:]), costs.feed_forward)

    structure = search(importance, costs, 0.5 * costs.dense)

    assert structure[0].heads == ()
    assert costs.total(shapes_of(structure)) <= 0.5 * costs.dense


def test_refining_finds_what_the_measured_loss_prefers() -> None:
    """When the true loss counts only the first layer, the search comes to keep more of it than the knapsack did."""
    importance, costs = importance_of(4), costs_of()
    budget = 0.5 * costs.dense

    def evaluate(structure: Structure) -> float:
        return -float(len(structure[0].heads) + len(structure[0].neurons))

    plain = choose(rank(importance), costs, budget)
    refined = refine(rank(importance), costs, budget, evaluate, trials=40).structure

    assert evaluate(refined) < evaluate(plain)
    assert costs.total(shapes_of(refined)) <= budget


def test_refining_is_deterministic_and_bounded() -> None:
    """The same arguments give the same mask, each mask is evaluated once, and the number of trials is kept."""
    importance, costs = importance_of(5), costs_of()
    seen: list[Structure] = []

    def evaluate(structure: Structure) -> float:
        seen.append(structure)
        return float(hash(structure) % 1000)

    results = [refine(rank(importance), costs, 0.5 * costs.dense, evaluate, trials=15, seed=7).structure for _ in range(2)]

    assert results[0] == results[1]
    assert len(seen) == 2 * len(set(seen))
    assert len(seen) <= 2 * 16


def test_refining_with_no_trials_is_the_knapsack() -> None:
    """Zero trials leave the knapsack's answer as it is."""
    importance, costs = importance_of(6), costs_of()
    budget = 0.5 * costs.dense

    assert refine(rank(importance), costs, budget, lambda structure: 0.0, trials=0).structure == choose(rank(importance), costs, budget)


def test_refining_goes_on_from_weights_that_were_found() -> None:
    """The weights that refining returns choose its structure; with them and no trials it is found again, at a nearby budget kept too."""
    importance, costs = importance_of(4), costs_of()
    budget = 0.5 * costs.dense

    def evaluate(structure: Structure) -> float:
        return -float(len(structure[0].heads) + len(structure[0].neurons))

    found = refine(rank(importance), costs, budget, evaluate, trials=40)
    again = refine(rank(importance), costs, budget, evaluate, trials=0, start=found.weights)
    near = refine(rank(importance), costs, 0.45 * costs.dense, evaluate, trials=0, start=found.weights).structure

    assert again.structure == found.structure
    assert costs.total(shapes_of(near)) <= 0.45 * costs.dense
    assert evaluate(near) < evaluate(choose(rank(importance), costs, 0.45 * costs.dense))
