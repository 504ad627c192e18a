"""The ranking that takes refitting into account."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pruning.families import family_of
from pruning.importance import Curvature, Importance, fisher, output_probe
from pruning.surgeon import GRADIENT_DAMPING, INPUT_DAMPING, _damped, _rank_block, rank_by_surgeon
from tests.pruning.helpers import ModelFactory, random_batch
from tests.pruning.test_preview import importance_of
from tests.pruning.test_reconstruction import sample, with_twins

HIDDEN, COLUMNS = 6, 40


def block_of(seed: int) -> tuple[Tensor, Curvature]:
    """A random projection `[hidden, columns]` with correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(500, COLUMNS + 1, generator=generator) @ torch.randn(COLUMNS + 1, COLUMNS + 1, generator=generator)
    gradients = torch.randn(500, HIDDEN, generator=generator) * torch.rand(HIDDEN, generator=generator)
    weight = torch.randn(HIDDEN, COLUMNS, generator=generator, dtype=torch.float64)
    return weight, Curvature(inputs.T @ inputs / 500, gradients.T @ gradients / 500)


def refitted_error(weight: Tensor, curvature: Curvature, removed: list[int]) -> float:
    """The definition: the least damped error, in the damped metric, over all weights that are zero in these columns."""
    moments = _damped(curvature.inputs.double(), INPUT_DAMPING)
    metric = _damped(curvature.gradients.double(), GRADIENT_DAMPING)
    left = [column for column in range(COLUMNS + 1) if column not in removed]
    schur = moments[removed][:, removed] - moments[removed][:, left] @ torch.linalg.solve(moments[left][:, left], moments[left][:, removed])
    return float(torch.trace(metric @ weight[:, removed] @ schur @ weight[:, removed].T))


@pytest.mark.parametrize("groups", [COLUMNS, 5])
def test_errors_are_those_of_the_best_refit(groups: int) -> None:
    """At every point of the removal where a batch ends, the error is that of the least-squares weights with these columns gone."""
    weight, curvature = block_of(0)
    size = COLUMNS // groups
    steps = [0, 16, 32, 40] if size == 1 else range(groups + 1)

    ranking = _rank_block(weight, groups, curvature)

    for gone in steps:
        removed = [group * size + column for group in ranking.order[:gone].tolist() for column in range(size)]
        expected = refitted_error(weight, curvature, removed) if removed else 0.0
        assert ranking.errors[groups - gone] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_first_group_to_leave_is_the_cheapest() -> None:
    """No other head could have been removed at a smaller error."""
    weight, curvature = block_of(1)

    first = int(_rank_block(weight, 5, curvature).order[0])

    errors = [refitted_error(weight, curvature, list(range(8 * head, 8 * head + 8))) for head in range(5)]
    assert first == int(np.argmin(errors))


def test_every_group_leaves_once_and_errors_only_grow(tiny_model: ModelFactory, family: str) -> None:
    """A ranking is a permutation, and keeping more never errs more."""
    model = tiny_model(family)

    rankings = rank_by_surgeon(model, importance_of(model, sample(family, batches=4)))

    for ranking in rankings.attention + rankings.feed_forward:
        assert sorted(ranking.order.tolist()) == list(range(len(ranking.order)))
        assert all(more <= fewer for fewer, more in itertools.pairwise(ranking.errors))
        assert ranking.errors[-1] == 0


def test_of_two_twins_one_leaves_for_nothing(tiny_model: ModelFactory, family: str) -> None:
    """Heads that duplicate others cost far less to remove than the same heads where they are alone."""
    alone, twins = tiny_model(family), tiny_model(family)
    with_twins(twins)

    before, after = (rank_by_surgeon(model, importance_of(model, sample(family))).attention[0].errors for model in (alone, twins))

    assert after[2] / after[0] < 0.3 * before[2] / before[0]


def test_directions_that_no_prediction_depends_on_cost_nothing() -> None:
    """A neuron that writes only where the gradient is zero leaves before all others, however large its weights are."""
    weight, curvature = block_of(2)
    curvature.gradients[0] = curvature.gradients[:, 0] = 0
    weight[1:, 7], weight[0, 7] = 0, 5

    ranking = _rank_block(weight, COLUMNS, curvature)

    assert 7 in ranking.order[:16]
    assert 7 not in _rank_block(weight, COLUMNS, Curvature(curvature.inputs, torch.eye(HIDDEN))).order[:16]


def test_removed_blocks_have_nothing_to_rank(tiny_model: ModelFactory, family: str) -> None:
    """A block that was compacted away has an empty ranking with no error."""
    model = tiny_model(family)
    family_of(model).remove_attention(model, 1, torch.zeros(32))

    ranking = rank_by_surgeon(model, importance_of(model, sample(family, batches=2))).attention[1]

    assert ranking.kept(0) == ()
    assert ranking.errors.tolist() == [0]


def test_the_ranking_can_be_computed_from_a_file(tiny_model: ModelFactory) -> None:
    """Importance that went through a file gives the same order."""
    model = tiny_model()
    importance = fisher(model, [random_batch()], output_probe(lambda outputs: (outputs.start_logits, outputs.end_logits)))

    there, back = rank_by_surgeon(model, importance), rank_by_surgeon(model, Importance.from_tensors(importance.tensors()))

    assert_close(there.feed_forward[2].errors.copy(), back.feed_forward[2].errors.copy())
