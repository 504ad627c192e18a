"""8-bit graphs are close to the fp32 ones by a stated tolerance, hold what they should, and make artifacts that load."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from transformers import BertTokenizerFast

from pruning import onnx_graph
from pruning.checkpoint_manifest import MANIFEST_NAME as CHECKPOINT_NAME
from pruning.checkpoint_weights import EMBEDDINGS_NAME, ENCODER_NAME, INDEX_NAME
from pruning.compaction import compact
from pruning.errors import ConfigError
from pruning.export import export_artifact, to_onnx
from pruning.fusion import fuse_qkv
from pruning.quantization import (
    TABLE_NAME,
    compare_schemes,
    output_error,
    quantize_artifact,
    quantize_dynamic,
    quantize_static,
    run_all,
    sensitivity,
    to_fp16,
    worst_layers,
)
from pruning.quantizers import SHORTEST_TABLE_ROWS, linear_layers, quantize_embeddings, quantize_symmetric, quantize_weight
from service.artifact import read_manifest, revision
from service.errors import ArtifactError
from service.model import GRAPH_NAME, Model
from service.runtime.graph import KNOWN_DOMAINS
from tests.pruning.helpers import FAMILY_NAMES, TASK_NAMES, kill_randomly, tiny_model
from tests.pruning.test_export import arrays, pruned, spec_of

# Three layers of 8-bit products on random weights; measured 0.005-0.03.
CLOSE = 0.06
VOCABULARY = 300


def graph_of(family: str = "bert", task: str = "question-answering", **options: int) -> onnx.ModelProto:
    """An exported tiny model with a vocabulary that is worth 8 bits."""
    return to_onnx(tiny_model(family, task, vocabulary=VOCABULARY, **options), task)


def rows(family: str = "bert", *, count: int = 12, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random rows without padding, of several lengths."""
    return [arrays(family, rows=1, length=5 + index, seed=seed + index, vocabulary=VOCABULARY) for index in range(count)]


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FAMILY_NAMES), st.sampled_from(TASK_NAMES), st.integers(0, 2**16))
def test_dynamic_is_close(family: str, task: str, seed: int):
    """Whatever was pruned, dynamic 8-bit outputs are those of fp32 within the stated tolerance."""
    model = tiny_model(family, task, seed=seed, vocabulary=VOCABULARY)
    kill_randomly(np.random.default_rng(seed), model)
    proto = to_onnx(compact(model), task)
    inputs = rows(family, count=4, seed=seed)
    assert output_error(run_all(quantize_dynamic(proto), inputs), run_all(proto, inputs)) < CLOSE


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_static_is_close(method: str):
    """Statically quantized outputs are close too, whatever the calibration."""
    proto = graph_of()
    inputs = rows(seed=50)
    quantized = quantize_static(proto, rows(), method=method)
    assert output_error(run_all(quantized, inputs), run_all(proto, inputs)) < 3 * CLOSE


def test_static_answers_do_not_depend_on_neighbours():
    """With fixed ranges a row in a batch gives what it gives alone."""
    quantized = quantize_static(graph_of(), rows())
    batch = arrays("bert", rows=3, length=9, vocabulary=VOCABULARY)
    batch["attention_mask"][:] = 1
    together, *alone = run_all(quantized, [batch, *({name: values[i : i + 1] for name, values in batch.items()} for i in range(3))])
    for index, row in enumerate(alone):
        np.testing.assert_allclose(together["start_logits"][index], row["start_logits"][0], atol=1e-4)


def test_static_products_add_their_bias(family: str):
    """A layer is one operator that multiplies, scales and adds the bias; a layer without a bias stays without."""
    proto = graph_of(family)
    layers = linear_layers(proto)
    add = onnx_graph.consumers(proto, next(iter(layers.values())).output[0])[0]
    onnx_graph.replace_input(proto, add.output[0], next(iter(layers.values())).output[0])
    quantized = quantize_static(proto, rows(family))
    products = [node for node in quantized.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert [len(node.input) for node in products].count(5) == 1
    assert [len(node.input) for node in products].count(7) == len(layers) - 1
    assert output_error(run_all(quantized, rows(family, seed=50)), run_all(proto, rows(family, seed=50))) < 3 * CLOSE


def test_static_graph_in_openvino(family: str):
    """The other runtime multiplies the same codes, in 8 bits."""
    openvino = pytest.importorskip("service.runtime.openvino")
    proto = graph_of(family)
    quantized, inputs = quantize_static(proto, rows(family)), rows(family, seed=50)
    session = openvino.OpenVinoSession(quantized.SerializeToString())
    assert output_error([session.run(row) for row in inputs], run_all(quantized, inputs)) < CLOSE


def test_weights_are_signed_per_column(family: str):
    """Every encoder linear has S8 codes and one scale per output, and codes times scales is the weight to half a step."""
    proto = graph_of(family)
    stored = onnx_graph.initializers(quantize_dynamic(proto))
    for weight in linear_layers(proto):
        codes, scales = (numpy_helper.to_array(stored[weight + suffix]) for suffix in ("_quantized", "_scale"))
        original = numpy_helper.to_array(onnx_graph.initializers(proto)[weight])
        assert codes.dtype == np.int8
        assert scales.shape == original.shape[1:]
        assert (np.abs(codes * scales - original) <= scales * 0.5001).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**16), st.sampled_from([1e-6, 1.0, 1e3]))
def test_no_sum_of_two_products_leaves_16_bits(inputs: int, outputs: int, seed: int, size: float):
    """Largest activations times any two neighbouring codes fit 16 bits, so processors without VNNI compute what those with it do."""
    weight = (size * np.random.default_rng(seed).standard_t(2, size=(inputs, outputs))).astype(np.float32)
    codes, scales = quantize_weight(weight)
    reached = [255 * np.clip(sign * codes.astype(int), 0, None) for sign in (1, -1)]
    padded_pairs = [np.pad(part, ((0, inputs % 2), (0, 0))).reshape(-1, 2, outputs).sum(axis=1) for part in reached]
    assert max(pairs.max() for pairs in padded_pairs) < 2**15
    assert (np.abs(codes * scales - weight) <= scales * 0.5001).all()


@pytest.mark.parametrize("positive", [True, False])
def test_products_are_exact_on_this_processor(positive: bool):
    """What the runtime multiplies in 8 bits is the integers' product, in the case that saturates where codes are chosen carelessly."""
    sign = 1 if positive else -1
    weight = sign * np.random.default_rng(0).uniform(0.9, 1, size=(64, 32)).astype(np.float32)
    codes, _ = quantize_weight(weight)
    row = np.full((1, 64), 255, np.uint8)
    node = onnx.helper.make_node("MatMulInteger", ["row", "codes"], ["product"])
    graph = onnx.helper.make_graph(
        [node],
        "product",
        [onnx.helper.make_tensor_value_info("row", onnx.TensorProto.UINT8, [1, 64])],
        [onnx.helper.make_tensor_value_info("product", onnx.TensorProto.INT32, [1, 32])],
        [numpy_helper.from_array(codes, "codes")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"row": row})[0], row.astype(np.int32) @ codes.astype(np.int32))


def test_layers_that_share_an_input_quantize_it_once():
    """Q, K and V cost one quantization of their input, not three."""
    counts = onnx_graph.operator_counts(quantize_dynamic(graph_of(layers=2)))
    assert counts["MatMulInteger"] == 2 * 6
    assert counts["DynamicQuantizeLinear"] == 2 * 4


@pytest.mark.parametrize("task", TASK_NAMES)
def test_head_stays_fp32(family: str, task: str):
    """What the task adds to the encoder is not quantized."""
    proto = graph_of(family, task)
    quantized = quantize_dynamic(proto)
    codes = {t.name for t in quantized.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2}
    assert codes
    assert all("layer." in name or "embeddings" in name for name in codes)


def test_embedding_rows_keep_their_own_scale():
    """A row's error is at most half its own step, even beside a row a thousand times larger."""
    table = np.random.default_rng(0).normal(size=(100, 24)).astype(np.float32)
    table[3] *= 1000
    codes, scales = quantize_symmetric(table, axis=1)
    assert (np.abs(codes * scales - table) <= np.abs(table).max(axis=1, keepdims=True) / 254 * 1.001).all()


def test_embedding_tables_are_8_bit(family: str):
    """The word table is int8 in the graph and gone as fp32; lookups are close."""
    proto = graph_of(family)
    quantized = onnx.ModelProto()
    quantized.CopyFrom(proto)
    quantize_embeddings(quantized)
    onnx_graph.remove_unused(quantized)
    word_tables = [t for t in quantized.graph.initializer if tuple(t.dims) == (VOCABULARY, 32)]
    assert [t.data_type for t in word_tables] == [onnx.TensorProto.INT8]
    inputs = rows(family)
    assert output_error(run_all(quantized, inputs), run_all(proto, inputs)) < 0.02


def test_empty_rows_of_a_table_stay_zero():
    """A row of zeros (padding) is exactly zero afterwards, not a division by zero."""
    codes, scales = quantize_symmetric(np.zeros((2, 5), np.float32), axis=1)
    assert not (codes * scales).any()


def test_quantizing_leaves_the_graph_as_it_was():
    """No scheme writes into the graph that it is given."""
    proto = graph_of()
    before = proto.SerializeToString()
    quantize_dynamic(proto)
    quantize_static(proto, rows(count=2))
    fuse_qkv(proto)
    to_fp16(proto)
    assert proto.SerializeToString() == before


def test_runtime_computes_in_8_bits(tmp_path: Path):
    """ONNX Runtime turns every quantized layer into an 8-bit product, statically and dynamically, and leaves none in fp32."""
    proto = graph_of()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    for quantized in (quantize_dynamic(proto), quantize_static(proto, rows(count=2))):
        ort.InferenceSession(quantized.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kernels = onnx_graph.operator_counts(onnx.load(tmp_path / "optimized.onnx"))
        assert sum(kernels[name] for name in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")) == len(linear_layers(proto))


@pytest.mark.parametrize("quantize", [lambda model: model, quantize_dynamic], ids=["fp32", "int8"])
def test_fused_products_give_the_same(family: str, quantize):
    """Q, K and V in one product give the outputs of three."""
    proto = to_onnx(pruned(family, "question-answering", seed=4), "question-answering")
    fused = fuse_qkv(proto)
    assert len(linear_layers(fused)) < len(linear_layers(proto))
    inputs = [arrays(family, rows=1, length=length) for length in (3, 17)]
    assert output_error(run_all(quantize(fused), inputs), run_all(quantize(proto), inputs)) < 1e-5


def test_skipped_layers_stay_fp32():
    """A layer named in `skip` keeps its weight, the others do not."""
    proto = graph_of()
    skipped, *others = linear_layers(proto)
    quantized = quantize_static(proto, rows(count=2), skip=[skipped])
    assert set(linear_layers(quantized)) == {skipped}
    assert others


def test_sensitivity_finds_the_layer_that_loses():
    """The layer whose weights 8 bits cannot hold has the largest error and is the one proposed for skipping."""
    model = tiny_model(vocabulary=VOCABULARY)
    bad = model.bert.encoder.layer[1].attention.output.dense.weight.data
    bad[:, 0] *= 300
    model.bert.encoder.layer[1].attention.self.value.weight.data[0] *= 1e-3
    proto = to_onnx(model, "question-answering")
    errors = sensitivity(proto, rows(), rows(seed=50))
    assert max(errors, key=errors.__getitem__) == "bert.encoder.layer.1.attention.output.dense.weight"
    assert worst_layers(proto, rows(), 1) == ("bert.encoder.layer.1.attention.output.dense.weight",)


def test_comparison_has_a_row_for_each_scheme():
    """fp32 has no error, the others a small one, and 8 bits are smaller."""
    table = {row.scheme: row for row in compare_schemes(graph_of(hidden=64, heads=4), rows(), rows(seed=50))}
    assert set(table) == {"fp32", "dynamic", "dynamic, smooth", "static minmax", "static percentile", "static entropy"}
    assert table["fp32"].error == 0
    assert all(0 < row.error < 3 * CLOSE for name, row in table.items() if name != "fp32")
    assert all(row.size_bytes < table["fp32"].size_bytes / 2 for name, row in table.items() if name != "fp32")


def test_fp16_is_close_and_keeps_its_signature(task: str):
    """fp16 outputs are fp32 arrays, close to fp32's."""
    proto = graph_of(task=task)
    halved = to_fp16(proto)
    inputs = [*rows(count=2), arrays("bert", vocabulary=VOCABULARY)]
    found = run_all(halved, inputs)
    assert all(values.dtype == np.float32 for output in found for values in output.values())
    assert output_error(found, run_all(proto, inputs)) < 0.01


@pytest.fixture
def compact_artifact(tiny_tokenizer: BertTokenizerFast, tmp_path: Path) -> Path:
    """An exported compact artifact, with a table that is long enough for 8 bits."""
    model = pruned("bert", "text-classification", seed=3)
    model.resize_token_embeddings(SHORTEST_TABLE_ROWS)
    export_artifact(model, tiny_tokenizer, tmp_path / "compact", spec=spec_of(model, "text-classification"))
    return tmp_path / "compact"


@pytest.mark.parametrize(("scheme", "precision"), [("dynamic", "int8"), ("static", "int8-static")])
def test_quantized_artifact_loads(compact_artifact: Path, scheme: str, precision: str, tmp_path: Path):
    """The service loads it: files, domains and golden outputs are right, and the manifest says where it comes from."""
    calibration = [arrays("bert", rows=1, length=8, seed=seed) for seed in range(4)]
    manifest = quantize_artifact(compact_artifact, tmp_path / "compact-int8", scheme=scheme, calibration=calibration, skip_worst=1)
    assert Model.load(tmp_path / "compact-int8").manifest == manifest
    assert (manifest.variant, manifest.precision) == ("compact-int8", precision)
    assert manifest.parent == revision(read_manifest(compact_artifact))
    assert (manifest.metrics, manifest.latency) == ((), ())


def test_quantized_artifact_holds_its_weights(compact_artifact: Path, tmp_path: Path):
    """One graph and a table, the tokenizer and the config; no shard and no checkpoint that torch could mistake for one."""
    quantize_artifact(compact_artifact, tmp_path / "compact-int8", fuse=True)
    names = {path.name for path in (tmp_path / "compact-int8").iterdir()}
    assert {GRAPH_NAME, "tokenizer.json", "config.json", "manifest.json"} <= names
    assert not names & {EMBEDDINGS_NAME, ENCODER_NAME, CHECKPOINT_NAME, INDEX_NAME}
    graph = onnx.load(tmp_path / "compact-int8" / GRAPH_NAME, load_external_data=False)
    table = "bert.embeddings.word_embeddings.weight"
    assert {tensor.name for tensor in graph.graph.initializer if tensor.external_data} == {f"{table}.int8", f"{table}.scale"}
    assert {node.domain for node in graph.graph.node} <= KNOWN_DOMAINS


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_models_with_the_same_embeddings_have_the_same_table(family: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path):
    """Whatever family, task and shape models are of, the largest table that they share is the same file, byte for byte, and they load."""
    rows, files = torch.randn(SHORTEST_TABLE_ROWS, 32), []
    for model, task in ((pruned("bert", TASK_NAMES[0], seed=3), TASK_NAMES[0]), (pruned(family, TASK_NAMES[1], seed=4), TASK_NAMES[1])):
        model.resize_token_embeddings(len(rows))
        model.get_input_embeddings().weight = torch.nn.Parameter(rows)
        export_artifact(model, tiny_tokenizer, tmp_path / task / "compact", spec=spec_of(model, task))
        quantize_artifact(tmp_path / task / "compact", tmp_path / task / "compact-int8")
        Model.load(tmp_path / task / "compact-int8")
        files.append((tmp_path / task / "compact-int8" / TABLE_NAME).read_bytes())
    assert files[0] == files[1]


def test_fp16_artifact_keeps_its_variant(compact_artifact: Path, tmp_path: Path):
    """fp16 is a precision of the same variant."""
    manifest = quantize_artifact(compact_artifact, tmp_path / "half", scheme="fp16")
    assert (manifest.variant, manifest.precision) == ("compact", "fp16")


def test_quantizing_twice_is_refused(compact_artifact: Path, tmp_path: Path):
    """An 8-bit artifact is no source; the message says what is."""
    quantize_artifact(compact_artifact, tmp_path / "compact-int8")
    with pytest.raises(ConfigError, match="quantize the fp32 artifact"):
        quantize_artifact(tmp_path / "compact-int8", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_damaged_source_is_refused(compact_artifact: Path, tmp_path: Path):
    """A truncated shard is found before anything is written."""
    shard = compact_artifact / ENCODER_NAME
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="truncated"):
        quantize_artifact(compact_artifact, tmp_path / "compact-int8")
    assert not (tmp_path / "compact-int8").exists()
