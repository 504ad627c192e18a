"""What a graph refers to is found wherever it hides, and anything malformed is refused."""

import time

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from service.errors import ArtifactError
from service.runtime.graph import check_graph, read_graph
from tests.service.builders import classify_model

PLAIN = classify_model(20, 3).SerializeToString()


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])


def _model_of(*nodes: onnx.NodeProto, **extra: object) -> onnx.ModelProto:
    return helper.make_model(helper.make_graph(list(nodes), "g", [_value("x")], [_value("y")]), **extra)


def _external_tensor(location: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def _in_graph() -> onnx.ModelProto:
    return _model_of(helper.make_node("Evil", ["x"], ["y"], domain="evil"))


def _in_subgraph() -> onnx.ModelProto:
    inner = helper.make_graph([helper.make_node("Evil", ["x"], ["z"], domain="evil")], "inner", [], [_value("z")])
    middle = helper.make_graph([helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)], "middle", [], [_value("z")])
    return _model_of(helper.make_node("If", ["x"], ["y"], then_branch=middle, else_branch=middle))


def _in_function() -> onnx.ModelProto:
    function = helper.make_function(
        "com.microsoft", "Local", ["x"], ["y"], [helper.make_node("Evil", ["x"], ["y"], domain="evil")], [helper.make_opsetid("evil", 1)]
    )
    return _model_of(helper.make_node("Local", ["x"], ["y"], domain="com.microsoft"), functions=[function])


def _in_training() -> onnx.ModelProto:
    model = _model_of()
    model.training_info.add().algorithm.node.add(op_type="Evil", domain="evil")
    return model


@pytest.mark.parametrize("build", [_in_graph, _in_subgraph, _in_function, _in_training])
def test_foreign_domain_is_found_wherever_it_is(tmp_path, build):
    """An operator of an unknown domain is refused in the graph, in subgraphs, in functions and in training graphs."""
    path = tmp_path / "model.onnx"
    path.write_bytes(build().SerializeToString())
    with pytest.raises(ArtifactError, match="unknown domains evil"):
        check_graph(path)


def test_known_domains_pass(tmp_path):
    """Operators of ONNX and of com.microsoft are accepted, and an import that no operator uses does not matter."""
    path = tmp_path / "model.onnx"
    nodes = [helper.make_node("Gelu", ["x"], ["z"], domain="com.microsoft"), helper.make_node("Relu", ["z"], ["y"], domain="ai.onnx")]
    path.write_bytes(_model_of(*nodes, opset_imports=[helper.make_opsetid("unused", 1)]).SerializeToString())
    assert check_graph(path).domains == {"", "ai.onnx", "com.microsoft"}


def _initializer(tensor: TensorProto) -> onnx.ModelProto:
    model = _model_of()
    model.graph.initializer.append(tensor)
    return model


def _constant(tensor: TensorProto) -> onnx.ModelProto:
    return _model_of(helper.make_node("Constant", [], ["y"], value=tensor))


def _sparse(tensor: TensorProto) -> onnx.ModelProto:
    model = _model_of()
    model.graph.sparse_initializer.add().values.CopyFrom(tensor)
    return model


@pytest.mark.parametrize("build", [_initializer, _constant, _sparse])
def test_external_data_is_found_wherever_it_is(build):
    """Locations are found in initializers, in attributes and in sparse tensors."""
    assert read_graph(build(_external_tensor("weights.bin")).SerializeToString()).external == {"weights.bin"}


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "", "missing.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    """Data outside the graph's folder, in memory, or missing is refused."""
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4)
    path = tmp_path / "inner" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(_initializer(_external_tensor(location)).SerializeToString())
    with pytest.raises(ArtifactError, match=r"model\.onnx|inner"):
        check_graph(path)


def test_external_data_through_a_link_out_of_the_folder_is_refused(tmp_path):
    """A link that leads out of the folder is refused although its own path is inside."""
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4)
    path = tmp_path / "inner" / "model.onnx"
    path.parent.mkdir()
    (path.parent / "weights.bin").symlink_to(tmp_path / "weights.bin")
    path.write_bytes(_initializer(_external_tensor("weights.bin")).SerializeToString())
    with pytest.raises(ArtifactError, match="leaves the artifact's folder"):
        check_graph(path)


@given(st.integers(0, len(PLAIN) - 1))
def test_truncated_model_is_refused_or_still_whole_in_what_was_read(length):
    """A truncated file is an ArtifactError unless the cut falls between two fields after the graph."""
    try:
        facts = read_graph(PLAIN[:length])
    except ArtifactError:
        return
    assert onnx.ModelProto.FromString(PLAIN[:length]).HasField("graph")
    assert facts == read_graph(PLAIN)


@given(st.binary(max_size=200))
def test_garbage_raises_nothing_but_an_artifact_error(garbage):
    """Random bytes are refused, or are a message with a graph for protobuf too."""
    try:
        read_graph(garbage)
    except ArtifactError:
        return
    assert b"\x3a" in garbage


def test_endless_nesting_is_refused():
    """Messages inside each other beyond any real model are refused, not followed to the end of the stack."""
    data = b""
    for _ in range(200):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # attribute.g <- node.attribute <- graph.node
            data = tag + _varint(len(data)) + data
    with pytest.raises(ArtifactError, match="inside each other"):
        read_graph(b"\x3a" + _varint(len(data)) + data)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def test_weights_are_skipped_by_length():
    """A graph with 20 MB of weights is read in well under a second."""
    model = _model_of(*[helper.make_node("Relu", ["x"], ["y"])] * 1000)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(5_000_000, dtype=np.float32), "w"))
    data = model.SerializeToString()
    begin = time.process_time()
    read_graph(data)
    assert time.process_time() - begin < 1.0


def test_operators_are_named_those_of_subgraphs_too():
    """What a graph computes with is known before any runtime sees it."""
    branch = helper.make_graph([helper.make_node("DynamicQuantizeLinear", ["x"], ["a", "b", "c"])], "branch", [], [])
    facts = read_graph(_model_of(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)).SerializeToString())
    assert facts.operators == {"If", "DynamicQuantizeLinear"}
