"""How fast published compact models are here, from their shapes alone: random weights take the place of those that were trained.

Each shape is exported and quantized like an artifact that ships, and timed as it is served. Shapes come from a JSON file of heads and
feed-forward widths, layer by layer, such as those of Block Pruning For Faster Transformers (Lagunas et al., 2021, arXiv:2109.04838).
The vocabulary is small: a row reads the embeddings of its own tokens alone.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tqdm import tqdm
from transformers import BertConfig, BertForQuestionAnswering, PreTrainedModel, PreTrainedTokenizerFast

from pruning.bench import UNQUIET, Timer, random_row
from pruning.data_sources import find_file
from pruning.errors import ConfigError, DataError
from pruning.export import ArtifactSpec, export_artifact
from pruning.quantization import quantize_artifact
from pruning.skeleton import SMALL_VOCABULARY, random_model
from pruning.structure import density
from pruning.timing import Call, Timings, interleaved
from service.artifact import LayerShape, Machine
from service.errors import RuntimeUnavailableError
from service.model import BF16, GRAPH_NAME
from service.packages import versions_of
from service.runtime import RuntimeName, RuntimeOptions, open_session
from service.runtime.base import Session
from service.runtime.machine import instruction_sets
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)

ABOUT = "Speed of published shapes with random weights; F1 is what the authors report."
REFERENCE = "dense fp32 in ONNX Runtime"
CONDITIONS = "one thread, one row per call, all models interleaved in one run"

_TITLES: dict[RuntimeName, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_PACKAGES = ("secateur", "torch", "transformers", "optimum-onnx", "onnx", "onnxruntime", "openvino")

OpenSession = Callable[[Path, RuntimeOptions], Session]


class Architecture(BaseModel, frozen=True):
    """The dense BERT that all shapes were pruned from."""

    hidden_size: PositiveInt
    num_attention_heads: PositiveInt
    head_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt


class Reported(BaseModel, frozen=True):
    """What the authors report of a model."""

    f1: float


class PublishedShape(Reported, frozen=True):
    """Heads and feed-forward width left in each layer; 0 is a removed block."""

    heads: tuple[NonNegativeInt, ...]
    intermediate: tuple[NonNegativeInt, ...]

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """As an artifact's manifest has them."""
        return tuple(LayerShape(heads=heads, intermediate=width) for heads, width in zip(self.heads, self.intermediate, strict=True))


class PublishedShapes(BaseModel, frozen=True):
    """The file: a dense model and shapes that were pruned from it."""

    model: Architecture
    dense: Reported
    shapes: tuple[PublishedShape, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> "PublishedShapes":
        model = self.model
        if model.num_attention_heads * model.head_size != model.hidden_size:
            raise ValueError(f"{model.num_attention_heads} heads of {model.head_size} do not make a hidden size of {model.hidden_size}")
        for shape in self.shapes:
            _require(shape, "heads", shape.heads, count=model.num_hidden_layers, most=model.num_attention_heads)
            _require(shape, "intermediate", shape.intermediate, count=model.num_hidden_layers, most=model.intermediate_size)
        return self

    @property
    def dense_shape(self) -> PublishedShape:
        """The dense model as a shape."""
        count = self.model.num_hidden_layers
        return PublishedShape(
            f1=self.dense.f1, heads=(self.model.num_attention_heads,) * count, intermediate=(self.model.intermediate_size,) * count
        )


class ShapeSpeed(BaseModel, frozen=True):
    """Speed of one model, served in one way, at one length. The speed-up is total: over `REFERENCE`, with its 95 % interval."""

    variant: Literal["dense", "compact"]
    reported_f1: float
    density: float
    runtime: RuntimeName
    precision: Literal["fp32", "bf16", "int8"]
    sequence_length: int
    latency_ms: float
    speedup: float
    speedup_low: float
    speedup_high: float


class ShapeSpeeds(BaseModel, frozen=True):
    """All that `bench-shapes` prints; `left_out` says which runtime is not there, and why."""

    about: str = ABOUT
    reference: str = REFERENCE
    conditions: str = CONDITIONS
    machine: Machine
    versions: dict[str, str]
    left_out: str | None
    rows: tuple[ShapeSpeed, ...]

    def as_text(self) -> str:
        """A table for people: a line for each model and length, a column for each way of serving."""
        packages = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        notes = [
            self.about,
            f"Total speed-up (95 % interval) over {self.reference}: {self.conditions}.",
            f"{self.machine.cpu}, {self.machine.cores} cores ({' '.join(self.machine.isa)}); {packages}",
            *([f"Left out: {self.left_out}"] if self.left_out else []),
        ]
        references = [row for row in self.rows if _is_reference(row)]
        compared = [row for row in self.rows if not _is_reference(row)]
        ways = dict.fromkeys((row.runtime, row.precision) for row in compared)
        heading = _line("model", "F1", "density", "tokens", *(f"{_TITLES[runtime]} {precision}" for runtime, precision in ways))
        lines: dict[tuple[int, str, float, float], list[str]] = {}
        for row in compared:
            lines.setdefault((row.sequence_length, row.variant, row.reported_f1, row.density), []).append(_interval(row))
        table = [_line(name, f"{f1:.2f}", f"{share:.3f}", str(length), *cells) for (length, name, f1, share), cells in lines.items()]
        latencies = ", ".join(f"{row.latency_ms:.1f} ms at {row.sequence_length} tokens" for row in references)
        return "\n".join([*notes, "", heading, *table, "", f"1x is {latencies}."])


@dataclass(frozen=True)
class Artifacts:
    """One model as it ships.

    Attributes:
        shape: what it was made from.
        density: encoder linear weights left, over those of the dense model.
        fp32, int8: the artifacts' folders.
    """

    shape: PublishedShape
    density: float
    fp32: Path
    int8: Path


@dataclass(frozen=True)
class Served:
    """One model in one runtime."""

    artifacts: Artifacts
    runtime: RuntimeName
    precision: Literal["fp32", "bf16", "int8"]
    session: Session


def read_shapes(name: str) -> PublishedShapes:
    """The shapes in a file, which is looked up as recipes look up their data.

    Raises:
        DataError: the file is missing, or does not hold what it should.
    """
    path = find_file(name)
    if path is None:
        raise DataError(
            f"{name}: no such file here or in the folder that SECATEUR_DATA names; needed is a JSON file of published heads and "
            "feed-forward widths, as pruning/recipes/README.md describes: put it there, or name it with --shapes"
        )
    try:
        return PublishedShapes.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {f'{where}: ' if where else ''}{first['msg']}; see pruning/recipes/README.md for the format") from None


def choose(published: PublishedShapes, scores: Iterable[float]) -> tuple[PublishedShape, ...]:
    """The shapes with these reported F1 scores, in that order; `ConfigError` when the file has none with one of them."""
    chosen = []
    for score in dict.fromkeys(scores):
        found = [shape for shape in published.shapes if math.isclose(shape.f1, score, abs_tol=0.005)]
        if not found:
            known = ", ".join(f"{shape.f1:.2f}" for shape in published.shapes)
            raise ConfigError(f"no published shape has F1 {score:.2f}; the file has {known}")
        chosen += found
    return tuple(chosen)


def measure_shapes(
    published: PublishedShapes, *, scores: Sequence[float], lengths: Sequence[int], seconds: float, progress: bool = False
) -> ShapeSpeeds:
    """Make artifacts of the dense model and of the shapes with these reported F1 scores, and time them; see `time_artifacts`.

    Raises:
        ConfigError: no shape has that F1, or the model has no positions for that many tokens.
    """
    chosen = (published.dense_shape, *choose(published, scores))
    model, longest = dense_bert(published.model), max(lengths)
    if longest > model.config.max_position_embeddings:
        raise ConfigError(f"rows of {longest} tokens were asked for, the model has positions for {model.config.max_position_embeddings}")
    with tempfile.TemporaryDirectory() as folder:
        bar = tqdm(chosen, desc="exporting and quantizing", unit="model", disable=None if progress else True)
        artifacts = [make_artifacts(model, shape, Path(folder) / str(index), max_length=longest) for index, shape in enumerate(bar)]
        return time_artifacts(model, artifacts, lengths=lengths, seconds=seconds, progress=progress)


def time_artifacts(
    model: PreTrainedModel,
    artifacts: Sequence[Artifacts],
    *,
    lengths: Sequence[int],
    seconds: float,
    timer: Timer = interleaved,
    open_model: OpenSession = open_session,
    progress: bool = False,
) -> ShapeSpeeds:
    """Time artifacts together, in each runtime.

    Args:
        model: gives the vocabulary of the rows.
        artifacts: those of the dense model first.
        lengths: tokens in the row, none of them padding.
        seconds: of each interleaved measurement; there is one for each length.
        timer: times calls together, by the clock: OpenVINO's work is not done by the calling thread.
        open_model: loads a graph.
        progress: show progress bars on stderr.
    """
    served, left_out = load_served(artifacts, open_model=open_model)
    rows: list[ShapeSpeed] = []
    for length in dict.fromkeys(lengths):
        calls = {str(index): _call(each.session, model, length) for index, each in enumerate(served)}
        timings = timer(calls, seconds=seconds, description=f"{length} tokens" if progress else None)
        _warn_of_noise(timings)
        rows += [_speed(each, timings, str(index), length) for index, each in enumerate(served)]
    return ShapeSpeeds(machine=machine(), versions=versions_of(_PACKAGES), left_out=left_out, rows=tuple(rows))


def dense_bert(architecture: Architecture) -> PreTrainedModel:
    """A question answering BERT of these dimensions, without memory for weights: `random_model` reads its class and its config."""
    config = BertConfig(
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_attention_heads,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.num_hidden_layers,
        vocab_size=SMALL_VOCABULARY,
    )
    with torch.device("meta"):
        return BertForQuestionAnswering(config)


def make_artifacts(model: PreTrainedModel, shape: PublishedShape, folder: Path, *, max_length: int) -> Artifacts:
    """Export a model of this shape with random weights to `folder/fp32`, and quantize it to `folder/int8`.

    Args:
        model: gives class and dimensions.
        shape: heads and widths.
        folder: to write into.
        max_length: most tokens in a row; parity with torch is checked up to there.
    """
    random = random_model(model, shape.layers)
    share = density(random)
    spec = ArtifactSpec(
        name="published-shape",
        variant="dense" if share == 1 else "compact",
        task="question-answering",
        family="bert",
        max_length=max_length,
        macs_sequence_length=max_length,
        density=share,
        golden=({name: values.astype(np.int64) for name, values in random_row(random, max_length).items()},),
    )
    fp32, int8 = folder / "fp32", folder / "int8"
    export_artifact(random, _tokenizer(), fp32, spec=spec)
    quantize_artifact(fp32, int8)
    return Artifacts(shape, share, fp32, int8)


def load_served(artifacts: Sequence[Artifacts], *, open_model: OpenSession = open_session) -> tuple[list[Served], str | None]:
    """Load what is compared, the reference first, and say why OpenVINO is left out where it is.

    Args:
        artifacts: those of the dense model first.
        open_model: loads a graph.
    """
    onnx = RuntimeOptions(threads=1)
    served = [Served(artifacts[0], "onnxruntime", "fp32", open_model(artifacts[0].fp32 / GRAPH_NAME, onnx))]
    served += [Served(each, "onnxruntime", "int8", open_model(each.int8 / GRAPH_NAME, onnx)) for each in artifacts]
    # bf16 where the service asks for it, see `service.registry`
    openvino = RuntimeOptions("openvino", threads=1, callers=1, precision="bf16" if "amx_bf16" in instruction_sets() else "f32")
    try:
        sessions = [open_model(each.fp32 / GRAPH_NAME, openvino) for each in artifacts]
    except RuntimeUnavailableError as error:
        return served, str(error)
    served += [
        Served(each, "openvino", "bf16" if session.runtime.endswith(BF16) else "fp32", session)
        for each, session in zip(artifacts, sessions, strict=True)
    ]
    return served, None


def _require(shape: PublishedShape, kind: str, sizes: Sequence[int], *, count: int, most: int) -> None:
    if len(sizes) != count or max(sizes) > most:
        raise ValueError(f"the shape with F1 {shape.f1}: {kind} must be {count} sizes from 0 to {most}")


def _call(session: Session, model: PreTrainedModel, length: int) -> Call:
    row = random_row(model, length)
    feed = {name: row[name] for name in session.inputs}
    return lambda: session.run(feed)


def _speed(served: Served, timings: Timings, name: str, length: int) -> ShapeSpeed:
    ratio = timings.ratio(name, "0")
    return ShapeSpeed(
        variant="dense" if served.artifacts.density == 1 else "compact",
        reported_f1=served.artifacts.shape.f1,
        density=served.artifacts.density,
        runtime=served.runtime,
        precision=served.precision,
        sequence_length=length,
        latency_ms=timings.median_ms(name),
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
    )


def _warn_of_noise(timings: Timings) -> None:
    spread = float(np.median([timings.spread(name) for name in timings.samples]))
    if spread > UNQUIET:
        logger.warning("the machine was busy: latencies varied by %.0f %%; measure again when it is quiet", 100 * spread)


def _tokenizer() -> PreTrainedTokenizerFast:
    """An artifact has one; nothing is tokenized here."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")))


def _is_reference(row: ShapeSpeed) -> bool:
    return (row.variant, row.runtime, row.precision) == ("dense", "onnxruntime", "fp32")


def _interval(row: ShapeSpeed) -> str:
    return f"{row.speedup:.2f}x ({row.speedup_low:.2f} to {row.speedup_high:.2f})"


def _line(name: str, f1: str, share: str, tokens: str, *cells: str) -> str:
    return f"{name:<8}{f1:>6}{share:>9}{tokens:>8}" + "".join(f"  {cell:>24}" for cell in cells)
