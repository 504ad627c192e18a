"""Structures: what stays, as data, and what is counted."""

import copy

import numpy as np
import pytest
import torch

from pruning.compaction import compact
from pruning.structure import (
    LayerStructure,
    bake,
    dense_structure,
    density,
    embedding_tables,
    gated,
    macs,
    parameters,
    shapes,
    shapes_of,
)
from tests.pruning.helpers import ModelFactory, outputs_of, random_batch, random_structure


def test_dense_structure_keeps_everything(tiny_model: ModelFactory, family: str):
    """The dense structure has the model's shapes, and baking it changes no weight."""
    model = tiny_model(family)
    before = copy.deepcopy(model.state_dict())
    assert shapes_of(dense_structure(model)) == shapes(model)
    bake(model, dense_structure(model))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_gated_model_computes_what_the_baked_one_does(tiny_model: ModelFactory, family: str, task: str):
    """Gates on a dense model and zeros in its weights give the same outputs."""
    model = tiny_model(family, task, dtype=torch.float64)
    structure = random_structure(np.random.default_rng(3), model)
    batch = random_batch(family)
    with gated(model, structure):
        through_gates = outputs_of(model, batch)
    assert not torch.allclose(outputs_of(model, batch), through_gates)
    bake(model, structure)
    torch.testing.assert_close(outputs_of(model, batch), through_gates, atol=1e-12, rtol=0)


def test_gates_are_gone_afterwards(tiny_model: ModelFactory):
    """Leaving the context, by an error too, restores the dense model."""
    model, batch = tiny_model(), random_batch()
    before = outputs_of(model, batch)
    with pytest.raises(KeyError), gated(model, (LayerStructure((), ()),) * 3):
        raise KeyError
    assert torch.equal(outputs_of(model, batch), before)


def test_baking_touches_only_what_is_removed(tiny_model: ModelFactory):
    """Zeros land on the removed head's columns of O and nowhere else."""
    model = tiny_model()
    before = model.bert.encoder.layer[1].attention.output.dense.weight.clone()
    everything = dense_structure(model)
    bake(model, (everything[0], LayerStructure((0, 1, 3), everything[1].neurons), everything[2]))
    after = model.bert.encoder.layer[1].attention.output.dense.weight
    assert not after[:, 16:24].any()
    kept = [column for column in range(32) if not 16 <= column < 24]
    assert torch.equal(after[:, kept], before[:, kept])


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ((LayerStructure((0,), (0,)),), "1 layers, the model 3"),
        ((LayerStructure((4,), ()),) * 3, "keeps group 4 of a block that has 4"),
        ((LayerStructure((), (37,)),) * 3, "keeps group 37 of a block that has 37"),
    ],
)
def test_structure_of_another_model_is_refused(tiny_model: ModelFactory, structure: tuple[LayerStructure, ...], message: str):
    """A structure that does not fit the model is an error that says why."""
    with pytest.raises(ValueError, match=message):
        bake(tiny_model(), structure)


def test_keeping_a_part_of_a_removed_block_is_refused(tiny_model: ModelFactory):
    """Nothing can be kept of a block that is gone."""
    model = tiny_model()
    bake(model, (LayerStructure((), ()), *dense_structure(model)[1:]))
    small = compact(model)
    with pytest.raises(ValueError, match="attention that was removed"):
        bake(small, dense_structure(model))
    with pytest.raises(ValueError, match="feed-forward that was removed"):
        bake(small, (LayerStructure((), (0,)), *dense_structure(model)[1:]))


def test_total_counts_every_parameter_and_encoder_the_linears(tiny_model: ModelFactory, family: str):
    """The encoder's count is that of two-dimensional weights inside the layers."""
    model = tiny_model(family)
    counts = parameters(model)
    in_layers = [p for name, p in model.named_parameters() if ".layer." in name and p.ndim == 2]
    assert counts.encoder == sum(p.numel() for p in in_layers) == 3 * (4 * 32 * 32 + 2 * 32 * 37)
    assert counts.embeddings == sum(p.numel() for name, p in model.named_parameters() if name.endswith("_embeddings.weight"))
    assert counts.total == sum(p.numel() for p in model.parameters())


def test_embedding_tables_are_those_before_the_layers(tiny_model: ModelFactory):
    """BERT has three tables; a relative position table inside attention is not one of them."""
    assert sorted(embedding_tables(tiny_model())) == [f"bert.embeddings.{kind}_embeddings" for kind in ("position", "token_type", "word")]


def test_macs_count_linears_core_and_head(tiny_model: ModelFactory, family: str):
    """For spans: each layer's linears at every token, two products of [L, L] by head size per head, and 2 outputs per token."""
    counted = macs(tiny_model(family), 10)
    assert counted.encoder == 3 * (10 * (4 * 32 * 32 + 2 * 32 * 37) + 2 * 10 * 10 * 32)
    assert counted.total - counted.encoder == 10 * 32 * 2


def test_classifier_reads_one_token(tiny_model: ModelFactory, family: str):
    """For classification the head costs a hidden layer and the labels, once per row."""
    counted = macs(tiny_model(family, "text-classification", labels=5), 10)
    assert counted.total - counted.encoder == 32 * 32 + 32 * 5


def test_density_is_the_share_of_linear_weights(tiny_model: ModelFactory, family: str):
    """Dense is 1; without the attention of one layer of three, what is left is counted; dropped layers count as removed."""
    model = tiny_model(family)
    assert density(model) == 1
    dense = parameters(model).encoder
    bake(model, (LayerStructure((), tuple(range(37))), *dense_structure(model)[1:]))
    assert density(compact(model)) == pytest.approx(1 - 4 * 32 * 32 / dense)
    assert density(compact(model, drop_layers=[0])) == pytest.approx(2 / 3)
    assert density(compact(model), dense_layers=6) == pytest.approx((1 - 4 * 32 * 32 / dense) / 2)
