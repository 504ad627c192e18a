"""What a run reports: what was asked, what it won, what it cost. `RunReport` is what the pipeline fills in; it is also the JSON.

Wherever a speed-up stands, it says of which kind: *structural* is over the dense model in the same precision, *total* is over dense fp32.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pruning.config import DensityTarget, GenerationTarget, MacsTarget, ParametersTarget, SpeedupTarget, Target
from pruning.mask_summary import MaskSummary
from service.artifact import Counts, Latency, LayerShape, Machine, Macs, Metric, Precision, TaskName, Variant

SpeedupKind = Literal["structural", "total"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageReport(_Part):
    """What one stage of the run took."""

    name: str = Field(description="train, prune, recover speedup-1.5-int8-128, …")
    seconds: float = Field(ge=0, description="Wall-clock time.")
    peak_memory_bytes: int | None = Field(default=None, ge=0, description="Highest resident memory of the process; none if not known.")
    reused: bool = Field(default=False, description="Whether an earlier run's output was used; the time is then that run's.")


class VariantReport(_Part):
    """One artifact: a model in one precision."""

    artifact: str = Field(description="`<name>/<variant>`; names it in differences and references.")
    variant: Variant = Field(description="Which of the model's variants this is.")
    precision: Precision = Field(description="Arithmetic of the linear layers.")
    size_bytes: int = Field(gt=0, description="Size of what serves it: graph, weights, tokenizer.")
    metrics: tuple[Metric, ...] = Field(default=(), description="Accuracy, with the paired difference against dense.")
    latency: tuple[Latency, ...] = Field(default=(), description="Measured latency, structural and total, at each length.")

    def measured(self, kind: SpeedupKind, sequence_length: int | None = None) -> Latency | None:
        """The measured speed-up of this kind at this length (the first one at any length without it); None if not measured."""
        fitting = [each for each in self.latency if each.kind == kind and sequence_length in (None, each.sequence_length)]
        return fitting[0] if fitting else None


class ModelReport(_Part):
    """The dense model, or a pruned one, in all of its variants."""

    parameters: Counts = Field(description="Parameters.")
    macs: Macs = Field(description="Multiply-accumulates for one row.")
    density: float = Field(ge=0, le=1, description="Linear weights of the layers left over those of the dense model.")
    layers: tuple[LayerShape, ...] = Field(min_length=1, description="What is left of each of the dense model's layers.")
    variants: tuple[VariantReport, ...] = Field(min_length=1, description="Its artifacts.")

    def variant(self, precision: Precision) -> VariantReport:
        """Its artifact in this precision, with ranges of each row or fixed ones; the first one if there is none."""
        return next((each for each in self.variants if each.precision.removesuffix("-static") == precision), self.variants[0])


class TargetReport(ModelReport):
    """What became of one target of the run."""

    target: Target | None = Field(description="What was asked for; none for a method that was left to its own penalty or density.")
    predicted_speedup: float | None = Field(default=None, gt=0, description="Structural speed-up that the latency table predicted.")
    before_recovery: tuple[Metric, ...] = Field(
        default=(), description="What the artifact in the target's precision scored before recovery training; empty if there was none."
    )
    masks: MaskSummary | None = Field(default=None, description="What fine-pruning left of each matrix; none without it.")

    @property
    def asked(self) -> str:
        """The target in a few characters: 1.5x, 40 % of the weights, 40 % of the MACs."""
        match self.target:
            case SpeedupTarget() | GenerationTarget():
                return f"{self.target.speedup:g}x"
            case DensityTarget():
                return f"{100 * self.target.density:g} % of the weights"
            case MacsTarget():
                return f"{100 * self.target.macs:g} % of the MACs"
            case ParametersTarget():
                return f"{100 * self.target.parameters:g} % of the parameters"
            case None:
                return "fine-pruned"

    @property
    def precision(self) -> Precision:
        """The precision that it is for: the target's own, or int8 where it names none."""
        return self.target.precision if isinstance(self.target, SpeedupTarget | GenerationTarget) else "int8"

    @property
    def sequence_length(self) -> int | None:
        """The length that it is for; none where it names none."""
        return length_of(self.target)

    @property
    def served(self) -> VariantReport:
        """The artifact in the precision that it is for."""
        return self.variant(self.precision)

    def measured(self, kind: SpeedupKind) -> Latency | None:
        """The measured speed-up of the served artifact, at the target's own length; None if not measured."""
        return self.served.measured(kind, self.sequence_length)


class Headline(_Part):
    """The one score that the page is about."""

    metric: str = Field(description="accuracy, f1, …")
    dataset: str = Field(description="Name of the dataset.")
    split: str = Field(description="Split of the dataset.")

    def among(self, metrics: Sequence[Metric]) -> Metric | None:
        """This score among others; None if it is not there."""
        wanted = (self.metric, self.dataset, self.split)
        return next((each for each in metrics if (each.name, each.dataset, each.split) == wanted), None)


class RunReport(_Part):
    """Everything that the page of one run says."""

    run: str = Field(description="Name of the run.")
    task: TaskName = Field(description="The task, by its standard name.")
    date: datetime = Field(description="When it finished.")
    producer: str = Field(description="`secateur <version>`.")
    machine: Machine = Field(description="Where everything was measured.")
    recipe: str = Field(description="The resolved recipe, as YAML.")
    headline: Headline = Field(description="The score that the page is about.")
    dense: ModelReport = Field(description="The model before pruning; its first variant is dense fp32.")
    targets: tuple[TargetReport, ...] = Field(default=(), description="One for each target of the run, in the order asked.")
    chosen: int | None = Field(default=None, ge=0, description="Position of the target that the first sentence is about; none: see `best`.")
    tolerated_loss: float = Field(default=1.0, ge=0, description="Points that a target may lose and still be the best one.")
    stages: tuple[StageReport, ...] = Field(default=(), description="What each stage took, in order.")
    notes: tuple[str, ...] = Field(default=(), description="What a reader must know: a smoke sample, for example.")

    @model_validator(mode="after")
    def _fits_together(self) -> "RunReport":
        if self.chosen is not None and self.chosen >= len(self.targets):
            raise ValueError(f"`chosen` is {self.chosen}, and there are {len(self.targets)} targets")
        for each in self.targets:
            if len(each.layers) != len(self.dense.layers):
                raise ValueError(
                    f"a target has {len(each.layers)} layers, and dense {len(self.dense.layers)}; a removed layer is one of zeros"
                )
        return self

    @property
    def best(self) -> TargetReport | None:
        """The chosen target; else the fastest that lost no more than is tolerated; else the one that lost least."""
        if self.chosen is not None:
            return self.targets[self.chosen]
        tolerated = [each for each in self.targets if self._lost(each) <= self.tolerated_loss]
        if tolerated:
            return max(tolerated, key=_speed)
        return min(self.targets, key=self._lost, default=None)

    def name_of(self, target: TargetReport) -> str:
        """What a target is called in tables and pictures: precision and length are said where the run's targets differ in them."""
        settings = {(each.precision, each.sequence_length) for each in self.targets}
        if len(settings) == 1:
            return target.asked
        length = f" {target.sequence_length}" if target.sequence_length else ""
        return f"{target.asked} {target.precision}{length}"

    def _lost(self, target: TargetReport) -> float:
        metric = self.headline.among(target.served.metrics)
        return -metric.difference.value if metric and metric.difference else math.inf


def length_of(target: Target | None) -> int | None:
    """Tokens in the row, or in the source, that a target is for; None where it names none."""
    match target:
        case SpeedupTarget() | MacsTarget():
            return target.sequence_length
        case GenerationTarget():
            return target.source_length
    return None


def _speed(target: TargetReport) -> float:
    """What targets are ranked by: total speed-up, else structural, else nothing."""
    latency = target.measured("total") or target.measured("structural")
    return latency.speedup if latency else 0.0
