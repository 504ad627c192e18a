"""Takes the latency table on this machine, and measures whole models against each other.

Blocks of every size come from one export (`pruning/skeleton.py`). A chain of several blocks of one size behind one small anchor is
timed against the anchor alone, all chains interleaved, so that weights come from memory as they do in a whole model and drift
cancels. Whole models of unequal layers, timed the same way, then calibrate the sum. A call that keeps to its thread is timed by what
that thread gets of the processor, so that other processes do not count. A table is kept in a cache under everything that it depends on.
"""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import onnx
from pydantic import BaseModel, ValidationError
from transformers import PreTrainedModel

from pruning.attention_node import fuse_attention
from pruning.errors import ConfigError, StorageError
from pruning.export import to_onnx
from pruning.families import family_of
from pruning.families.editing import dense_layers
from pruning.generation_latency import GenerationCondition, GenerationTable
from pruning.latency import Condition, Dimensions, Identity, LatencyTable, Point, calibrate, non_decreasing
from pruning.quantization import quantize_dynamic
from pruning.skeleton import SMALL_VOCABULARY, Block, BlockLibrary, blocks_of, cut_blocks, random_model
from pruning.storage import write_text_atomic
from pruning.timing import Call, Ratio, Timings, interleaved
from service.artifact import LayerShape
from service.runtime.base import Array, Session
from service.runtime.onnx import OnnxSession, machine

logger = logging.getLogger(__name__)
Table = TypeVar("Table", LatencyTable, GenerationTable)

RUNTIMES: dict[str, Callable[[bytes, int], Session]] = {"onnxruntime": lambda model, threads: OnnxSession(model, threads=threads)}
PRECISIONS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {"fp32": lambda model: model, "int8": quantize_dynamic}

CACHE_VARIABLE = "SECATEUR_CACHE"
TABLE_SECONDS = 36.0
SPEEDUP_SECONDS = 6.0
UNQUIET = 0.15
MOST_HEAD_COUNTS = 17
NEURON_SHARES = (0, 1 / 48, 1 / 24, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 5 / 12, 1 / 2, 7 / 12, 2 / 3, 3 / 4, 5 / 6, 11 / 12, 1)
POINT_SHARES = (0.75, 0.5, 0.3)
_GRAPH_PACKAGES = ("torch", "transformers", "optimum-onnx", "onnx", "onnxruntime")
_GRAPH_FORM = "2"
_CHAIN_BYTES = 64_000_000
_POINTS_TIME = 1 / 3
_ANCHOR = "anchor"


class Timer(Protocol):
    """Times calls together, as `timing.interleaved` does; the tests have one of their own."""

    def __call__(self, calls: Mapping[str, Call], *, seconds: float, description: str | None = None) -> Timings:
        """Time these calls for about that long, under that label."""
        ...


def latency_table(
    model: PreTrainedModel,
    task: str,
    condition: Condition,
    *,
    seconds: float = TABLE_SECONDS,
    folder: Path | None = None,
    measure: Callable[..., LatencyTable] | None = None,
) -> LatencyTable:
    """The table for this model under this condition on this machine: from the cache, or measured now and cached.

    Args:
        model: the model to be pruned; its weights are not looked at.
        task: the task, by its standard name.
        condition: what is to be measured.
        seconds: time to measure for, beyond one export.
        folder: of the cache; by default `cache_folder()`.
        measure: takes the table, as `measure_table` does.

    Raises:
        ConfigError: an unknown runtime or precision, or rows longer than the model's positions.
    """
    _check(model, condition)
    identity = identity_of(model, task, condition)
    path = (folder or cache_folder()) / _file_name(identity)
    return cached_table(path, identity, LatencyTable, lambda: (measure or measure_table)(model, task, condition, seconds=seconds))


def cached_table(path: Path, identity: BaseModel, kind: type[Table], measure: Callable[[], Table]) -> Table:
    """The table in this file if it is of this identity; else it is measured and written there."""
    cached = _read_cached(path, identity, kind)
    if cached is not None:
        logger.info("latency table from %s", path)
        return cached
    table = measure()
    try:
        write_text_atomic(path, table.model_dump_json(indent=1))
    except StorageError as error:
        logger.warning("the latency table is not kept for the next run: %s", error)
    return table


def measure_table(
    model: PreTrainedModel, task: str, condition: Condition, *, seconds: float = TABLE_SECONDS, timer: Timer | None = None
) -> LatencyTable:
    """Take the table now: blocks of every size first, then the whole models that calibrate it."""
    _check(model, condition)
    identity = identity_of(model, task, condition)
    dimensions = identity.dimensions
    library = _library(model, task, condition, dimensions)
    inputs = random_row(model, condition.sequence_length)
    opened = partial(_opened, condition=condition, inputs=inputs)
    timer = timer or timer_for(condition)

    depth = _depth(dimensions)
    anchor = Block("attention", 1)
    chains = {_ANCHOR: [anchor]} | {_name(block): [anchor, *[block] * depth] for block in library.blocks}
    timings = timer(
        {name: opened(library.chain(blocks)) for name, blocks in chains.items()},
        seconds=seconds * (1 - _POINTS_TIME),
        description=f"latency table, {condition.precision}, {condition.sequence_length} tokens",
    )
    table = _table(identity, timings, list(library.blocks), depth)
    whole = _whole_models(dimensions, table)
    timings = timer(
        {name: opened(library.chain(blocks_of(layers))) for name, layers in whole.items()},
        seconds=seconds * _POINTS_TIME,
        description="calibration with whole models",
    )
    return calibrate(table, [Point(layers=layers, measured_ms=timings.quiet_ms(name)) for name, layers in whole.items()])


class StructuralBench:
    """Measures structural speed-ups end to end: whole models with random weights, exported and served like real ones.

    Args:
        model: gives family, head and widths; its weights are not looked at.
        task: the task, by its standard name.
        condition: how both models are served.
        seconds: length of one interleaved measurement.
        timer: times calls together; by default `timer_for(condition)`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: str,
        condition: Condition,
        *,
        seconds: float = SPEEDUP_SECONDS,
        timer: Timer | None = None,
    ) -> None:
        """Export and load the dense model."""
        _check(model, condition)
        self._model, self._task, self._condition = model, task, condition
        self._seconds, self._timer = seconds, timer or timer_for(condition)
        self._inputs = random_row(model, condition.sequence_length)
        self._dense = self._served(dimensions_of(model, task).dense)

    def speedup(self, layers: Sequence[LayerShape]) -> Ratio:
        """How many times faster a model of these shapes is than the dense one, with its 95 % interval."""
        calls = {"dense": self._dense, "pruned": self._served(layers)}
        return self._timer(calls, seconds=self._seconds, description="measured speed-up").ratio("pruned", "dense")

    def _served(self, layers: Sequence[LayerShape]) -> Call:
        return _opened(_exported(self._model, self._task, self._condition, layers), condition=self._condition, inputs=self._inputs)


def timer_for(condition: Condition | GenerationCondition) -> Timer:
    """Times by the calling thread's share of the processor where a call keeps to that thread, by the clock otherwise."""
    return partial(interleaved, stopwatch=time.thread_time_ns if condition.threads == 1 else None)


def dimensions_of(model: PreTrainedModel, task: str) -> Dimensions:
    """Dimensions of the dense model that this one is, or comes from."""
    config, family = model.config, family_of(model)
    return Dimensions(
        family=family.name,
        task=task,
        layers=dense_layers(model),
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        head_size=config.hidden_size // config.num_attention_heads,
        intermediate=getattr(config, family.width_field),
        vocabulary=config.vocab_size,
    )


def identity_of(model: PreTrainedModel, task: str, condition: Condition) -> Identity:
    """All that a table of this model, taken now, depends on."""
    return Identity(
        condition=condition,
        dimensions=dimensions_of(model, task),
        machine=machine(),
        versions=graph_versions(),
    )


def graph_versions() -> dict[str, str]:
    """Versions of the packages that make graphs, and of the form that we give them: a table taken of another is not used."""
    return {name: version(name) for name in _GRAPH_PACKAGES} | {"form": _GRAPH_FORM}


def digest(identity: BaseModel) -> str:
    """Sixteen characters that name an identity."""
    return hashlib.sha256(identity.model_dump_json().encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Where tables are kept: under SECATEUR_CACHE, by default `~/.cache/secateur`."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/secateur").expanduser() / "latency"


def random_row(model: PreTrainedModel, sequence_length: int, *, seed: int = 0) -> dict[str, Array]:
    """One row of random tokens without padding: int64 `[1, sequence]` under each name that an encoder may take."""
    lowest = min(8, SMALL_VOCABULARY // 2, model.config.vocab_size // 2)  # special tokens come first, padding among them
    tokens = np.random.default_rng(seed).integers(lowest, min(SMALL_VOCABULARY, model.config.vocab_size), size=(1, sequence_length))
    return {
        "input_ids": tokens.astype(np.int64),
        "attention_mask": np.ones_like(tokens, dtype=np.int64),
        "token_type_ids": np.zeros_like(tokens, dtype=np.int64),
    }


def head_counts(heads: int) -> list[int]:
    """The head counts that are measured: all of them, or `MOST_HEAD_COUNTS` spread evenly."""
    return sorted({round(share * heads) for share in np.linspace(0, 1, min(heads + 1, MOST_HEAD_COUNTS))} | {1})


def neuron_counts(intermediate: int) -> list[int]:
    """The widths that are measured: closer together where kernels meet their floor, and multiples of 16 where the model's is one."""
    step = 16 if intermediate % 16 == 0 else 1
    return sorted({round(share * intermediate / step) * step for share in NEURON_SHARES})


def _check(model: PreTrainedModel, condition: Condition) -> None:
    if condition.runtime not in RUNTIMES:
        raise ConfigError(f"latency cannot be measured in the runtime {condition.runtime!r}, only in {', '.join(RUNTIMES)}")
    if condition.precision not in PRECISIONS:
        raise ConfigError(f"latency cannot be measured in the precision {condition.precision!r}, only in {', '.join(PRECISIONS)}")
    longest = model.config.max_position_embeddings
    if condition.sequence_length > longest:
        raise ConfigError(f"rows of {condition.sequence_length} tokens were asked for, the model has positions for {longest}")


def _library(model: PreTrainedModel, task: str, condition: Condition, dimensions: Dimensions) -> BlockLibrary:
    """Blocks of every size that is measured, out of one export whose layers have them all."""
    pairs = zip_longest(
        head_counts(dimensions.heads)[::-1],
        neuron_counts(dimensions.intermediate)[::-1],
    )
    layers = [LayerShape(heads=heads or 0, intermediate=neurons or 0) for heads, neurons in pairs]
    return cut_blocks(_exported(model, task, condition, layers), layers)


def _exported(model: PreTrainedModel, task: str, condition: Condition, layers: Sequence[LayerShape]) -> onnx.ModelProto:
    return PRECISIONS[condition.precision](to_onnx(random_model(model, layers), task))


def _opened(proto: onnx.ModelProto, *, condition: Condition, inputs: Mapping[str, Array]) -> Call:
    session = RUNTIMES[condition.runtime](fuse_attention(proto).SerializeToString(), condition.threads)
    row = {name: inputs[name] for name in session.inputs}
    return lambda: session.run(row)


def _depth(dimensions: Dimensions) -> int:
    """Blocks in a chain: as many as the model has, as far as memory allows, and at least two."""
    hidden = dimensions.hidden_size
    largest = 4 * hidden * max(4 * dimensions.heads * dimensions.head_size, 2 * dimensions.intermediate)
    return max(2, min(dimensions.layers, _CHAIN_BYTES // largest))


def _name(block: Block) -> str:
    return f"{block.kind} {block.size}"


def _table(identity: Identity, timings: Timings, blocks: Sequence[Block], depth: int) -> LatencyTable:
    """Differences to the anchor, per block, of what chains take in the quiet rounds."""
    anchor_ms = timings.quiet_ms(_ANCHOR)
    shares = {block: (timings.quiet_ms(_name(block)) - anchor_ms) / depth for block in blocks}
    attention = levels({block.size: share for block, share in shares.items() if block.kind == "attention"})
    feed_forward = levels({block.size: share for block, share in shares.items() if block.kind == "feed_forward"})
    spread = float(np.median([timings.spread(name) for name in timings.samples]))
    if spread > UNQUIET:
        logger.warning("the machine was busy: latencies varied by %.0f %%; take the table again when it is quiet", 100 * spread)
    fixed_ms = max(anchor_ms - attention[1], 0.0)
    return LatencyTable(identity=identity, fixed_ms=fixed_ms, attention_ms=attention, feed_forward_ms=feed_forward, spread=spread)


def levels(shares: Mapping[int, float]) -> dict[int, float]:
    """Measured shares by ascending size, smoothed so that more never costs less, and nothing less than nothing."""
    sizes = sorted(shares)
    values = non_decreasing(np.array([shares[size] for size in sizes]))
    return {size: max(float(value), 0.0) for size, value in zip(sizes, values, strict=True)}


def _whole_models(dimensions: Dimensions, table: LatencyTable) -> dict[str, tuple[LayerShape, ...]]:
    """The dense model and some with unequal layers, of sizes that were measured; some of their blocks are removed."""
    random = np.random.default_rng(0)
    whole = {"dense": dimensions.dense}
    for share in POINT_SHARES:
        whole[f"about {share:g}"] = tuple(
            LayerShape(
                heads=_near(random, table.attention_ms, share * dimensions.heads),
                intermediate=_near(random, table.feed_forward_ms, share * dimensions.intermediate),
            )
            for _ in range(dimensions.layers)
        )
    return whole


def _near(random: np.random.Generator, levels: Mapping[int, float], size: float) -> int:
    """A measured size around this one, or one time in ten none at all."""
    wanted = 0.0 if random.random() < 0.1 else size * random.uniform(0.5, 1.5)
    return min(levels, key=lambda each: abs(each - wanted))


def _file_name(identity: Identity) -> str:
    condition = identity.condition
    return f"{identity.dimensions.family}-{condition.runtime}-{condition.precision}-{condition.sequence_length}-{digest(identity)}.json"


def _read_cached(path: Path, identity: BaseModel, kind: type[Table]) -> Table | None:
    """The table in this file, or nothing, with a warning if there is a file that cannot be used."""
    try:
        table = kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("%s cannot be read (%s): the latency table is measured again", path, error.strerror)
        return None
    except ValidationError as error:
        logger.warning("%s is not a latency table (%s): it is measured again", path, error.errors()[0]["msg"])
        return None
    if table.identity != identity:
        logger.warning("%s was taken elsewhere or of something else: the latency table is measured again", path)
        return None
    return table
