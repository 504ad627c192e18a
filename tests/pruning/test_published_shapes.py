"""Speed of published shapes: tiny models of a tiny file, real artifacts and sessions, and a timer that knows the answer."""

import json
import logging
from importlib.util import find_spec

import numpy as np
import pytest

from pruning import onnx_graph
from pruning.cli import main
from pruning.errors import ConfigError, DataError
from pruning.export import load_fp32
from pruning.published_shapes import (
    PublishedShapes,
    ShapeSpeeds,
    choose,
    dense_bert,
    make_artifacts,
    measure_shapes,
    read_shapes,
    time_artifacts,
)
from pruning.timing import Timings
from service.artifact import read_manifest
from service.errors import RuntimeUnavailableError
from service.runtime import RuntimeOptions, open_session

CONTENT = {
    "model": {"hidden_size": 32, "num_attention_heads": 4, "head_size": 8, "intermediate_size": 64, "num_hidden_layers": 2},
    "dense": {"f1": 50.0},
    "shapes": [
        {"f1": 49.0, "speedup": 2.0, "heads": [3, 1], "intermediate": [48, 5]},
        {"f1": 47.5, "speedup": 4.0, "heads": [2, 0], "intermediate": [0, 17]},
    ],
}
TINY = PublishedShapes.model_validate(CONTENT)
MODEL = dense_bert(TINY.model)
LENGTHS = (8, 16)
REFERENCE_MS = 12.0


class KnowingTimer:
    """Makes every call once; the first takes `REFERENCE_MS`, the n-th after it an n-th of that."""

    def __call__(self, calls, *, seconds, description=None):
        """Three rounds that all give the same."""
        for call in calls.values():
            call()
        return Timings({name: np.full(3, REFERENCE_MS / max(1, int(name))) for name in calls})


class UnquietTimer:
    """Sees latencies that vary by as much as they take."""

    def __call__(self, calls, *, seconds, description=None):
        """Three rounds on a busy machine."""
        return Timings({name: np.array([1.0, 2.0, 4.0]) for name in calls})


def open_onnx_alone(model, options):
    """As where OpenVINO is not installed."""
    if options.name == "openvino":
        raise RuntimeUnavailableError("openvino cannot be imported; install it")
    return open_session(model, options)


def open_as_bf16(model, options):
    """As where OpenVINO computes in bf16."""
    session = open_session(model, RuntimeOptions())
    session.runtime = f"{options.name} 2026.4 cpu bf16"
    return session


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Artifacts of the tiny dense model and of both shapes."""
    folder = tmp_path_factory.mktemp("shapes")
    shapes = (TINY.dense_shape, *TINY.shapes)
    return [make_artifacts(MODEL, shape, folder / str(shape.f1), max_length=16) for shape in shapes]


@pytest.fixture(scope="module")
def measured(artifacts):
    """All at both lengths by the knowing timer, in ONNX Runtime."""
    return time_artifacts(MODEL, artifacts, lengths=LENGTHS, seconds=0.1, timer=KnowingTimer(), open_model=open_onnx_alone)


@pytest.fixture
def file(tmp_path):
    """The tiny file."""
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps(CONTENT))
    return path


@pytest.mark.parametrize("index", range(3))
def test_artifacts_have_the_shape_asked_for(artifacts, index):
    """Heads and widths of both manifests and of the weights in the graph are those of the file."""
    made, shape = artifacts[index], (TINY.dense_shape, *TINY.shapes)[index]
    graph = load_fp32(made.fp32)
    weights = onnx_graph.initializers(graph)
    inner = [*3 * [8 * heads for heads in shape.heads if heads], *(width for width in shape.intermediate if width)]
    outer = [32] * sum(size > 0 for size in (*shape.heads, *shape.intermediate))
    assert [read_manifest(folder).layers for folder in (made.fp32, made.int8)] == [shape.layers] * 2
    assert [read_manifest(folder).precision for folder in (made.fp32, made.int8)] == ["fp32", "int8"]
    assert sorted(weights[name].dims[1] for name in onnx_graph.weight_matmuls(graph)) == sorted([*inner, *outer, 2])


def test_there_is_a_row_for_each_model_and_length(measured):
    """The reference, then dense and both shapes in 8 bits, at every length."""
    rows = [(row.sequence_length, row.variant, row.reported_f1, row.precision) for row in measured.rows]
    assert rows == [
        (length, *row)
        for length in LENGTHS
        for row in [("dense", 50.0, "fp32"), ("dense", 50.0, "int8"), ("compact", 49.0, "int8"), ("compact", 47.5, "int8")]
    ]


def test_speedups_are_total(measured):
    """Latency of dense fp32 in ONNX Runtime over that of the row, from one run."""
    assert [row.speedup for row in measured.rows] == [1.0, 1.0, 2.0, 3.0] * len(LENGTHS)
    assert all(row.speedup * row.latency_ms == pytest.approx(REFERENCE_MS) for row in measured.rows)


def test_density_is_of_the_encoders_weights(measured):
    """Counted by hand: four heads of 8 and 64 neurons a layer, 32 wide, two layers."""
    dense, _, first, second = (row.density for row in measured.rows[:4])
    total = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    assert dense == 1
    assert first == pytest.approx((4 * 32 * 8 * 4 + 2 * 32 * 53) / total)
    assert second == pytest.approx((4 * 32 * 8 * 2 + 2 * 32 * 17) / total)


def test_the_table_says_what_it_shows(measured):
    """A line for each model and length with its speed-up, under a heading that says whose F1 it is and what the weights are."""
    text = measured.as_text()
    lines = [line for line in text.splitlines() if line.startswith(("dense ", "compact "))]
    assert len(lines) == 3 * len(LENGTHS)
    assert "random weights; F1 is what the authors report" in text
    assert "3.00x (3.00 to 3.00)" in lines[2]
    assert "12.0 ms at 8 tokens" in text


def test_a_missing_runtime_is_named_and_left_out(measured):
    """Without OpenVINO the table has no column for it, and says why."""
    assert "openvino cannot be imported" in measured.left_out
    assert "Left out: openvino" in measured.as_text()
    assert {row.runtime for row in measured.rows} == {"onnxruntime"}


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_has_a_column_of_its_own(artifacts):
    """Dense and compact in OpenVINO, of the fp32 artifacts."""
    found = time_artifacts(MODEL, artifacts[:2], lengths=(8,), seconds=0.1, timer=KnowingTimer())
    rows = [(row.variant, row.precision) for row in found.rows if row.runtime == "openvino"]
    assert found.left_out is None
    assert rows in ([("dense", "fp32"), ("compact", "fp32")], [("dense", "bf16"), ("compact", "bf16")])
    assert "OpenVINO" in found.as_text()


def test_what_openvino_computes_in_is_said(artifacts):
    """Where it came to bf16, rows and heading say bf16."""
    found = time_artifacts(MODEL, artifacts[:1], lengths=(8,), seconds=0.1, timer=KnowingTimer(), open_model=open_as_bf16)
    assert [row.precision for row in found.rows] == ["fp32", "int8", "bf16"]
    assert "OpenVINO bf16" in found.as_text()


def test_an_unquiet_machine_is_warned_of(artifacts, caplog):
    """Latencies that vary much give a warning beside the table."""
    with caplog.at_level(logging.WARNING, logger="pruning"):
        time_artifacts(MODEL, artifacts[:1], lengths=(8,), seconds=0.1, timer=UnquietTimer(), open_model=open_onnx_alone)
    assert "busy" in caplog.text


def test_an_unknown_f1_is_refused():
    """The message lists those that the file has."""
    with pytest.raises(ConfigError, match=r"F1 88\.00.*49\.00, 47\.50"):
        choose(TINY, (49.0, 88.0))


def test_rows_that_are_too_long_are_refused():
    """A length beyond the model's positions is refused before anything is exported."""
    with pytest.raises(ConfigError, match="positions for 512"):
        measure_shapes(TINY, scores=(49.0,), lengths=(8, 513), seconds=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": []}, "shapes"),
        ({"shapes": [{"f1": 1.0, "heads": [1], "intermediate": [1, 1]}]}, "heads must be 2 sizes from 0 to 4"),
        ({"shapes": [{"f1": 1.0, "heads": [1, 1], "intermediate": [1, 65]}]}, "intermediate must be 2 sizes from 0 to 64"),
        ({"shapes": [{"f1": 1.0, "heads": [1, -1], "intermediate": [1, 1]}]}, r"shapes\.0\.heads\.1"),
        ({"model": CONTENT["model"] | {"head_size": 16}}, "do not make a hidden size of 32"),
    ],
)
def test_a_malformed_file_is_refused(file, change, message):
    """One line with the file, the place and what was expected."""
    file.write_text(json.dumps(CONTENT | change))
    with pytest.raises(DataError, match=message) as caught:
        read_shapes(str(file))
    assert str(caught.value).startswith(str(file))


def test_the_file_is_found_where_recipes_find_data(file, monkeypatch):
    """A relative name is looked up in the folder that SECATEUR_DATA names."""
    monkeypatch.setenv("SECATEUR_DATA", str(file.parent))
    assert read_shapes(file.name) == TINY


def test_a_missing_file_is_one_line(invoke, tmp_path, monkeypatch):
    """The command says what is needed and where, and ends with 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    result = invoke(main, ["bench-shapes"])
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "published-shapes.json" in result.stderr
    assert "SECATEUR_DATA" in result.stderr


def test_the_command_prints_json(invoke, file):
    """One shape from the file to stdout: rows carry what a figure needs, and machine and versions stand beside them."""
    options = ["--f1", "47.5", "--length", "8", "--seconds", "0.1", "--json"]
    result = invoke(main, ["--quiet", "bench-shapes", "--shapes", str(file), *options])
    document = json.loads(result.stdout)
    assert {row["variant"]: row["reported_f1"] for row in document["rows"]} == {"dense": 50.0, "compact": 47.5}
    assert document["rows"][0].keys() >= {"runtime", "precision", "sequence_length", "speedup", "speedup_low", "speedup_high"}
    assert document["machine"]["cpu"]
    assert document["versions"].keys() >= {"secateur", "onnxruntime", "torch"}
    assert ShapeSpeeds.model_validate(document).about == document["about"]
