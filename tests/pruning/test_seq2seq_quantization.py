"""A quantized encoder-decoder is close to the fp32 one, holds each weight once, and gives a row the same whoever is decoded with it."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from pruning import onnx_graph
from pruning.dynamic_quantization import head_table, quantize_rows
from pruning.errors import ConfigError
from pruning.quantization import TABLE_NAME, quantize_artifact
from pruning.quantizers import SHORTEST_TABLE_ROWS
from pruning.seq2seq_artifact import sessions, special_tokens
from pruning.seq2seq_export import Seq2SeqGraphs, to_onnx
from pruning.seq2seq_quantization import load_graphs, quantize_graphs
from service.artifact import DECODER_GRAPH_NAME, ENCODER_GRAPH_NAME, read_manifest, verify_files
from service.errors import ArtifactError
from service.generation import EncoderDecoder, Engine, GenerationSettings, generate
from service.generation.golden import check_golden, forced_logits
from service.runtime.onnx import OnnxSession
from tests.pruning.seq2seq_artifacts import summarizer, wide_bart, write_summarizer

KINDS = ("dense", "pruned", "reduced")


@cache
def graphs_of(kind: str) -> Seq2SeqGraphs:
    """fp32 graphs of a tiny model, which no test may change."""
    return to_onnx(summarizer(seed=3, pruned=kind != "dense", reduced=kind == "reduced"))


@pytest.fixture(scope="module", params=KINDS)
def artifacts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An fp32 artifact, and what it was quantized to."""
    folder = tmp_path_factory.mktemp(request.param)
    write_summarizer(folder / "compact", summarizer(seed=3, pruned=request.param != "dense", reduced=request.param == "reduced"))
    quantize_artifact(folder / "compact", folder / "compact-int8")
    return folder / "compact", folder / "compact-int8"


def batch_of(requests: int, *, source: int = 13, target: int = 6) -> dict[str, np.ndarray]:
    """Random sources and targets."""
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 200, (requests, source))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "decoder_input_ids": rng.integers(4, 200, (requests, target))}


def linear(columns: int = 24, outputs: int = 33) -> onnx.ModelProto:
    """A linear layer over rows of three dimensions, and a head over the rows of a table."""
    rng = np.random.default_rng(0)
    weights = {"layer": rng.normal(size=(columns, outputs)), "table": rng.normal(size=(outputs, columns)), "bias": rng.normal(size=outputs)}
    nodes = [
        onnx.helper.make_node("Identity", ["x"], ["states"]),
        onnx.helper.make_node("MatMul", ["states", "layer"], ["y"], "y"),
        onnx.helper.make_node("Gather", ["states", "last"], ["rows"], axis=1),
        onnx.helper.make_node("Gemm", ["rows", "table", "bias"], ["logits"], "logits", transB=1),
    ]
    outputs_of = {"y": ["rows", "new", outputs], "logits": ["rows", outputs]}
    graph = onnx.helper.make_graph(
        nodes,
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", "new", columns])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs_of.items()],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    graph.initializer.append(numpy_helper.from_array(np.array(-1), "last"))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def row_quantized() -> tuple[OnnxSession, OnnxSession]:
    """The layer and the head in fp32 and in 8 bits."""
    model = linear()
    table = numpy_helper.to_array(onnx_graph.initializers(model)["table"])
    quantized = quantize_rows(model, {"table": head_table(table)})
    return OnnxSession(model.SerializeToString()), OnnxSession(quantized.SerializeToString())


def test_rows_are_close_whatever_their_scale():
    """Rows a million times larger or smaller than others keep their precision, and a row of zeros gives the bias."""
    exact, quantized = row_quantized()
    x = np.random.default_rng(1).normal(size=(4, 2, 24)).astype(np.float32) * np.float32([1, 1e-6, 1e6, 0]).reshape(4, 1, 1)
    expected, found = exact.run({"x": x}), quantized.run({"x": x})
    for name, axes in (("y", (1, 2)), ("logits", 1)):
        errors = np.linalg.norm(found[name] - expected[name], axis=axes)
        assert (errors <= 0.02 * np.linalg.norm(expected[name], axis=axes)).all()
    np.testing.assert_array_equal(found["logits"][3], expected["logits"][3])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(2, 9))
def test_a_row_is_the_same_alone(seed: int, rows: int):
    """Not a bit of a row depends on the others."""
    _, quantized = row_quantized()
    x = np.random.default_rng(seed).normal(size=(rows, 1, 24)).astype(np.float32) * np.logspace(0, 6, rows, dtype=np.float32).reshape(
        -1, 1, 1
    )
    together = quantized.run({"x": x})
    for row in range(rows):
        alone = quantized.run({"x": x[row : row + 1]})
        for name in together:
            np.testing.assert_array_equal(together[name][row], alone[name][0])


def test_largest_codes_do_not_saturate():
    """Rows and weights that are all at their largest give the exact sum: no processor's 16-bit sums overflow."""
    model = linear()
    for name in ("layer", "table"):
        tensor = onnx_graph.initializers(model)[name]
        tensor.CopyFrom(numpy_helper.from_array(np.ones(tensor.dims, np.float32), name))
    quantized = quantize_rows(model, {"table": head_table(np.ones((33, 24), np.float32))})
    found = OnnxSession(quantized.SerializeToString()).run({"x": np.ones((1, 1, 24), np.float32)})
    np.testing.assert_allclose(found["y"], 24, rtol=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_close_to_fp32(kind: str):
    """The error of the logits is bounded, whatever is gone from the model."""
    graphs = graphs_of(kind)
    expected, found = (forced_logits(*each.sessions(), batch_of(3)) for each in (graphs, quantize_graphs(graphs)))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.08


def test_tables_of_positions_have_8_bits(monkeypatch):
    """The encoder slices its table and the decoder looks rows up; both do with codes, and the logits stay close."""
    for module in ("quantizers", "seq2seq_quantization"):
        monkeypatch.setattr(f"pruning.{module}.SHORTEST_TABLE_ROWS", 16)
    graphs = graphs_of("dense")
    quantized = quantize_graphs(graphs)
    for graph in (quantized.encoder, quantized.decoder):
        stored = {name: tensor.data_type for name, tensor in onnx_graph.initializers(graph).items() if "embed_positions" in name}
        assert sorted(stored.values()) == [onnx.TensorProto.FLOAT, onnx.TensorProto.INT8]
        assert not [name for name in stored if name.endswith(".weight")]
    expected, found = (forced_logits(*each.sessions(), batch_of(3)) for each in (graphs, quantized))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.08


def test_logits_do_not_depend_on_how_many_queries_others_have():
    """Not a bit of a request's logits changes with the width that its queries are padded to, in heads as large as real ones."""
    encoder, decoder = quantize_graphs(to_onnx(wide_bart())).sessions()
    batch, rows = batch_of(16, source=33), np.arange(16)[:, np.newaxis]
    inputs = {
        "input_ids": rows,
        "position_ids": rows * 0,
        "attention_mask": rows * 0 + 1,
        "encoder_attention_mask": batch["attention_mask"],
        **{name: np.zeros((16, shape.heads, 0, shape.head_size), np.float32) for name, shape in decoder.caches.items()},
        **encoder.run(batch),
    }
    alone, *wider = (
        decoder.run({**inputs, "request_queries": np.repeat(rows, width, axis=1), "query_slots": rows * width})["logits"]
        for width in (1, 2, 4, 8)
    )
    for logits in wider:
        np.testing.assert_array_equal(logits, alone)


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_together_is_decoding_alone(kind: str):
    """Logits of a request are the same in a batch and alone, but for the rounding of fp32 attention."""
    loaded = quantize_graphs(graphs_of(kind)).sessions()
    batch = batch_of(4)
    alone = [forced_logits(*loaded, {name: values[row : row + 1] for name, values in batch.items()})[0] for row in range(4)]
    decoder_alone = forced_logits(_OneByOne(loaded[0]), loaded[1], batch)
    np.testing.assert_allclose(decoder_alone, np.stack(alone), atol=1e-4 * np.abs(decoder_alone).max())


class _OneByOne:
    """An encoder that is called with one source at a time, as the engine does."""

    def __init__(self, encoder: OnnxSession) -> None:
        self._encoder = encoder

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See `Session`."""
        rows = [
            self._encoder.run({name: values[row : row + 1] for name, values in inputs.items()}) for row in range(len(inputs["input_ids"]))
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def test_the_engine_gives_the_same_tokens_in_company(artifacts):
    """Greedy and beam requests that are decoded together, or join while others are at work, get the tokens that each gets alone."""
    _, folder = artifacts
    info = read_manifest(folder).generation
    model = EncoderDecoder(*sessions(folder), special_tokens(info), positions=info.source_length)
    rng = np.random.default_rng(0)
    sources = [rng.integers(4, 200, length).tolist() for length in (5, 17, 30, 9, 12, 3)]
    asked = [GenerationSettings(max_new_tokens=10 + index, num_beams=1 + index % 4) for index in range(len(sources))]
    alone = [generate(model, [source], own)[0].tokens for source, own in zip(sources, asked, strict=True)]
    engine = Engine(model)
    joining = []
    for source, own in zip(sources, asked, strict=True):
        joining.append(engine.submit(source, own))
        engine.step()
    while engine.active or engine.waiting:
        engine.step()
    assert [each.result.tokens for each in joining] == alone
    together = generate(model, sources, asked[3])
    assert [each.tokens for each in together] == [generate(model, [source], asked[3])[0].tokens for source in sources]


def test_quantized_artifact_is_whole(artifacts):
    """It verifies, reproduces its golden outputs, and says what it is; nothing of the fp32 weights came along."""
    fp32, folder = artifacts
    manifest, above = read_manifest(folder), read_manifest(fp32)
    verify_files(folder, manifest)
    check_golden(*sessions(folder), manifest.golden, folder)
    assert (manifest.variant, manifest.precision, manifest.generation) == ("compact-int8", "int8", above.generation)
    assert "checkpoint.json" not in manifest.files
    assert not {name for name in manifest.files if name.endswith(".safetensors")} - {TABLE_NAME}


def test_no_table_is_stored_twice(artifacts):
    """The largest table is in a file of its own, whether both graphs read it; none holds a large fp32 weight, or one set of codes twice."""
    _, folder = artifacts
    loaded = [onnx.load(folder / name, load_external_data=False).graph.initializer for name in (ENCODER_GRAPH_NAME, DECODER_GRAPH_NAME)]
    outside = [{t.name for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL} for tensors in loaded]
    inside = [t for tensors in loaded for t in tensors if t.data_location != onnx.TensorProto.EXTERNAL]
    assert outside[0] == {"model.shared.weight.int8", "model.shared.weight.scale"}
    assert outside[1] in (outside[0], set())
    assert not [
        t.name for t in inside if t.data_type == onnx.TensorProto.FLOAT and np.prod(t.dims) > 300 and t.dims[0] >= SHORTEST_TABLE_ROWS
    ]
    codes = [numpy_helper.to_array(t).tobytes() for t in inside if t.data_type == onnx.TensorProto.INT8 and np.prod(t.dims) > 300]
    assert len(codes) == len(set(codes))


def test_graphs_loaded_from_an_artifact_are_those_that_were_exported(artifacts):
    """fp32 graphs come back as they were: weights rounded to fp16, nodes the same."""
    fp32, _ = artifacts
    loaded, exported = load_graphs(fp32), graphs_of(fp32.parent.name[:-1])
    for name in ("encoder", "decoder"):
        assert onnx_graph.operator_counts(getattr(loaded, name)) == onnx_graph.operator_counts(getattr(exported, name))


@pytest.mark.parametrize("options", [{"scheme": "static"}, {"scheme": "fp16"}, {"fuse": True}])
def test_other_schemes_are_refused(artifacts, tmp_path, options):
    """What a generating model is not quantized to is one clear line, and nothing is written."""
    with pytest.raises(ConfigError, match="choose scheme dynamic"):
        quantize_artifact(artifacts[0], tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [ENCODER_GRAPH_NAME, DECODER_GRAPH_NAME, "tokenizer.json"])
def test_damaged_artifacts_are_refused_by_name(artifacts, tmp_path, name):
    """A damaged fp32 artifact is not quantized, and a damaged quantized one does not verify."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in artifacts[1].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    spoiled = bytearray((folder / name).read_bytes())
    spoiled[len(spoiled) // 2] ^= 0xFF
    (folder / name).write_bytes(spoiled)
    with pytest.raises(ArtifactError, match=f"{name} was altered"):
        verify_files(folder, read_manifest(folder))
