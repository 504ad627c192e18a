"""One set of weight bytes for torch and for serving.

The graph of a `dense` or `compact` artifact keeps its large weights in the checkpoint's fp16 safetensors shards, as ONNX external
data by byte offset. Behind each stands a Cast to fp32, and a Transpose where torch stores [out, in] and the graph multiplies by
[in, out]; in front of the Cast stands a Gather where a reduced output vocabulary has some rows of a table. The runtime folds all of them
when it loads the graph. `embed` turns such a graph back into one that holds fp32 weights itself.
`store_table_apart` gives the embeddings of graphs in 8 bits a file of their own.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file, save_file

from pruning import onnx_graph
from pruning.checkpoint_weights import READABLE
from pruning.quantizers import CODES, SCALES
from pruning.vocabulary import OUTPUT_IDS

SMALLEST_BYTES = 1024
_STORED = ".fp16"
_UNTRANSPOSED = ".stored"
_ROWS = ".rows"

Weights = NDArray[np.float32]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file_name: The shard.
        offset_bytes: Where its data begins, from the start of the file.
        values: As they are stored: weights in torch's layout.
    """

    file_name: str
    offset_bytes: int
    values: NDArray[np.generic]


@dataclass(frozen=True)
class _Found:
    """Where a weight is: in a stored tensor, or in some rows of it, or in its transpose."""

    source: StoredTensor
    rows: StoredTensor | None = None
    transposed: bool = False


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """The tensors of every shard in a folder, by name."""
    return dict(tensor for path in sorted(folder.glob("*.safetensors")) for tensor in _shard(path))


def point_to_shards(proto: onnx.ModelProto, folder: Path) -> None:
    """Move the large fp32 initializers that a shard of `folder` holds exactly, in fp16, out of the graph, in place.

    A weight is looked for under its own name first and then by content; one that no shard holds stays in the graph.
    """
    stored, nodes, rows = stored_tensors(folder), list[onnx.NodeProto](), list[TensorProto]()
    for index, tensor in enumerate(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or 4 * np.prod(tensor.dims, dtype=int) < SMALLEST_BYTES:
            continue
        found = _find(tensor.name, numpy_helper.to_array(tensor), stored)
        if found is not None:
            nodes += _widening(tensor.name, found)
            rows += [_external(tensor.name + _ROWS, found.rows)] if found.rows is not None else []
            proto.graph.initializer[index].CopyFrom(_external(tensor.name + _STORED, found.source))
    proto.graph.initializer.extend(rows)
    onnx_graph.insert_in_front(proto, nodes)


def store_table_apart(graphs: Sequence[onnx.ModelProto], path: Path) -> None:
    """Move the largest table in 8 bits, codes and scales, out of all graphs that have it into one safetensors file beside them, in place.

    The file says nothing of the graphs, so that models whose embeddings are the same have the same file. Where there is no such table, no
    file is written.
    """
    weights = [onnx_graph.initializers(graph) for graph in graphs]
    tables = {name: tensors for tensors in reversed(weights) for name in _tables(tensors)}
    if not tables:
        return
    largest = max(tables, key=lambda name: tables[name][name + CODES].dims[0])
    parts = {part: tables[largest][largest + part] for part in (CODES, SCALES)}
    holders = [
        tensors
        for tensors in weights
        if largest in _tables(tensors) and all(_equal(tensors[largest + part], parts[part]) for part in parts)
    ]
    save_file({part.removeprefix("."): np.ascontiguousarray(numpy_helper.to_array(tensor)) for part, tensor in parts.items()}, path)
    path.chmod(READABLE)
    stored = dict(_shard(path))
    for tensors in holders:
        for part in parts:
            tensors[largest + part].CopyFrom(_external(largest + part, stored[part.removeprefix(".")]))


def embed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with every fp16 weight and the Cast (and Gather, and Transpose) behind it folded into an fp32 initializer.

    It is the graph that `point_to_shards` was given, to the byte.

    Args:
        proto: Loaded with its external data.
    """
    whole = copy.deepcopy(proto)
    weights = onnx_graph.initializers(whole)
    readers = {node.input[0]: node for node in whole.graph.node if node.op_type in ("Cast", "Gather", "Transpose")}
    folded = set[str]()
    for tensor in weights.values():
        if tensor.data_type != TensorProto.FLOAT16 or not tensor.name.endswith(_STORED):
            continue
        name, wanted, values = tensor.name, tensor.name.removesuffix(_STORED), numpy_helper.to_array(tensor)
        while name != wanted:
            node = readers[name]
            if node.op_type == "Gather":
                values = values[numpy_helper.to_array(weights[node.input[1]])]
            elif node.op_type == "Transpose":
                values = values.T
            name = node.output[0]
            folded.add(name)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values.astype(np.float32), order="C"), name))
    onnx_graph.splice(whole, lambda node: [] if node.output[0] in folded else [node])
    onnx_graph.remove_unused(whole)
    return whole


def _tables(tensors: Mapping[str, TensorProto]) -> list[str]:
    """Names of tables in 8 bits with a scale for each row."""
    named = [name.removesuffix(CODES) for name in tensors if name.endswith(CODES) and tensors[name].ByteSize() >= SMALLEST_BYTES]
    return [name for name in named if name + SCALES in tensors and list(tensors[name + SCALES].dims) == [tensors[name + CODES].dims[0], 1]]


def _equal(one: TensorProto, other: TensorProto) -> bool:
    return one.data_type == other.data_type and np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(other))


def _shard(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of one safetensors file: 8 bytes of header length, the header (JSON), then the data that its offsets count in."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    for name, values in load_file(path).items():
        yield name, StoredTensor(path.name, 8 + header_bytes + header[name]["data_offsets"][0], values)


def _find(name: str, weight: Weights, stored: Mapping[str, StoredTensor]) -> _Found | None:
    """Where the weight is stored."""
    for found, values in _places(name, weight, stored):
        if np.array_equal(values, weight):
            return found
        if weight.ndim == 2 and np.array_equal(values, weight.T):
            return replace(found, transposed=True)
    return None


def _places(name: str, weight: Weights, stored: Mapping[str, StoredTensor]) -> Iterator[tuple[_Found, NDArray[np.generic]]]:
    """Where a weight may be stored, and what is there: under its name, at its size, then among the rows of a reduced vocabulary."""
    halves = [tensor for _, tensor in sorted(stored.items(), key=lambda item: item[0] != name) if tensor.values.dtype == np.float16]
    yield from ((_Found(tensor), tensor.values) for tensor in halves if tensor.values.size == weight.size)
    rows = stored.get(OUTPUT_IDS)
    if rows is not None:
        tables = [tensor for tensor in halves if tensor.values.ndim == 2 and len(tensor.values) > rows.values.max()]
        yield from ((_Found(tensor, rows), tensor.values[rows.values]) for tensor in tables)


def _external(name: str, source: StoredTensor) -> TensorProto:
    """An initializer whose data is a range of bytes of a shard."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(source.values.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=source.values.shape, data_location=TensorProto.EXTERNAL)
    place = {"location": source.file_name, "offset": str(source.offset_bytes), "length": str(source.values.nbytes)}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _widening(name: str, found: _Found) -> list[onnx.NodeProto]:
    """Nodes that give a weight under its own name from its stored fp16 form."""
    stored, nodes = name + _STORED, list[onnx.NodeProto]()
    if found.rows is not None:
        nodes.append(onnx.helper.make_node("Gather", [stored, name + _ROWS], [f"{name}.chosen"], f"{name}/Gather", axis=0))
        stored = f"{name}.chosen"
    cast = name + _UNTRANSPOSED if found.transposed else name
    nodes.append(onnx.helper.make_node("Cast", [stored], [cast], f"{name}/Cast", to=TensorProto.FLOAT))
    if found.transposed:
        nodes.append(onnx.helper.make_node("Transpose", [cast], [name], f"{name}/Transpose", perm=[1, 0]))
    return nodes
