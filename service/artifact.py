"""The artifact: the one contract between `pruning/`, which writes it, and `service/`, which serves it.

An artifact is a folder `<name>/<variant>/` with `manifest.json`, the ONNX graph (of a model that generates, those of its encoder and its
decoder), the weights and the tokenizer. The manifest says what the model is, how it was made, what it scored and what its files hash
to. `read_manifest` reads its schema version first: a newer minor version's unknown fields are passed over, a newer major version is
refused.
"""

import hashlib
import json
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from service.errors import ArtifactError, SchemaError

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 1
MANIFEST_NAME = "manifest.json"
ENCODER_GRAPH_NAME = "encoder.onnx"
DECODER_GRAPH_NAME = "decoder.onnx"
OUTPUT_IDS_NAME = "output_ids.json"

TaskName = Literal["question-answering", "text-classification", "summarization"]
Variant = Literal["dense", "dense-int8", "compact", "compact-int8"]
Precision = Literal["fp32", "int8", "int8-static", "fp16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TokenId = Annotated[int, Field(ge=0)]

GENERATING_TASKS: frozenset[TaskName] = frozenset({"summarization"})
_OUTPUT_IDS = TypeAdapter(Annotated[tuple[TokenId, ...], Field(min_length=1)])


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

    encoder: int = Field(ge=0, description="Linear weights (or MACs) of all layers, a decoder's too; what density refers to.")
    embeddings: int = Field(ge=0, description="Embedding tables (0 for MACs).")
    total: int = Field(ge=0, description="The whole model, with the task's head, biases and layer normalisation.")


class Macs(Counts):
    """Multiply-accumulate operations for one row."""

    sequence_length: int = Field(gt=0, description="Tokens in the row; the attention core is included.")
    target_length: int = Field(default=0, ge=0, description="Tokens that a decoder is given or generates; 0 for an encoder alone.")


class Golden(_Part):
    """A small input with the outputs that the artifact gave when it was written; checked at every load.

    Of a model that generates they are those of `service.generation.golden`.
    """

    inputs: dict[str, list[list[int]]] = Field(description="int64 [batch, sequence] for each input of the graph.")
    outputs: dict[str, list[list[float]]] = Field(description="fp32 for each output of the graph, row by row.")
    tolerance: float = Field(gt=0, description="Largest absolute difference allowed.")


class Metric(_Part):
    """One measured score of this artifact, through the service's engine."""

    name: str = Field(description="accuracy, f1, exact_match, has_answer_f1, no_answer_f1, rouge1, rougeLsum, …")
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

    sequence_length: int = Field(gt=0, description="Tokens in the row, or in each source.")
    target_length: int = Field(default=0, ge=0, description="Tokens that were generated for each source; 0 by an encoder alone.")
    beams: int = Field(default=1, gt=0, description="Beams of each request, where tokens were generated.")
    requests: int = Field(default=1, gt=0, description="Requests that a caller decodes together.")
    callers: int = Field(gt=0, description="Concurrent callers, one thread each.")
    latency_ms: float = Field(gt=0, description="Median latency of one row, or of the requests that are decoded together.")
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


class DecoderLayerShape(_Part):
    """What is left of one decoder layer; 0 means that the whole block was removed."""

    heads: int = Field(ge=0, description="Heads of self-attention left.")
    cross_heads: int = Field(ge=0, description="Heads of cross-attention left.")
    intermediate: int = Field(ge=0, description="Feed-forward neurons left.")


class GenerationInfo(_Part):
    """How a model generates. Tokens of its output are *output ids*: the tokenizer's, or numbers in `output_ids`."""

    start: TokenId = Field(description="Output id that the decoder reads first.")
    end: tuple[TokenId, ...] = Field(min_length=1, description="Output ids that end a sequence.")
    forced_first: TokenId | None = Field(default=None, description="Output id that every sequence begins with behind the start.")
    forced_last: TokenId | None = Field(default=None, description="Output id that a sequence ends with that reaches its limit.")
    padding: TokenId = Field(description="Token id that fills up a source.")
    source_length: int = Field(gt=0, description="Most tokens of a source, special tokens included.")
    target_length: int = Field(gt=0, description="Most tokens that are generated, the last one included.")
    settings: dict[str, int | float | bool | str | None] = Field(
        default={}, description="Defaults of decoding, by the names of `service.generation.GenerationSettings`."
    )
    output_ids: str | None = Field(
        default=None, description="File with the tokenizer's id of each output id, a JSON array; none where they are the same."
    )
    decoder_layers: tuple[DecoderLayerShape, ...] = Field(description="What is left of the decoder, layer by layer.")
    restore_case: bool = Field(default=False, description="Whether the tokenizer knows no capitals, so that case is to be restored.")


class Manifest(_Part):
    """The contract; see the module's docstring. Every field is written by `pruning/export.py` or `pruning/quantization.py`."""

    schema_version: str = Field(pattern=r"^\d+\.\d+$", description="`major.minor`; read before anything else.")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the model: qa, sentiment, …")
    variant: Variant = Field(description="Which of the model's variants this is.")
    task: TaskName = Field(description="The task, by its standard name.")
    family: str = Field(description="Model family: bert, roberta, distilbert, bart.")
    precision: Precision = Field(description="Arithmetic of the linear layers.")
    opset: int = Field(gt=0, description="ONNX opset of the default domain.")
    labels: tuple[str, ...] = Field(default=(), description="Label names by index; empty for question answering.")
    multi_label: bool = Field(default=False, description="Sigmoid over each label instead of softmax over all.")
    max_length: int = Field(gt=0, description="Most tokens in a row, special tokens included.")
    stride: int = Field(ge=0, description="Tokens that neighbouring windows of a long context share.")
    handles_no_answer: bool = Field(default=False, description="Whether it was trained on questions without an answer.")
    null_threshold: float = Field(default=0.0, description="No answer when the null score beats the best span by more than this.")
    layers: tuple[LayerShape, ...] = Field(description="Heads and feed-forward neurons left, layer by layer of the encoder.")
    generation: GenerationInfo | None = Field(default=None, description="How it generates; none for an encoder alone.")
    head_size: int = Field(gt=0, description="Columns of one attention head.")
    hidden_size: int = Field(gt=0, description="Width of the residual stream.")
    parameters: Counts = Field(description="Parameters.")
    macs: Macs = Field(description="Multiply-accumulates for one row of the stated length.")
    density: float = Field(ge=0, le=1, description="Linear weights of the layers left, over those of the dense model.")
    files: dict[str, FileEntry] = Field(description="Every file of the folder but this one, by relative path.")
    golden: Golden = Field(description="Checked at every load.")
    metrics: tuple[Metric, ...] = Field(default=(), description="Measured accuracy.")
    latency: tuple[Latency, ...] = Field(default=(), description="Measured latency.")
    recipe: str = Field(description="The resolved recipe, as YAML.")
    parent: str | None = Field(default=None, description="Revision of the artifact that this one was made from; see `revision`.")
    training_data: tuple[TrainingData, ...] = Field(default=(), description="What the weights have seen.")
    producer: str = Field(description="`secateur <version>`.")

    @model_validator(mode="after")
    def _generates_if_its_task_does(self) -> Self:
        if (self.task in GENERATING_TASKS) != (self.generation is not None):
            raise ValueError(f"{self.task} {'needs' if self.generation is None else 'has no'} `generation`")
        return self


def read_manifest(folder: Path) -> Manifest:
    """Read and check `folder/manifest.json`.

    The schema version is read before anything else: unknown fields of a newer minor version are passed over, at every level;
    a newer (or older) major version is refused.
    """
    path = folder / MANIFEST_NAME
    document = _read_document(path)
    major, minor = _schema_version(document, path)
    if major != SCHEMA_MAJOR:
        raise SchemaError(_wrong_major(path, major, minor))
    try:
        return Manifest.model_validate_json(json.dumps(document), extra="ignore" if minor > SCHEMA_MINOR else "forbid")
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_first_problem(error)}; the artifact is damaged or not from Secateur: export it again") from error


def read_output_ids(folder: Path, manifest: Manifest) -> tuple[int, ...] | None:
    """The tokenizer's id of each output id; None where they are the same.

    Raises:
        ArtifactError: the file is missing, not among those of the manifest, or not an array of token ids.
    """
    name = manifest.generation.output_ids if manifest.generation else None
    if name is None:
        return None
    if name not in manifest.files:
        raise ArtifactError(f"{folder}: {name} is not among the manifest's files, so it cannot be trusted; export the artifact again")
    path = locate(folder, name)
    try:
        return _OUTPUT_IDS.validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); fetch or export the artifact again") from error
    except ValidationError as error:
        raise ArtifactError(f"{path}: {_first_problem(error)}; expected an array of token ids: fetch or export it again") from error


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write `folder/manifest.json` in one step: a reader sees the old one or the new one, never a part."""
    path = folder / MANIFEST_NAME
    temporary = folder / f".{MANIFEST_NAME}.{uuid.uuid4().hex}"
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ArtifactError(f"{path}: cannot be written ({error.strerror}); free space or choose another folder") from error


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Size and hash of every file of the artifact but the manifest, by relative path in sorted order."""
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {relative: _entry(locate(folder, relative)) for relative in paths if relative != MANIFEST_NAME}


def revision(manifest: Manifest) -> str:
    """What identifies an artifact's content: the SHA-256 of its table of files. Metrics that are added later do not change it."""
    table = {name: entry.sha256 for name, entry in manifest.files.items()}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the manifest is there, inside the folder, with its recorded size and hash.

    Sizes of all files come first, so that a truncated download is refused before anything is hashed.
    """
    paths = {relative: locate(folder, relative) for relative in manifest.files}
    for relative, path in paths.items():
        _verify_size(path, relative, folder, manifest.files[relative])
    for relative, path in paths.items():
        found, expected = _sha256(path), manifest.files[relative].sha256
        if found != expected:
            raise ArtifactError(
                f"{folder}: {relative} was altered: its sha256 is {found[:12]}…, expected {expected[:12]}…; fetch or export it again"
            )


def locate(folder: Path, relative: str) -> Path:
    """The file at a relative path of the folder; refuses what points outside it, by `..`, by an absolute path or by a symlink."""
    pure = PurePosixPath(relative)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or re.search(r"[\\:\0]", relative):
        raise ArtifactError(
            f"{folder}: {relative!r} is not a path inside the artifact's folder; expected a plain relative path: do not use it"
        )
    path = folder / pure
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise ArtifactError(f"{folder}: {relative} cannot be followed ({error}); replace the link by the file itself") from error
    if not inside:
        raise ArtifactError(f"{folder}: {relative} is a link that leaves the artifact's folder; replace the link by the file itself")
    return path


def _read_document(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; expected the folder of an artifact, <name>/<variant>/, with its manifest") from error
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check the folder and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); the file is truncated or damaged: fetch or export it again") from error
    if not isinstance(document, dict):
        raise ArtifactError(f"{path}: expected a JSON object; the file is not a manifest: fetch or export it again")
    return document


def _schema_version(document: dict[str, object], path: Path) -> tuple[int, int]:
    version = document.get("schema_version")
    match = re.fullmatch(r"(\d{1,6})\.(\d{1,6})", version) if isinstance(version, str) else None
    if match is None:
        raise SchemaError(f"{path}: schema_version is {version!r}; expected `major.minor`: the file is not a manifest of Secateur")
    return int(match[1]), int(match[2])


def _wrong_major(path: Path, major: int, minor: int) -> str:
    advice = "upgrade secateur, or export the artifact with this version" if major > SCHEMA_MAJOR else "export the artifact again"
    return f"{path}: schema version {major}.{minor}, but this version of secateur reads {SCHEMA_MAJOR}.x; {advice}"


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'manifest'}: {problem['msg']}"


def _verify_size(path: Path, relative: str, folder: Path, expected: FileEntry) -> None:
    if not path.is_file():
        raise ArtifactError(f"{folder}: {relative} is missing; expected a file of {expected.size_bytes} bytes: fetch or export it again")
    size_bytes = path.stat().st_size
    if size_bytes != expected.size_bytes:
        raise ArtifactError(
            f"{folder}: {relative} was altered or truncated: {size_bytes} bytes, expected {expected.size_bytes}; fetch or export it again"
        )


def _entry(path: Path) -> FileEntry:
    return FileEntry(size_bytes=path.stat().st_size, sha256=_sha256(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
