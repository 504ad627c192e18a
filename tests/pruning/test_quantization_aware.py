"""Training as 8 bits compute: the rounding is that of the int8 graph, and nothing of it stays behind."""

import numpy as np
import pytest
import torch

from pruning.config import parse_config
from pruning.dynamic_quantization import head_table
from pruning.errors import ConfigError
from pruning.export import to_onnx
from pruning.families import family_of
from pruning.filling import zeros_held
from pruning.quantization import input_ranges, output_error, quantize_dynamic, quantize_static, run_all
from pruning.quantization_aware import round_between, round_rows, round_tokens, round_weight, rounding
from pruning.quantizers import quantize_symmetric, quantize_weight
from pruning.seq2seq_export import to_onnx as both_to_onnx
from pruning.seq2seq_quantization import quantize_graphs
from pruning.structure import linears
from service.generation import DecoderSession
from service.generation.golden import forced_logits
from service.runtime.onnx import OnnxSession
from tests.pruning.helpers import bart_batch, random_batch, tiny_bart, tiny_model
from tests.pruning.test_export import arrays
from tests.pruning.test_filling import trained, weights_of, with_zeros

TASK_NAME = "question-answering"


@pytest.mark.parametrize("shape", [(16, 8), (24, 7), (3, 1)])
def test_weights_are_those_of_the_int8_variant(shape):
    """The same codes times the same scales, for an odd number of inputs too."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    codes, scales = quantize_weight(weight.T.numpy())
    np.testing.assert_allclose(round_weight(weight).T.numpy(), codes * scales, atol=1e-6)
    assert torch.equal(round_weight(torch.zeros(shape)), torch.zeros(shape))


def test_each_row_has_its_own_steps():
    """A row is rounded as it is alone, within half a step, and 0 stays 0."""
    values = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    found = round_rows(values)
    for row in range(3):
        assert torch.equal(found[row : row + 1], round_rows(values[row : row + 1]))
        assert (found[row] - values[row]).abs().max() <= (values[row].max() - values[row].min()) / 255 + 1e-6
    assert torch.equal(round_rows(torch.relu(values))[values <= 0], torch.zeros(int((values <= 0).sum())))


def test_values_beyond_fixed_ends_are_cut():
    """Between the ends values move by half a step at most, 0 stays 0, and ends on one side of 0 are widened to it."""
    values = torch.linspace(-4, 4, 65)
    found = round_between(values, (-1.0, 2.0))
    assert (found - values.clamp(-1, 2)).abs().max() <= 3 / 255
    assert found[32] == 0
    assert torch.equal(round_between(values, (1.0, 2.0)), round_between(values, (0.0, 2.0)))


@pytest.mark.parametrize("fixed", [False, True], ids=["dynamic", "static"])
def test_the_model_computes_what_the_int8_graph_computes(fixed):
    """Rounded, torch is many times closer to the int8 graph than without; embeddings, which stay as they are, are rounded before."""
    model = tiny_model("bert", TASK_NAME, vocabulary=300).eval()
    with torch.no_grad():
        for table in [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]:
            codes, scales = quantize_symmetric(table.weight.numpy(), axis=1)
            table.weight.copy_(torch.from_numpy(codes * scales))
    inputs = [arrays("bert", rows=1, length=5 + index, seed=index, vocabulary=300) for index in range(8)]
    graph = to_onnx(model, TASK_NAME)
    int8 = run_all(quantize_static(graph, inputs[:2]) if fixed else quantize_dynamic(graph), inputs)
    found = input_ranges(graph, inputs[:2]) if fixed else {}
    ranges = {weight.removesuffix(".weight"): ends for weight, ends in found.items()}

    def outputs() -> list[dict[str, np.ndarray]]:
        with torch.inference_mode():
            found = [model(**{name: torch.from_numpy(values) for name, values in row.items()}) for row in inputs]
        return [{name: each[name].numpy() for name in ("start_logits", "end_logits")} for each in found]

    before = output_error(outputs(), int8)
    with rounding(model, ranges):
        assert output_error(outputs(), int8) < before / 10
    assert output_error(outputs(), int8) == before


def test_each_token_of_a_decoder_has_its_own_steps():
    """A token is rounded as it is alone, within half a step of 127, whatever its size; zeros stay zeros."""
    values = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 1e4, 0.0])[:, None]
    found = round_tokens(values)
    assert torch.equal(found[:, :1], round_tokens(values[:, :1]))
    assert ((found - values).abs() <= values.abs().amax(-1, keepdim=True) * 0.51 / 127).all()


def test_an_encoder_decoder_computes_what_its_int8_graphs_compute():
    """Rounded, logits are many times closer to the int8 graphs' than without, cross-attention and the head included."""
    model = tiny_bart(seed=3, vocabulary=100, decoder_layers=2)
    with torch.no_grad():
        table = head_table(model.model.shared.weight.numpy())
        model.model.shared.weight.copy_(torch.from_numpy(table.codes * table.scales))
    graphs = quantize_graphs(both_to_onnx(model))
    encoder, decoder = OnnxSession(graphs.encoder.SerializeToString()), DecoderSession(graphs.decoder.SerializeToString())
    batches = [bart_batch(seed=seed, rows=1, vocabulary=100) for seed in range(8)]
    int8 = [forced_logits(encoder, decoder, {name: tensor.numpy() for name, tensor in batch.items()}) for batch in batches]

    def error() -> float:
        with torch.inference_mode():
            found = [model(**batch).logits.numpy() for batch in batches]
        return float(np.mean([np.abs(one - other).mean() for one, other in zip(found, int8, strict=True)]))

    before = error()
    with rounding(model):
        assert error() < before / 5
    assert error() == before


@pytest.mark.parametrize(("make", "batch"), [(tiny_model, random_batch), (tiny_bart, bart_batch)], ids=["bert", "bart"])
def test_gradients_pass_and_weights_stay(make, batch):
    """Every rounded weight learns; afterwards the weights are what they were, without parametrizations or hooks."""
    model = make()
    before = weights_of(model)
    with rounding(model):
        model(**batch())[0].sum().backward()
        gradients = [linear.parametrizations.weight.original.grad for layer in family_of(model).layers(model) for linear in linears(layer)]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
    assert all(torch.equal(a, b) for a, b in zip(before, weights_of(model), strict=True))
    assert not any(hasattr(module, "parametrizations") or module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_held_zeros_and_rounding_go_together(tiny_tokenizer, tmp_path):
    """Zeros stay zero, the rest learns, and the weights that come out are not the rounded ones."""
    model = with_zeros()
    before = weights_of(model)
    with zeros_held(model), rounding(model):
        trained(model, tiny_tokenizer, tmp_path)
    assert not any(hasattr(module, "parametrizations") for module in model.modules())
    for old, new in zip(before, weights_of(model), strict=True):
        assert torch.equal(old == 0, new == 0)
        assert not torch.equal(old, new)
        assert not torch.allclose(new, round_weight(new), atol=1e-7)


def recipe_with(quantize: dict, recover: dict) -> dict:
    """A recipe with those sections."""
    data = {"train": [{"path": "x.jsonl"}]}
    task = {"task": "text-classification", "model": "m", "labels": ["a", "b"]}
    return {"name": "x", **task, "data": data, "quantize": quantize, "recover": recover}


def test_only_8_bits_are_trained_for():
    """A recipe that rounds for 8 bits and makes fp16 is refused in one line."""
    with pytest.raises(ConfigError, match="quantization_aware"):
        parse_config(recipe_with({"scheme": "fp16"}, {"quantization_aware": True}), origin="recipe")


@pytest.mark.parametrize(
    ("quantize", "aware"), [({"scheme": "dynamic"}, True), ({"scheme": "static", "smooth": True}, True), ({"scheme": "static"}, False)]
)
def test_fixed_ranges_are_for_those_who_fix_them(quantize, aware):
    """A recipe that rounds between fixed ranges, and then quantizes in another way, is refused in one line."""
    with pytest.raises(ConfigError, match=r"recover\.fixed_ranges"):
        parse_config(recipe_with(quantize, {"quantization_aware": aware, "fixed_ranges": True}), origin="recipe")


def test_fixed_ranges_are_taken_where_they_are_fixed():
    """With `scheme: static` and rounding."""
    given = parse_config(recipe_with({"scheme": "static"}, {"quantization_aware": True, "fixed_ranges": True}), origin="recipe")
    assert given.recover is not None
    assert given.recover.fixed_ranges
