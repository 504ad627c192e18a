"""The artifact: the one contract between `pruning/`, which writes it, and `service/`, which serves it.

An artifact is a folder `<name>/<variant>/` with `manifest.json`, the ONNX graph, the weights and the tokenizer. The manifest says
what the model is, how it was made, what it scored and what its files hash to. `read_manifest` reads its schema version first: a
newer minor version's unknown fields are passed over, a newer major version is refused.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 0
MANIFEST_NAME = "manifest.json"

TaskName = Literal["question-answering", "text-classification"]
Variant = Literal["dense", "dense-int8", "compact", "compact-int8"]
Precision = Literal["fp32", "int8", "int8-static", "fp16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Part):
    """One file of the artifact."""

    size_bytes: int = Field(ge=0, description="Size of the file in bytes.")
    sha256: Sha256 = Field(description="SHA-256 of the file's bytes, in hexadecimal.")


class LayerShape(_Part):
    """What is left of one encoder layer; 0 means that the whole block was removed."""

    heads: int = Field(ge=0, description="Attention heads left.")
    intermediate: int = Field(ge=0, description="Feed-forward neurons left.")


class Counts(_Part):
    """A count split by part of the model. The total is the whole model's, head of the task included."""

    encoder: int = Field(ge=0, description="Linear weights (or MACs) of the encoder's layers; what density refers to.")
    embeddings: int = Field(ge=0, description="Embedding tables (0 for MACs).")
    total: int = Field(ge=0, description="The whole model, with the task's head, biases and layer normalisation.")


class Macs(Counts):
    """Multiply-accumulate operations for one row."""

    sequence_length: int = Field(gt=0, description="Tokens in the row; the attention core is included.")


class Golden(_Part):
    """A small input with the outputs that the artifact gave when it was written; checked at every load."""

    inputs: dict[str, list[list[int]]] = Field(description="int64 [batch, sequence] for each input of the graph.")
    outputs: dict[str, list[list[float]]] = Field(description="fp32 for each output of the graph, row by row.")
    tolerance: float = Field(gt=0, description="Largest absolute difference allowed.")


class Metric(_Part):
    """One measured score of this artifact, through the service's engine."""

    name: str = Field(description="accuracy, f1, exact_match, has_answer_f1, no_answer_f1, …")
    value: float = Field(description="In percent.")
    low: float = Field(description="Lower end of the bootstrap 95 % interval.")
    high: float = Field(description="Upper end of the bootstrap 95 % interval.")
    examples: int = Field(gt=0, description="Number of examples it was measured on.")
    dataset: str = Field(description="Name of the dataset.")
    split: str = Field(description="Split of the dataset.")
    difference: "Difference | None" = Field(default=None, description="Paired difference against another artifact.")


class Difference(_Part):
    """Paired difference (this artifact minus the other) of one metric, over the same examples."""

    against: str = Field(description="The other artifact, `<name>/<variant>`.")
    value: float = Field(description="In points.")
    low: float = Field(description="Lower end of the bootstrap 95 % interval.")
    high: float = Field(description="Upper end of the bootstrap 95 % interval.")


class Machine(_Part):
    """What a latency was measured on."""

    cpu: str = Field(description="Model name of the processor.")
    cores: int = Field(gt=0, description="Cores that the process may use.")
    isa: tuple[str, ...] = Field(description="Instruction sets that matter: avx2, avx512f, avx512_vnni, amx_int8, …")
    runtime: str = Field(description="Runtime with its version.")


class Latency(_Part):
    """Latency of this artifact against a reference, measured in one interleaved run."""

    sequence_length: int = Field(gt=0, description="Tokens in the row.")
    callers: int = Field(gt=0, description="Concurrent callers, one thread each.")
    latency_ms: float = Field(gt=0, description="Median latency of one row.")
    reference: str = Field(description="What it is compared with, `<name>/<variant>`.")
    speedup: float = Field(gt=0, description="Reference latency over this latency.")
    speedup_low: float = Field(gt=0, description="Lower end of the bootstrap 95 % interval.")
    speedup_high: float = Field(gt=0, description="Upper end of the bootstrap 95 % interval.")
    kind: Literal["structural", "total"] = Field(
        description="structural: over dense in the same precision; total: over dense fp32 in ONNX Runtime."
    )
    machine: Machine = Field(description="Where it was measured.")


class TrainingData(_Part):
    """A dataset that the weights have seen."""

    name: str = Field(description="Name of the dataset and split.")
    licence: str = Field(description="Its licence, as its authors state it.")
    examples: int = Field(ge=0, description="Examples used.")


class Manifest(_Part):
    """The contract; see the module's docstring. Every field is written by `pruning/export.py` or `pruning/quantization.py`."""

    schema_version: str = Field(pattern=r"^\d+\.\d+$", description="`major.minor`; read before anything else.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the model: qa, sentiment, …")
    variant: Variant = Field(description="Which of the model's variants this is.")
    task: TaskName = Field(description="The task, by its standard name.")
    family: str = Field(description="Model family: bert, roberta, distilbert.")
    precision: Precision = Field(description="Arithmetic of the linear layers.")
    opset: int = Field(gt=0, description="ONNX opset of the default domain.")
    labels: tuple[str, ...] = Field(default=(), description="Label names by index; empty for question answering.")
    multi_label: bool = Field(default=False, description="Sigmoid over each label instead of softmax over all.")
    max_length: int = Field(gt=0, description="Most tokens in a row, special tokens included.")
    stride: int = Field(ge=0, description="Tokens that neighbouring windows of a long context share.")
    handles_no_answer: bool = Field(default=False, description="Whether it was trained on questions without an answer.")
    null_threshold: float = Field(default=0.0, description="No answer when the null score beats the best span by more than this.")
    layers: tuple[LayerShape, ...] = Field(description="Heads and feed-forward neurons left, layer by layer.")
    head_size: int = Field(gt=0, description="Columns of one attention head.")
    hidden_size: int = Field(gt=0, description="Width of the residual stream.")
    parameters: Counts = Field(description="Parameters.")
    macs: Macs = Field(description="Multiply-accumulates for one row of the stated length.")
    density: float = Field(ge=0, le=1, description="Encoder linear weights left over those of the dense model.")
    files: dict[str, FileEntry] = Field(description="Every file of the folder but this one, by relative path.")
    golden: Golden = Field(description="Checked at every load.")
    metrics: tuple[Metric, ...] = Field(default=(), description="Measured accuracy.")
    latency: tuple[Latency, ...] = Field(default=(), description="Measured latency.")
    recipe: str = Field(description="The resolved recipe, as YAML.")
    parent: str | None = Field(default=None, description="sha256 of the manifest of the artifact that this one was made from.")
    training_data: tuple[TrainingData, ...] = Field(default=(), description="What the weights have seen.")
    producer: str = Field(description="`secateur <version>`.")
