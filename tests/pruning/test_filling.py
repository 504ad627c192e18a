"""Zeros inside what is left of a model: revived, or held at zero while it is trained."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import BertTokenizerFast, PreTrainedModel

from pruning.config import TrainConfig
from pruning.families import family_of
from pruning.filling import revive, zeros_held
from pruning.structure import linears
from pruning.tasks import task_named
from pruning.training import train
from tests.pruning.helpers import tiny_model
from tests.pruning.training_helpers import features_of

TASK = task_named("text-classification")


def weights_of(model: PreTrainedModel) -> list[Tensor]:
    """Weights of the layers' linears, copied."""
    return [linear.weight.detach().clone() for layer in family_of(model).layers(model) for linear in linears(layer)]


def with_zeros() -> PreTrainedModel:
    """A tiny model with a third of its linears' weights zero."""
    model = tiny_model("bert", TASK.name, layers=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for layer in family_of(model).layers(model):
            for linear in linears(layer):
                linear.weight[torch.rand(linear.weight.shape, generator=generator) < 0.33] = 0.0
    return model


def trained(model: PreTrainedModel, tokenizer: BertTokenizerFast, folder: Path) -> None:
    """Six steps."""
    config = TrainConfig(epochs=2, batch_size=4, learning_rate=1e-2, precision="fp32")
    train(model, tokenizer, TASK, features_of(TASK, tokenizer), config, folder=folder, seed=1)


def test_only_zeros_are_revived_and_to_little():
    """Every zero gets a value that is small beside its matrix; what was not zero stays as it was."""
    model = with_zeros()
    before = weights_of(model)
    revived = revive(model, seed=0)
    assert revived == sum(int((weight == 0).sum()) for weight in before) > 0
    for old, new in zip(before, weights_of(model), strict=True):
        assert new.all()
        assert torch.equal(new[old != 0], old[old != 0])
        assert new[old == 0].abs().max() < 0.1 * old[old != 0].std()


def test_reviving_is_repeatable():
    """The same seed gives the same weights, another seed others."""
    first, second, third = with_zeros(), with_zeros(), with_zeros()
    revive(first, seed=1)
    revive(second, seed=1)
    revive(third, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(second), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(third), strict=True))


def test_held_zeros_stay_zero_while_the_rest_learns(tiny_tokenizer, tmp_path):
    """Afterwards no parametrization is left, and exactly the zeros of before are zero."""
    model = with_zeros()
    before = weights_of(model)
    with zeros_held(model):
        trained(model, tiny_tokenizer, tmp_path)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    for old, new in zip(before, weights_of(model), strict=True):
        assert torch.equal(old == 0, new == 0)
        assert not torch.equal(old, new)


def test_without_zeros_nothing_is_held():
    """A model that has none is not touched."""
    model = tiny_model("bert", TASK.name, layers=2)
    with zeros_held(model):
        assert not any(hasattr(module, "parametrizations") for module in model.modules())
