"""What a run is: one frozen `RunConfig`, read from a recipe (YAML) with dotted overrides, saved beside every result.

A mode is a type, not a string with holes: each target is its own small model, and a field that belongs to another one is refused
with one line.
"""

from pruning.config.artifacts import Method, QuantizeConfig, Scheme
from pruning.config.base import chosen
from pruning.config.data import DataSource
from pruning.config.methods import L0Config, MagnitudeConfig, MethodConfig, MovementConfig, SoftMovementConfig
from pruning.config.pruning import BlockSize, FinePruneConfig, Granularity, PruneConfig
from pruning.config.recipe import RECIPES, apply_override, dump_config, load_recipe, parse_config, with_speedups
from pruning.config.run import RunConfig
from pruning.config.targets import DensityTarget, GenerationTarget, MacsTarget, ParametersTarget, SpeedupTarget, Target
from pruning.config.training import DistillationConfig, PseudoLabelsConfig, RecoverConfig, TrainConfig

__all__ = [
    "RECIPES",
    "BlockSize",
    "DataSource",
    "DensityTarget",
    "DistillationConfig",
    "FinePruneConfig",
    "GenerationTarget",
    "Granularity",
    "L0Config",
    "MacsTarget",
    "MagnitudeConfig",
    "Method",
    "MethodConfig",
    "MovementConfig",
    "ParametersTarget",
    "PruneConfig",
    "PseudoLabelsConfig",
    "QuantizeConfig",
    "RecoverConfig",
    "RunConfig",
    "Scheme",
    "SoftMovementConfig",
    "SpeedupTarget",
    "Target",
    "TrainConfig",
    "apply_override",
    "chosen",
    "dump_config",
    "load_recipe",
    "parse_config",
    "with_speedups",
]
