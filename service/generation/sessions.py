"""Sessions of the graphs that generate. A decoder's session also says which cache its graph takes, since each attention has its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from service.errors import ArtifactError
from service.runtime.base import Session
from service.runtime.onnx import OnnxSession


class CacheShape(NamedTuple):
    """Of one tensor of keys or values, [rows, heads, length, head_size]."""

    heads: int
    head_size: int


class CachedSession(Session, Protocol):
    """A decoder's session.

    Attributes:
        caches: shapes of the inputs with four dimensions, by name: `past_key_0`, …, `cross_value_5`.
    """

    caches: Mapping[str, CacheShape]


class DecoderSession(OnnxSession):
    """A decoder's graph loaded by ONNX Runtime; see `CachedSession`."""

    def __init__(self, model: Path | bytes, *, threads: int = 1, spinning: bool = False) -> None:
        """Load the graph; `ArtifactError` when it cannot be."""
        super().__init__(model, threads=threads, spinning=spinning)
        self._output_shapes = {item.name: item.shape for item in self._session.get_outputs()}
        shapes = {item.name: item.shape for item in self._session.get_inputs()}
        self.caches: Mapping[str, CacheShape] = {name: CacheShape(shape[1], shape[3]) for name, shape in shapes.items() if len(shape) == 4}

    @property
    def vocabulary(self) -> int:
        """How many output ids there are; `ArtifactError` when the graph does not say."""
        size = self._output_shapes.get("logits", [None])[-1]
        if not isinstance(size, int):
            raise ArtifactError("the decoder's graph does not say how many tokens it scores; export it again")
        return size
