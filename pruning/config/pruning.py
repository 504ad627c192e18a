"""The two ways to prune: with no training, and while training."""

from typing import Literal

from pydantic import Field, model_validator

from pruning.config.base import Section
from pruning.config.methods import MethodConfig, SoftMovementConfig
from pruning.config.targets import DensityTarget, Target
from pruning.config.training import TrainConfig


class PruneConfig(Section):
    """Pruning with no training (Kwon et al., 2022, arXiv:2204.09656): importance, search, reconstruction."""

    targets: tuple[Target, ...] = Field(min_length=1, description="What to reach; all from one importance pass.")
    calibration_examples: int = Field(1024, gt=0, description="Training examples that importance and reconstruction see.")
    batch_size: int = Field(16, gt=0, description="Examples per calibration batch.")
    search_trials: int = Field(32, ge=0, description="Candidate structures scored on calibration loss after the first search; 0 for none.")
    reconstruct: bool = Field(True, description="Least-squares reconstruction of what is left.")


class BlockSize(Section):
    """Rectangles of weights."""

    rows: int = Field(gt=0, description="Outputs of a group; its inputs, in projections back into the residual stream.")
    columns: int = Field(gt=0, description="Inputs of a group; its outputs, in projections back into the residual stream.")


class Granularity(Section):
    """What is pruned as one, by kind of block."""

    attention: Literal["element", "row", "column", "head"] | BlockSize | None = Field(
        description="Queries, keys, values and outputs: weights, rows, columns or blocks of each matrix; whole heads; null for nothing."
    )
    feed_forward: Literal["element", "row", "column", "neuron"] | BlockSize | None = Field(
        description="Both matrices of the feed-forward: weights, rows, columns or blocks of each; whole neurons; null for nothing."
    )


class FinePruneConfig(Section):
    """Pruning while training: a method, what it prunes as one, and what to reach."""

    method: MethodConfig = Field(SoftMovementConfig(), description="What decides which weights stay.")
    granularity: Granularity = Field(description="What is pruned as one.")
    targets: tuple[Target, ...] = Field((), description="What to reach, a training each; with none the method's own penalty decides.")
    density: float | None = Field(None, gt=0, lt=1, description="Methods that keep the best, without a target: the share that they keep.")
    start: Literal["dense", "pretrained"] = Field(
        "dense", description="Weights to start from: those of the run's dense model, or of `model`, before any fine-tuning."
    )
    rewind: bool = Field(
        False,
        description="Afterwards, start over from the weights of `model`; heads and neurons that were left are protected, others go again.",
    )
    score_learning_rate: float = Field(1e-2, gt=0, description="Peak learning rate of the scores.")
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps before anything is pruned.")
    cooldown: float = Field(0.3, ge=0, lt=1, description="Share of the steps after the masks are frozen.")
    attention_penalty: float = Field(1.0, ge=0, description="Weight of the penalty on attention, relative to the method's.")
    feed_forward_penalty: float = Field(1.0, ge=0, description="Weight of the penalty on the feed-forward, relative to the method's.")
    decoder_penalty: float = Field(2.0, ge=0, description="Weight of both penalties in a decoder, relative to those in its encoder.")
    train: TrainConfig = Field(TrainConfig(), description="How it trains.")

    @property
    def label(self) -> str:
        """Name in folders and tables where there are no targets: what the method is left to."""
        penalty = getattr(self.method, "penalty", None)
        return f"density-{self.density:g}" if penalty is None else f"{self.method.name}-penalty-{penalty:g}"

    @model_validator(mode="after")
    def _knows_where_to_go(self) -> "FinePruneConfig":
        keeps_the_best = self.method.name in ("magnitude", "movement")
        if keeps_the_best and bool(self.targets) is (self.density is not None):
            raise ValueError(f"{self.method.name} needs `targets` or `density`, and only one of them")
        if not keeps_the_best and self.density is not None:
            raise ValueError(f"{self.method.name} keeps what its penalty leaves; give `targets` instead of `density`")
        if self.warmup + self.cooldown >= 1:
            raise ValueError("`warmup` and `cooldown` leave no steps to prune in; together they must be less than 1")
        if self.train.patience is not None and self.cooldown == 0:
            raise ValueError("`patience` compares models whose masks are final; give a `cooldown`, or no `patience`")
        return self

    @model_validator(mode="after")
    def _can_get_there(self) -> "FinePruneConfig":
        kinds = (self.granularity.attention, self.granularity.feed_forward)
        by_weights = [isinstance(target, DensityTarget) for target in self.targets]
        if set(kinds) <= {"element", None} and not all(by_weights):
            raise ValueError("single weights leave no head and no neuron out, so nothing gets faster; give a `density`, or larger groups")
        if self.rewind and not set(kinds) <= {"head", "neuron", None} and (any(by_weights) or self.density is not None):
            raise ValueError(
                "`rewind` protects heads and neurons whole, zeros inside them too, so a density is met with the granularity head and "
                "neuron alone; give a speed-up, `macs` or `parameters`"
            )
        return self
