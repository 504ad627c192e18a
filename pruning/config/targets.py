"""What pruning may be asked to reach. Each kind of target is a model of its own, known by its fields; `Target` is any of them."""

from typing import Annotated, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from pruning.config.base import Section


class SpeedupTarget(Section):
    """A structural speed-up over the dense model in the same precision, runtime and length, one thread, one row per call."""

    speedup: float = Field(gt=1, description="Dense latency over pruned latency.")
    precision: Literal["int8", "fp32"] = Field("int8", description="Precision that will serve.")
    runtime: str = Field("onnxruntime", description="Runtime that will serve.")
    sequence_length: int = Field(128, gt=0, description="Tokens in a row, as served.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        return f"speedup-{self.speedup:g}-{self.precision}-{self.sequence_length}"


class GenerationTarget(Section):
    """A structural speed-up of generation over the dense model: requests that are encoded one by one, and decoded together."""

    speedup: float = Field(gt=1, description="Dense latency over pruned latency, from the source to the last token.")
    precision: Literal["int8", "fp32"] = Field("int8", description="Precision that will serve.")
    runtime: str = Field("onnxruntime", description="Runtime that will serve.")
    source_length: int = Field(gt=0, description="Tokens of a source, as expected in service.")
    target_length: int = Field(gt=0, description="Tokens that are generated, as expected in service.")
    beams: int = Field(1, gt=0, description="Beams of a request.")
    requests: int = Field(1, gt=0, description="Requests that are decoded at the same time.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        rows = f"-{self.requests}x{self.beams}" if self.requests * self.beams > 1 else ""
        return f"generation-{self.speedup:g}-{self.precision}-{self.source_length}-{self.target_length}{rows}"


class DensityTarget(Section):
    """A share of the layers' linear weights."""

    density: float = Field(gt=0, lt=1, description="Linear weights of the layers left over all of them.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        return f"density-{self.density:g}"


class MacsTarget(Section):
    """A share of the layers' multiply-accumulates at one length."""

    macs: float = Field(gt=0, lt=1, description="MACs left over the dense model's.")
    sequence_length: int = Field(128, gt=0, description="Tokens in the row, the attention core included.")
    target_length: int | None = Field(None, gt=0, description="Tokens that a decoder generates; as many as in the row if not given.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        generated = "" if self.target_length is None else f"-{self.target_length}"
        return f"macs-{self.macs:g}-{self.sequence_length}{generated}"


class ParametersTarget(Section):
    """A share of the model's parameters: what compaction leaves over all of them, the embeddings included."""

    parameters: float = Field(gt=0, lt=1, description="Parameters left over the dense model's; the embeddings stay and count.")

    @property
    def label(self) -> str:
        """Name of the target in folders and tables."""
        return f"parameters-{self.parameters:g}"


def _target_kind(value: object) -> str | None:
    keys = value if isinstance(value, dict) else type(value).model_fields if isinstance(value, BaseModel) else ()
    if "speedup" in keys and ("source_length" in keys or "target_length" in keys):
        return "generation"
    return next((kind for kind in ("speedup", "density", "macs", "parameters") if kind in keys), None)


Target = Annotated[
    Annotated[SpeedupTarget, Tag("speedup")]
    | Annotated[GenerationTarget, Tag("generation")]
    | Annotated[DensityTarget, Tag("density")]
    | Annotated[MacsTarget, Tag("macs")]
    | Annotated[ParametersTarget, Tag("parameters")],
    Discriminator(
        _target_kind,
        custom_error_type="target",
        custom_error_message="a target needs exactly one of `speedup`, `density`, `macs`, `parameters`",
    ),
]
