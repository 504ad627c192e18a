"""The methods of fine-pruning. One is a file of this package, its section in `pruning/config/methods.py`, and one line of `METHODS`."""

from collections.abc import Callable
from typing import Any

from pruning.config import MethodConfig
from pruning.methods.base import Mask, PruningMethod
from pruning.methods.l0 import L0
from pruning.methods.magnitude import Magnitude
from pruning.methods.movement import Movement
from pruning.methods.soft_movement import SoftMovement

__all__ = ["METHODS", "Mask", "PruningMethod", "method_of"]

METHODS: dict[str, Callable[[Any], PruningMethod]] = {
    "magnitude": Magnitude,
    "movement": Movement,
    "soft_movement": SoftMovement,
    "l0": L0,
}


def method_of(config: MethodConfig) -> PruningMethod:
    """The method that a recipe names."""
    return METHODS[config.name](config)
