"""Attention in one operator gives what its nodes gave, and can be taken apart again."""

import copy
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pruning import export, onnx_graph
from pruning.attention_node import fuse_attention, separate_attention
from pruning.compaction import compact
from pruning.quantization import quantize_artifact, quantize_dynamic
from pruning.seq2seq_export import Seq2SeqGraphs, check_parity, random_batches
from pruning.seq2seq_export import to_onnx as both_to_onnx
from pruning.structure import shapes
from service.runtime.base import Array
from service.runtime.onnx import OnnxSession
from tests.pruning.helpers import FAMILY_NAMES, kill_randomly, random_batch, tiny_bart, tiny_model

TASK = "question-answering"


def graph_of(family: str = "bert", *, seed: int = 0, pruned: bool = False) -> onnx.ModelProto:
    """A tiny model's graph; pruned, its layers have different numbers of heads."""
    model = tiny_model(family, TASK, seed=seed)
    if pruned:
        kill_randomly(np.random.default_rng(seed), model)
        model = compact(model)
    return export.to_onnx(model, TASK)


def choices(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that choose between one operator and several."""
    return [node for node in model.graph.node if node.op_type == "If"]


def outputs(model: onnx.ModelProto, inputs: dict[str, Array]) -> dict[str, Array]:
    """What a graph gives."""
    return OnnxSession(model.SerializeToString()).run(inputs)


def feed(family: str, *, padded: bool) -> dict[str, Array]:
    """Two rows; the second one ends in padding, or not."""
    inputs = {name: tensor.numpy().copy() for name, tensor in random_batch(family, rows=2, length=11).items()}
    inputs["attention_mask"][:] = 1
    if padded:
        inputs["attention_mask"][1, 6:] = 0
    return inputs


@pytest.mark.parametrize("family", FAMILY_NAMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_outputs_stay(family: str, seed: int) -> None:
    """Every attention that is left is one operator; unpadded rows get the same to rounding, padded ones to the bit."""
    model = tiny_model(family, TASK, seed=seed)
    kill_randomly(np.random.default_rng(seed), model)
    pruned = compact(model)
    plain = export.to_onnx(pruned, TASK)
    fused = fuse_attention(plain)

    assert len(choices(fused)) == sum(layer.heads > 0 for layer in shapes(pruned))
    assert "Softmax" not in onnx_graph.operator_counts(fused)
    for padded, tolerance in ((False, 1e-5), (True, 0)):
        inputs = feed(family, padded=padded)
        found, expected = outputs(fused, inputs), outputs(plain, inputs)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_one_operator_is_what_unpadded_rows_run(family: str) -> None:
    """With the other branch made wrong, unpadded rows still get what they should, and padded ones do not."""
    plain = graph_of(family)
    fused = fuse_attention(plain)
    for node in choices(fused):
        branch = next(attribute.g for attribute in node.attribute if attribute.name == "else_branch")
        softmax = next(each for each in branch.node if each.op_type == "Softmax")
        softmax.op_type = "LogSoftmax"

    for padded in (False, True):
        found, expected = (outputs(each, feed(family, padded=padded))["start_logits"] for each in (fused, plain))
        assert np.allclose(found, expected, atol=1e-4) is not padded


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("quantize", [copy.deepcopy, quantize_dynamic])
def test_separating_undoes_fusing(pruned: bool, quantize) -> None:
    """A graph that was fused comes back to the byte, in 8 bits too, and one that was not is left as it is."""
    plain = quantize(graph_of(seed=3, pruned=pruned))
    fused = fuse_attention(plain)

    assert choices(fused)
    assert separate_attention(fused).SerializeToString() == plain.SerializeToString()
    assert separate_attention(plain).SerializeToString() == plain.SerializeToString()
    assert fuse_attention(fused).SerializeToString() == fused.SerializeToString()


def test_encoder_of_an_encoder_decoder_is_fused_and_its_decoder_is_not() -> None:
    """The encoder's attention becomes one operator; the decoder's, which has a cache, has another form and stays."""
    model = tiny_bart(seed=4)
    graphs = both_to_onnx(model)
    encoder, decoder = fuse_attention(graphs.encoder), fuse_attention(graphs.decoder)

    assert len(choices(encoder)) == model.config.encoder_layers
    assert decoder.SerializeToString() == graphs.decoder.SerializeToString()
    assert check_parity(Seq2SeqGraphs(encoder, decoder), model, random_batches(model, source=11, target=7)) < 1e-4


@pytest.mark.parametrize(
    "change", ["a score is an output", "no mask", "keys are not turned", "heads differ", "values are scaled", "another bias"]
)
def test_attention_of_another_form_stays(change: str) -> None:
    """What is not attention over all tokens, or is read by others too, is left to its nodes."""
    model = graph_of()
    softmax = next(node for node in model.graph.node if node.op_type == "Softmax")
    made = onnx_graph.producers(model)
    scores = next(made[name] for name in made[softmax.input[0]].input if name in made and made[name].op_type == "MatMul")
    context = onnx_graph.consumers(model, softmax.output[0])[0]
    if change == "a score is an output":
        model.graph.output.append(onnx.helper.make_tensor_value_info(scores.output[0], onnx.TensorProto.FLOAT, None))
    elif change == "no mask":
        onnx_graph.replace_input(model, "attention_mask", "input_ids")
    elif change == "another bias":
        number = onnx_graph.add_initializer(model, "one", np.array(1.0, np.float32))
        made[softmax.input[0]].input[1 - list(made[softmax.input[0]].input).index(scores.output[0])] = number
    elif change == "keys are not turned":
        scores.input[1] = scores.input[0]
    elif change == "heads differ":
        reshape = next(made[each.input[0]] for each in [made[context.input[1]]])
        shape = numpy_helper.to_array(onnx_graph.initializers(model)[reshape.input[1]])
        reshape.input[1] = onnx_graph.add_initializer(model, "other", np.array([*shape[:2], 2 * shape[2], shape[3] // 2]))
    else:
        number = onnx_graph.add_initializer(model, "twice", np.array(2.0, np.float32))
        twice = onnx.helper.make_node("Mul", [context.input[1], number], ["scaled"])
        position = list(model.graph.node).index(context)
        context.input[1] = "scaled"
        model.graph.node.insert(position, twice)
    left = 3 if change == "no mask" else 1

    found = fuse_attention(model)

    assert onnx_graph.operator_counts(found)["Softmax"] == left
    assert len(choices(found)) == 3 - left


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_gives_the_same() -> None:
    """Each length in turn, padded and not, through one session: branches with the same inputs were once mixed up."""
    from service.runtime.openvino import OpenVinoSession

    plain = graph_of(seed=2, pruned=True)
    session = OpenVinoSession(fuse_attention(plain).SerializeToString())
    for length in (13, 16, 5, 32, 16):
        for padding in (0, 3):
            inputs = {name: tensor.numpy().copy() for name, tensor in random_batch(rows=1, length=length).items()}
            inputs["attention_mask"][:] = np.arange(length) < length - padding
            found, expected = session.run(inputs), outputs(plain, inputs)
            for name in expected:
                np.testing.assert_allclose(found[name][:, : length - padding], expected[name][:, : length - padding], atol=1e-4)


def test_artifacts_are_fused(tmp_path, tiny_tokenizer) -> None:
    """What is written has one operator for each attention, in fp32 and in 8 bits."""
    model = tiny_model("bert", TASK)
    spec = export.ArtifactSpec(
        name="tiny",
        variant="dense",
        task=TASK,
        family="bert",
        max_length=32,
        stride=8,
        macs_sequence_length=32,
        density=1.0,
        golden=({name: tensor.numpy() for name, tensor in random_batch(rows=1, length=9).items()},),
    )
    export.export_artifact(model, tiny_tokenizer, tmp_path / "dense", spec=spec)
    quantize_artifact(tmp_path / "dense", tmp_path / "int8")

    for name in ("dense", "int8"):
        assert len(choices(onnx.load(tmp_path / name / "model.onnx", load_external_data=False))) == 3
