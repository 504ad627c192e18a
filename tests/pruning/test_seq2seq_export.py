"""The graphs of an encoder-decoder compute what torch does, whatever rows and requests share a call."""

import copy
from collections.abc import Collection, Mapping
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from pruning import onnx_graph
from pruning.compaction import compact
from pruning.errors import ParityError
from pruning.families import family_of
from pruning.seq2seq_export import Seq2SeqGraphs, check_parity, random_batches, to_onnx
from service.runtime.base import Array
from service.runtime.onnx import OnnxSession
from tests.pruning.helpers import VOCABULARY, kill_randomly, tiny_bart


def pruned(seed: int, *, drop_layers: Collection[int] = ()) -> PreTrainedModel:
    """A compact BART from which random heads, neurons and blocks were taken, and whole layers where they are named."""
    model = tiny_bart(seed=seed)
    kill_randomly(np.random.default_rng(seed), model)
    return compact(model, drop_layers=drop_layers)


def empty() -> PreTrainedModel:
    """A compact BART of constants alone."""
    model = tiny_bart()
    for layer in family_of(model).layers(model):
        layer.attention.value.weight.data.zero_()
        if layer.feed_forward:
            layer.feed_forward.up.weight.data.zero_()
    return compact(model)


@cache
def example() -> tuple[PreTrainedModel, Seq2SeqGraphs]:
    """A compact BART and its graphs, which no test may change."""
    model = pruned(5)
    return model, to_onnx(model)


def sessions(graphs: Seq2SeqGraphs) -> tuple[OnnxSession, OnnxSession]:
    """Encoder and decoder, loaded."""
    return OnnxSession(graphs.encoder.SerializeToString()), OnnxSession(graphs.decoder.SerializeToString())


def shapes_of_inputs(proto: onnx.ModelProto) -> dict[str, list[int | str]]:
    """Dimensions of each input, by name or number."""
    return {value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in proto.graph.input}


def first_step(decoder: onnx.ModelProto, encoded: Mapping[str, Array], tokens: list[int], rows_of: list[list[int]]) -> dict[str, Array]:
    """Inputs of a call without cache, in which `tokens` are one token of each row, and `rows_of` says which rows a request has."""
    rows, requests = len(tokens), len(rows_of)
    queries = np.zeros((requests, max(map(len, rows_of))), np.int64)
    slots = np.zeros((rows, 1), np.int64)
    for request, own in enumerate(rows_of):
        queries[request, : len(own)] = own
        slots[own, 0] = request * queries.shape[1] + np.arange(len(own))
    return {
        "input_ids": np.array(tokens)[:, None],
        "position_ids": np.zeros((rows, 1), np.int64),
        "attention_mask": np.ones((rows, 1), np.int64),
        "request_queries": queries,
        "query_slots": slots,
        **{name: np.zeros((rows, s[1], 0, s[3]), np.float32) for name, s in shapes_of_inputs(decoder).items() if name.startswith("past")},
        **encoded,
    }


@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**16))
def test_graphs_equal_torch(seed: int):
    """Whatever heads, neurons and blocks are gone, decoding token by token through the cache gives the logits of torch."""
    model = pruned(seed)
    assert check_parity(to_onnx(model), model, random_batches(model, source=11, target=7, seed=seed)) < 1e-4


@pytest.mark.parametrize(
    "model", [tiny_bart(), empty(), pruned(3, drop_layers=[0, 4, 5])], ids=["dense", "empty", "without an encoder's and a decoder's layer"]
)
def test_models_of_all_depths_equal_torch(model: PreTrainedModel):
    """So do a model with everything in it, one of constants alone, and one that lost whole layers beside heads and neurons."""
    assert check_parity(to_onnx(model), model, random_batches(model, source=5, target=4)) < 1e-4


def test_embeddings_scale():
    """A model that scales its embeddings is exported with the scale."""
    model = tiny_bart(encoder_layers=1, decoder_layers=1)
    model.model.encoder.embed_tokens.embed_scale = model.model.decoder.embed_tokens.embed_scale = 1.7
    assert check_parity(to_onnx(model), model, random_batches(model, source=5, target=4)) < 1e-4


def test_equal_weights_are_exported_as_well():
    """A decoder whose cross-attention begins as a copy of its self-attention, whose weights the exporter makes one tensor."""
    model = tiny_bart()
    for layer in model.model.decoder.layers:
        layer.encoder_attn.load_state_dict(layer.self_attn.state_dict())
    assert check_parity(to_onnx(model), model, random_batches(model, source=5, target=4)) < 1e-4


def test_parity_refuses_another_model():
    """Graphs that are not the model's are refused."""
    model, graphs = example()
    with torch.no_grad():
        other = copy.deepcopy(model)
        other.model.decoder.layers[-1].final_layer_norm.bias += 0.1
    with pytest.raises(ParityError, match="differ from torch"):
        check_parity(graphs, other, random_batches(model, source=5, target=4))


def test_signature():
    """Inputs are as described; sizes that depend on the model are in the graph, those of each attention on its own."""
    model = tiny_bart(decoder_layers=1)
    graphs = to_onnx(model)
    assert shapes_of_inputs(graphs.decoder) == {
        "input_ids": ["rows", "new"],
        "position_ids": ["rows", "new"],
        "attention_mask": ["rows", "past + new"],
        "encoder_attention_mask": ["requests", "source"],
        "request_queries": ["requests", "queries"],
        "query_slots": ["rows", "new"],
        "past_key_0": ["rows", 4, "past", 8],
        "past_value_0": ["rows", 4, "past", 8],
        "cross_key_0": ["requests", 4, "source", 8],
        "cross_value_0": ["requests", 4, "source", 8],
    }
    assert onnx_graph.output_names(graphs.decoder) == ("logits", "new_key_0", "new_value_0")
    assert shapes_of_inputs(graphs.encoder) == {"input_ids": ["requests", "source"], "attention_mask": ["requests", "source"]}
    assert onnx_graph.output_names(graphs.encoder) == ("hidden_states", "cross_key_0", "cross_value_0")


def test_a_model_without_attention_takes_all_masks():
    """Inputs stay where nothing reads them; there is no cache then."""
    graphs = to_onnx(empty())
    assert list(shapes_of_inputs(graphs.encoder)) == ["input_ids", "attention_mask"]
    assert "encoder_attention_mask" in shapes_of_inputs(graphs.decoder)
    assert not any("key" in name for name in shapes_of_inputs(graphs.decoder))


def test_no_weight_is_stored_twice():
    """The table of embeddings is also the head; weights have the names of torch, and each is there once."""
    model, graphs = example()
    state = model.state_dict()
    for graph in (graphs.encoder, graphs.decoder):
        large = [tensor.name for tensor in graph.graph.initializer if np.prod(tensor.dims, dtype=int) > 16]
        assert len(large) == len(set(large))
        assert set(large) <= set(state)
        assert sum(VOCABULARY in tensor.dims and len(tensor.dims) == 2 for tensor in graph.graph.initializer) == 1
    readers = {node.op_type for node in onnx_graph.consumers(graphs.decoder, "model.shared.weight")}
    assert readers == {"Gather", "Gemm"}


def test_no_shape_arithmetic_is_left_in_the_layers():
    """Only the length of the cache is computed at run time; the number of shape operators does not grow otherwise."""
    shallow, deep = (onnx_graph.operator_counts(to_onnx(tiny_bart(decoder_layers=layers)).decoder) for layers in (1, 3))
    assert deep["Concat"] - shallow["Concat"] == 2
    assert deep["Shape"] - shallow["Shape"] == 2
    assert deep["Expand"] == deep["ConstantOfShape"] - 1 == 0


def test_export_leaves_the_model_as_it_was():
    """A model in training mode is in training mode afterwards, with the same weights."""
    model = tiny_bart(encoder_layers=1, decoder_layers=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_onnx(model)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_rows_of_requests_with_different_beams_do_not_mix():
    """Rows in any order over requests of one, three and two beams get the logits that each gets alone."""
    model, graphs = example()
    encoder, decoder = sessions(graphs)
    batch = next(b for b in random_batches(model, source=9, target=1) if len(b["input_ids"]) == 3)
    encoded = encoder.run(batch)
    rows_of, tokens = [[4], [0, 5, 2], [3, 1]], [7, 8, 9, 10, 11, 12]
    together = decoder.run(first_step(graphs.decoder, encoded, tokens, rows_of) | {"encoder_attention_mask": batch["attention_mask"]})[
        "logits"
    ]
    for request, own in enumerate(rows_of):
        one = {name: values[request : request + 1] for name, values in encoded.items()}
        mask = {"encoder_attention_mask": batch["attention_mask"][request : request + 1]}
        for row in own:
            alone = decoder.run(first_step(graphs.decoder, one, [tokens[row]], [[0]]) | mask)["logits"]
            np.testing.assert_allclose(together[row], alone[0], atol=1e-4)


def test_a_prompt_of_several_tokens_equals_one_by_one():
    """Three new tokens in one call give the logits of the last, and the keys and values of all, that three calls give."""
    model, graphs = example()
    encoder, decoder = sessions(graphs)
    batch = next(iter(random_batches(model, source=6, target=3)))
    targets = batch["decoder_input_ids"]
    step = first_step(graphs.decoder, encoder.run(batch), [0], [[0]]) | {"encoder_attention_mask": batch["attention_mask"]}
    prompt = {
        "input_ids": targets,
        "position_ids": np.arange(3)[None],
        "attention_mask": np.ones((1, 3), np.int64),
        "request_queries": np.arange(3)[None],
        "query_slots": np.arange(3)[None],
    }
    found = decoder.run(step | prompt)["logits"]
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(values) for name, values in batch.items()}).logits[:, -1]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_masked_in_the_cache_changes_nothing():
    """A row whose cache is longer than what it has written gives the same logits, whatever stands in the rest of it."""
    model, graphs = example()
    encoder, decoder = sessions(graphs)
    batch = next(iter(random_batches(model, source=6, target=3)))
    step = first_step(graphs.decoder, encoder.run(batch), [9], [[0]]) | {"encoder_attention_mask": batch["attention_mask"]}
    rubbish = {
        name: np.full((1, values.shape[1], 5, values.shape[3]), 7, np.float32) for name, values in step.items() if name.startswith("past")
    }
    masked = decoder.run(step | rubbish | {"attention_mask": np.array([[0, 0, 0, 0, 0, 1]])})
    np.testing.assert_allclose(masked["logits"], decoder.run(step)["logits"], atol=1e-5)
