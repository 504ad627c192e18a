"""What is made of a model to serve it, and what is measured of that."""

from typing import Literal

from pydantic import Field, model_validator

from pruning.config.base import Section

Scheme = Literal["dynamic", "static", "fp16"]
Method = Literal["minmax", "percentile", "entropy"]


class QuantizeConfig(Section):
    """8-bit and 16-bit forms of the ONNX graph."""

    scheme: Scheme = Field("dynamic", description="Ranges of inputs: dynamic, of each call; static, from training data.")
    calibration: Method = Field("minmax", description="static: how activation ranges are found.")
    calibration_examples: int = Field(128, gt=0, description="static, smooth: training examples seen.")
    skip_worst: int = Field(0, ge=0, description="static: linear layers with the largest measured error that stay in fp32.")
    smooth: bool = Field(False, description="8 bits: scale outlier channels of the layers' inputs down first (SmoothQuant).")

    @model_validator(mode="after")
    def _is_of_8_bits(self) -> "QuantizeConfig":
        if self.smooth and self.scheme == "fp16":
            raise ValueError("`smooth` is for 8 bits, and `scheme` is fp16; leave one of them out")
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether rows of training data have to be seen."""
        return self.scheme == "static" or self.smooth

    @property
    def has_fixed_ranges(self) -> bool:
        """Whether the inputs of the layers are rounded between fixed ranges, and are not scaled first."""
        return self.scheme == "static" and not self.smooth


class EvaluateConfig(Section):
    """What is measured of every artifact."""

    sequence_lengths: tuple[int, ...] = Field((32, 128, 384), min_length=1, description="Lengths at which latency is measured.")
    seconds: float = Field(6.0, gt=0, description="Time of each interleaved latency measurement.")
    callers: int = Field(2, gt=0, description="Concurrent callers, one thread each, for the total speed-up.")
    positive_label: int | None = Field(None, ge=0, description="Classification: also report F1 of this label.")
