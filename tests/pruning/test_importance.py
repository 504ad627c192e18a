"""Importance: gradients of gates on heads and neurons, per example."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

from pruning.families import family_of
from pruning.importance import Batch, Importance, diagonal, fisher, full, inference, output_probe, projections
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


def losses_of_one_token(outputs: object, batch: Batch) -> Tensor:
    """A loss that a single position can have, float `[batch]`."""
    return outputs.start_logits[:, 0] * outputs.end_logits[:, 0]


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


def test_inputs_are_summed_over_real_tokens_alone(tiny_model: ModelFactory, family: str) -> None:
    """The first factor of the curvature is the mean outer product of what enters the projection, padding left out, a one appended."""
    model, batches = tiny_model(family, dtype=torch.float64), [labelled(family, seed=seed) for seed in (6, 7)]
    linear, seen = family_of(model).layers(model)[1].feed_forward.down, []
    handle = linear.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        rows = [(model(**batch), seen.pop()[batch["attention_mask"].bool()])[1] for batch in batches]
    handle.remove()
    tokens = torch.cat([torch.cat(rows), torch.ones(len(torch.cat(rows)), 1)], dim=1)

    curvature = fisher(model, batches, losses).curvature[3]

    assert_close(curvature.inputs, (tokens.T @ tokens / len(tokens)).float(), rtol=1e-4, atol=1e-5)


def test_gradients_of_outputs_explain_those_of_gates(tiny_model: ModelFactory, family: str) -> None:
    """With one real token in one example, the slope in a neuron's gate is its input times its column along the output's gradient."""
    model = tiny_model(family, dtype=torch.float64)
    batch = {name: tensor[:1, :1] if tensor.ndim == 2 else tensor[:1] * 0 for name, tensor in labelled(family, seed=8).items()}

    importance = fisher(model, [batch], losses_of_one_token)

    inputs, gradients = importance.curvature[1]
    weight = family_of(model).layers(model)[0].feed_forward.down.weight.float()
    along = weight.T @ gradients @ weight
    assert_close(diagonal(importance.neurons[0]).float(), inputs.diagonal()[:-1] * along.diagonal(), rtol=1e-3, atol=1e-7)


def test_importance_survives_a_file(tiny_model: ModelFactory) -> None:
    """What `tensors` names, `from_tensors` puts back in its place."""
    found = fisher(tiny_model(), [labelled("bert", seed=9)], losses)

    again = Importance.from_tensors(found.tensors())

    assert all(torch.equal(left, right) for left, right in zip(found.heads + found.neurons, again.heads + again.neurons, strict=True))
    for one, two in zip(found.curvature, again.curvature, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.gradients, two.gradients)


def test_the_probe_has_the_curvature_of_the_divergence() -> None:
    """Over many draws, the second moment of the probe's gradient by the logits is diag(p) - p' p."""
    logits = torch.tensor([[1.0, -0.5, 0.2]]).expand(40_000, 3).clone().requires_grad_()
    probability = logits[0].softmax(-1).detach()

    probe = output_probe(lambda outputs: (outputs,))(logits, {"attention_mask": torch.ones(40_000, 5)})
    (gradient,) = torch.autograd.grad(probe.sum(), logits)

    assert_close(full(gradient).float(), torch.diag(probability) - probability.outer(probability), atol=5e-3, rtol=0)


def test_the_probe_leaves_padding_alone() -> None:
    """Positions that are padding get no gradient from logits over positions, the others do."""
    logits = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 4)

    (gradient,) = torch.autograd.grad(output_probe(lambda outputs: (outputs, outputs))(logits, {"attention_mask": mask}).sum(), logits)

    assert (gradient[:, 4:] == 0).all()
    assert (gradient[:, :4] != 0).all()


def test_projections_come_in_the_order_of_the_blocks(tiny_model: ModelFactory, family: str) -> None:
    """Attention and feed-forward take turns, and a removed block leaves a gap."""
    model = tiny_model(family)
    family_of(model).remove_attention(model, 1, torch.zeros(32))

    assert [groups for _, groups in projections(model)] == [4, 37, 0, 37, 4, 37]


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
