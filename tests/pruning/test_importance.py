"""Importance: gradients of gates on heads and neurons, per example."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from pruning.families import family_of
from pruning.importance import Batch, diagonal, fisher, full, inference
from pruning.structure import bake, dense_structure
from tests.pruning.helpers import ModelFactory, random_batch


def labelled(family: str, seed: int, rows: int = 3) -> dict[str, Tensor]:
    """A batch with the labels of span extraction."""
    generator = torch.Generator().manual_seed(seed)
    spans = {name: torch.randint(0, 8, (rows,), generator=generator) for name in ("start_positions", "end_positions")}
    return random_batch(family, seed=seed, rows=rows) | spans


def losses(outputs: object, batch: Batch) -> Tensor:
    """Cross-entropy of the span, float `[batch]`."""
    start = torch.nn.functional.cross_entropy(outputs.start_logits, batch["start_positions"], reduction="none")
    return start + torch.nn.functional.cross_entropy(outputs.end_logits, batch["end_positions"], reduction="none")


def loss_with_gate(model: PreTrainedModel, batch: Batch, row: int, linear: torch.nn.Linear, columns: slice, gate: float) -> float:
    """Loss of one example with some input columns of one linear multiplied by a number."""
    weight = linear.weight.detach().clone()
    with torch.no_grad():
        linear.weight[:, columns] *= gate
        value = losses(model(**batch), batch)[row].item()
        linear.weight.copy_(weight)
    return value


def test_gradients_are_those_of_each_example_alone(tiny_model: ModelFactory, family: str) -> None:
    """A batch gives every example the gradient that it has when it is run by itself."""
    model = tiny_model(family, dtype=torch.float64)
    batch = labelled(family, seed=1)
    alone = [{name: tensor[row : row + 1] for name, tensor in batch.items()} for row in range(3)]

    together, one_by_one = fisher(model, [batch], losses), fisher(model, alone, losses)

    for left, right in zip(together.heads + together.neurons, one_by_one.heads + one_by_one.neurons, strict=True):
        assert_close(left, right, rtol=1e-5, atol=1e-7)
        assert left.abs().max() > 1e-6


def test_gradients_are_the_slope_of_the_loss_in_the_gate(tiny_model: ModelFactory, family: str) -> None:
    """Scaling the columns of a head or a neuron a little moves an example's loss as its gradient says."""
    model = tiny_model(family, dtype=torch.float64)
    batch, row, step = labelled(family, seed=2), 1, 1e-5
    importance = fisher(model, [batch], losses)
    layer = family_of(model).layers(model)[1]
    cases = [
        (importance.heads[1][row, 2], layer.attention.output, slice(2 * layer.attention.head_size, 3 * layer.attention.head_size)),
        (importance.neurons[1][row, 5], layer.feed_forward.down, slice(5, 6)),
    ]

    for gradient, linear, columns in cases:
        above, below = (loss_with_gate(model, batch, row, linear, columns, 1 + sign * step) for sign in (1, -1))
        assert gradient.item() == pytest.approx((above - below) / (2 * step), rel=1e-4, abs=1e-8)


def test_dead_groups_have_no_importance(tiny_model: ModelFactory, family: str) -> None:
    """Groups whose columns are zero get a gradient of exactly zero, the others do not."""
    model = tiny_model(family)
    dense = dense_structure(model)
    bake(model, (type(dense[0])(heads=(0, 2), neurons=tuple(range(10))), *dense[1:]))

    importance = fisher(model, [labelled(family, seed=3)], losses)

    assert diagonal(importance.heads[0]).nonzero().flatten().tolist() == [0, 2]
    assert diagonal(importance.neurons[0]).nonzero().flatten().tolist() == list(range(10))


def test_a_removed_block_has_no_columns(tiny_model: ModelFactory, family: str) -> None:
    """Where a block was compacted away there is nothing to score, and the layers keep their places."""
    model = tiny_model(family)
    family_of(model).remove_attention(model, 1, torch.zeros(32))
    family_of(model).remove_feed_forward(model, 0, torch.zeros(32))

    importance = fisher(model, [labelled(family, seed=4)], losses)

    assert [gradients.shape[1] for gradients in importance.heads] == [4, 0, 4]
    assert [gradients.shape[1] for gradients in importance.neurons] == [0, 37, 37]


def test_the_model_is_left_as_it_was(tiny_model: ModelFactory) -> None:
    """Weights, flags, mode and hooks are the same afterwards, even when the loss raises."""
    model = tiny_model().train()
    model.qa_outputs.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def broken(outputs: object, batch: Batch) -> Tensor:
        raise RuntimeError("the loss is broken")

    with pytest.raises(RuntimeError, match="broken"):
        fisher(model, [labelled("bert", seed=5)], broken)

    assert model.training
    assert {name for name, parameter in model.named_parameters() if not parameter.requires_grad} == {"qa_outputs.weight"}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_inference_turns_dropout_off(tiny_model: ModelFactory) -> None:
    """Two passes inside the context agree although the model was training."""
    model, batch = tiny_model().train(), random_batch()

    with inference(model), torch.no_grad():
        first, second = model(**batch).start_logits, model(**batch).start_logits

    assert torch.equal(first, second)


def test_diagonal_is_the_diagonal_of_the_full_information() -> None:
    """Both views of the gradients agree where they overlap."""
    gradients = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))

    assert_close(full(gradients).diagonal(), diagonal(gradients))
