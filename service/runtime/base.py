"""What the engine asks of a runtime: named arrays in, named arrays out. One file of this package per runtime."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


class Session(Protocol):
    """A loaded graph. `run` may be called from several threads at once.

    Attributes:
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs, in the graph's order.
        runtime: the runtime with its version and where it computes: `onnxruntime 1.31.1 cpu`.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    runtime: str

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Arrays that are not inputs of the graph are passed over."""
        ...
