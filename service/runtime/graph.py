"""What an ONNX file would make the runtime do, read before the runtime sees it.

A graph may name operators of foreign domains (native code that somebody else registered) and keep its tensors in other files by
path. Both are read here straight from the protocol-buffer wire format, so that the service needs no `onnx` package and weights
are skipped by their length. Anything that is not a well-formed message is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from service.artifact import locate
from service.errors import ArtifactError

KNOWN_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})

# Field numbers (onnx.proto3) that can hold a node or a tensor, by the kind of message they lead to.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 10: "domain", 11: "attribute"},
    "node": {4: "operator", 5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
    "external": {},
}
_MAX_DEPTH = 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class GraphFacts:
    """What a graph refers to outside itself.

    Attributes:
        domains: domains of its operators and local functions, those of subgraphs included.
        external: locations of its external tensor data.
        operators: names of its operators, those of subgraphs and local functions included.
    """

    domains: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)


def read_graph(data: bytes) -> GraphFacts:
    """Facts of a serialized ONNX model; `ArtifactError` when it is not one."""
    facts = GraphFacts()
    try:
        has_graph = any(number == 7 for number, _ in _messages(memoryview(data)))
        _walk(memoryview(data), "model", facts, depth=0)
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"not a valid ONNX model ({error}); it is truncated or damaged: fetch or export it again") from error
    if not has_graph:
        raise ArtifactError("not a valid ONNX model (it holds no graph); it is truncated or damaged: fetch or export it again")
    return facts


def check_graph(path: Path) -> GraphFacts:
    """Refuse an ONNX file with operators of unknown domains or with data outside the file's own folder."""
    try:
        facts = read_graph(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); fetch or export it again") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error
    unknown = sorted(facts.domains - KNOWN_DOMAINS)
    if unknown:
        raise ArtifactError(
            f"{path}: operators of unknown domains {', '.join(unknown)}; expected ai.onnx and com.microsoft only: do not use it"
        )
    for location in sorted(facts.external):
        if not locate(path.parent, location).is_file():
            raise ArtifactError(f"{path}: its tensors are in {location}, which is missing; fetch or export the artifact again")
    return facts


def _walk(view: memoryview, kind: str, facts: GraphFacts, *, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError(f"more than {_MAX_DEPTH} messages inside each other")
    children = _CHILDREN[kind]
    if kind == "external":
        _note_external(view, facts)
        return
    if kind == "node":
        facts.domains.add("")
    for number, payload in _messages(view):
        child = children.get(number)
        if child == "domain":
            facts.domains.add(str(payload, "utf-8"))
        elif child == "operator":
            facts.operators.add(str(payload, "utf-8"))
        elif child is not None:
            _walk(payload, child, facts, depth=depth + 1)


def _note_external(view: memoryview, facts: GraphFacts) -> None:
    """One `{key, value}` pair of a tensor's external data; the location is what matters."""
    fields = {number: str(payload, "utf-8") for number, payload in _messages(view)}
    if fields.get(1) == "location":
        facts.external.add(fields.get(2, ""))


def _messages(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each length-delimited field; fields of other wire types are passed over."""
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"field number {number}")
        if wire_type == _VARINT:
            _, position = _varint(view, position)
            continue
        if wire_type == _BYTES:
            length, position = _varint(view, position)
        elif wire_type in (_FIXED64, _FIXED32):
            length = 8 if wire_type == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if length > len(view) - position:
            raise ValueError(f"{length} bytes announced, {len(view) - position} left")
        if wire_type == _BYTES:
            yield number, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """The variable-length integer at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("it ends in the middle of a number")
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError("a number longer than 10 bytes")
