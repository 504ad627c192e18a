"""Takes the latency table of generation on this machine, and measures whole models against each other.

As in `pruning/bench.py`, blocks of every size come from one export, and a chain of several blocks of one size is timed against an anchor.
Here there are two graphs: an encoder that reads one source, and a step of a decoder for all rows, half of their tokens in the cache. Each
block of a chain has a cache of its own, so that it comes from memory as it does in a whole model.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from transformers import PreTrainedModel

from pruning.attention_node import fuse_attention
from pruning.bench import (
    RUNTIMES,
    SPEEDUP_SECONDS,
    UNQUIET,
    Timer,
    cache_folder,
    cached_table,
    digest,
    graph_versions,
    head_counts,
    levels,
    neuron_counts,
    timer_for,
)
from pruning.errors import ConfigError, UnsupportedModelError
from pruning.families import family_of
from pruning.families.editing import dense_decoder_layers, dense_layers
from pruning.generation_latency import (
    GenerationCondition,
    GenerationDimensions,
    GenerationIdentity,
    GenerationPrices,
    GenerationTable,
    RequestTable,
    StepTable,
    calibrated,
)
from pruning.seq2seq_export import Seq2SeqGraphs, to_onnx
from pruning.seq2seq_quantization import quantize_graphs
from pruning.skeleton import SMALL_VOCABULARY, Block, BlockLibrary, blocks_of, cut_decoder, cut_encoder, random_model
from pruning.structure import sides
from pruning.timing import Call, Ratio, Timings
from pruning.vocabulary import input_vocabulary
from service.artifact import LayerShape
from service.runtime.base import Array
from service.runtime.onnx import machine

logger = logging.getLogger(__name__)

PRECISIONS: dict[str, Callable[[Seq2SeqGraphs], Seq2SeqGraphs]] = {"fp32": lambda graphs: graphs, "int8": quantize_graphs}
TABLE_SECONDS = 60.0
_MOST_DEPTH = 4
_WHOLE_TIME = 1 / 5
Graph = Literal["encoder", "decoder"]
Layers = Sequence[LayerShape]

_ANCHORS: dict[Graph, Block] = {"encoder": Block("attention", 1), "decoder": Block("self_attention", 1)}


def generation_prices(
    model: PreTrainedModel, condition: GenerationCondition, *, outputs: int | None = None, folder: Path | None = None
) -> GenerationPrices:
    """What generating with this model costs on this machine, by a table from the cache, or measured now and cached.

    Args:
        model: the model to be pruned; its weights are not looked at.
        condition: what is to be measured.
        outputs: tokens that the model will choose from; those that it has if None.
        folder: of the cache; by default `bench.cache_folder()`.

    Raises:
        ConfigError: an unknown runtime or precision, or lengths beyond the model's positions.
        UnsupportedModelError: a model that does not generate, or whose encoder and decoder have heads of unequal sizes.
    """
    identity = identity_of(model, condition, outputs=outputs)
    lengths = f"{condition.source_length}-{condition.target_length}"
    name = f"{identity.dimensions.family}-{condition.runtime}-{condition.precision}-{lengths}-{digest(identity)}.json"
    table = cached_table(
        (folder or cache_folder()) / name, identity, GenerationTable, lambda: measure_table(model, condition, outputs=outputs)
    )
    return GenerationPrices(table, sides(model))


def measure_table(
    model: PreTrainedModel,
    condition: GenerationCondition,
    *,
    outputs: int | None = None,
    seconds: float = TABLE_SECONDS,
    timer: Timer | None = None,
) -> GenerationTable:
    """Take the table now: blocks of every size, the language-model head, then the whole dense model, which calibrates their sum."""
    identity = identity_of(model, condition, outputs=outputs)
    dimensions, timer = identity.dimensions, timer or timer_for(condition)
    libraries = _libraries(model, condition, dimensions)
    depth = min(_MOST_DEPTH, dimensions.encoder_layers, dimensions.decoder_layers)
    chains = {
        _name(graph, block): library.chain([_ANCHORS[graph], *[block] * depth])
        for graph, library in libraries.items()
        for block in library.blocks
    }
    chains |= {f"{graph} anchor": library.chain([_ANCHORS[graph]]) for graph, library in libraries.items()}
    timings = timer(
        {name: opened(chain, condition) for name, chain in chains.items()},
        seconds=seconds * (1 - _WHOLE_TIME),
        description=f"latency table of generation, {condition.precision}",
    )
    whole = Seq2SeqGraphs(libraries["encoder"].chain(_encoder_blocks(dimensions)), libraries["decoder"].chain(_decoder_blocks(dimensions)))
    vocabularies = {SMALL_VOCABULARY, dimensions.outputs, dimensions.vocabulary}
    smallest = {f"head {size}": _exported(model, _SMALLEST, 1, size, condition).decoder for size in sorted(vocabularies)}
    calls = {name: opened(graph, condition) for name, graph in {"encoder": whole.encoder, "step": whole.decoder, **smallest}.items()}
    wholes = timer(calls, seconds=seconds * _WHOLE_TIME, description="calibration with whole models")
    return calibrated(_table(identity, timings, libraries, depth, wholes), wholes.quiet_ms("encoder"), wholes.quiet_ms("step"))


class GenerationBench:
    """Measures structural speed-ups of generation end to end: whole models with random weights, exported and served like real ones.

    Args:
        model: the model at hand; gives widths, vocabularies and the depth of what is measured; its weights are not looked at.
        condition: how both models are served.
        outputs: tokens that the pruned model will choose from; those that it has if None.
        seconds: length of one interleaved measurement.
        timer: times calls together; by default that of `bench.timer_for`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        condition: GenerationCondition,
        *,
        outputs: int | None = None,
        seconds: float = SPEEDUP_SECONDS,
        timer: Timer | None = None,
    ) -> None:
        """Export and load the dense model."""
        self._model, self._condition = model, condition
        self._seconds, self._timer = seconds, timer or timer_for(condition)
        self._dimensions = dimensions_of(model, outputs=outputs)
        self._decoder_layers = sides(model).count("cross")
        self._dense = self._served("dense", self._dimensions.dense, self._dimensions.decoder_layers, self._dimensions.vocabulary)

    def speedup(self, layers: Layers) -> Ratio:
        """How many times faster a model of these shapes generates than the dense one, with its 95 % interval."""
        pruned = self._served("pruned", layers, self._decoder_layers, self._dimensions.outputs)
        timings = self._timer({**self._dense, **pruned}, seconds=self._seconds, description="measured speed-up of generation")
        return Timings({name: self._whole(timings, name) for name in ("dense", "pruned")}).ratio("pruned", "dense")

    def _served(self, name: str, layers: Layers, decoder_layers: int, vocabulary: int) -> dict[str, Call]:
        graphs = _exported(self._model, layers, decoder_layers, vocabulary, self._condition)
        return {
            f"{name} encoder": opened(graphs.encoder, self._condition),
            f"{name} step": opened(graphs.decoder, self._condition),
        }

    def _whole(self, timings: Timings, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Milliseconds of a whole generation, `[rounds]`: its calls were timed in the same rounds."""
        samples = timings.samples
        condition = self._condition
        return condition.requests * samples[f"{name} encoder"] + condition.target_length * samples[f"{name} step"]


def dimensions_of(model: PreTrainedModel, *, outputs: int | None = None) -> GenerationDimensions:
    """Dimensions of the dense model that this one is, or comes from; `outputs` as in `generation_prices`."""
    config = model.config
    if not config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise UnsupportedModelError(f"{type(model).__name__} generates nothing: its latency is that of an encoder")
    if config.encoder_attention_heads != config.decoder_attention_heads:
        raise UnsupportedModelError(
            f"the encoder has {config.encoder_attention_heads} heads and the decoder {config.decoder_attention_heads}: heads of unequal "
            "sizes cannot be priced"
        )
    return GenerationDimensions(
        family=family_of(model).name,
        hidden_size=config.hidden_size,
        head_size=config.hidden_size // config.encoder_attention_heads,
        heads=config.encoder_attention_heads,
        encoder_layers=dense_layers(model),
        decoder_layers=dense_decoder_layers(config),
        intermediate=config.encoder_ffn_dim,
        decoder_intermediate=config.decoder_ffn_dim,
        vocabulary=input_vocabulary(model) or config.vocab_size,
        outputs=outputs or config.vocab_size,
    )


def identity_of(model: PreTrainedModel, condition: GenerationCondition, *, outputs: int | None = None) -> GenerationIdentity:
    """All that a table of this model, taken now, depends on; `outputs` as in `generation_prices`."""
    dimensions = dimensions_of(model, outputs=outputs)
    if condition.runtime not in RUNTIMES:
        raise ConfigError(f"latency cannot be measured in the runtime {condition.runtime!r}, only in {', '.join(RUNTIMES)}")
    if condition.precision not in PRECISIONS:
        raise ConfigError(f"latency cannot be measured in the precision {condition.precision!r}, only in {', '.join(PRECISIONS)}")
    longest = model.config.max_position_embeddings
    if max(condition.source_length, condition.target_length) > longest:
        asked = f"{condition.source_length} and {condition.target_length}"
        raise ConfigError(f"sources and targets of {asked} tokens were asked for, the model has positions for {longest}")
    return GenerationIdentity(condition=condition, dimensions=dimensions, machine=machine(), versions=graph_versions())


def opened(graph: onnx.ModelProto, condition: GenerationCondition) -> Call:
    """A call of this encoder, or of one step of this decoder, on random inputs as the condition says."""
    inputs = _inputs(graph, condition)
    session = RUNTIMES[condition.runtime](fuse_attention(graph).SerializeToString(), condition.threads)
    row = {name: inputs[name] for name in session.inputs}
    return lambda: session.run(row)


_SMALLEST = (LayerShape(heads=1, intermediate=1), LayerShape(heads=1, intermediate=0), LayerShape(heads=1, intermediate=1))


def _libraries(model: PreTrainedModel, condition: GenerationCondition, dimensions: GenerationDimensions) -> dict[Graph, BlockLibrary]:
    """Blocks of every size that is measured, out of one export whose layers have them all."""
    heads = head_counts(dimensions.heads)[::-1]
    widths, decoder_widths = (neuron_counts(each)[::-1] for each in (dimensions.intermediate, dimensions.decoder_intermediate))
    count = max(len(heads), len(widths), len(decoder_widths))
    heads, widths, decoder_widths = (sizes + [0] * (count - len(sizes)) for sizes in (heads, widths, decoder_widths))
    encoder = [LayerShape(heads=h, intermediate=n) for h, n in zip(heads, widths, strict=True)]
    decoder = [
        part
        for h, n in zip(heads, decoder_widths, strict=True)
        for part in (LayerShape(heads=h, intermediate=0), LayerShape(heads=h, intermediate=n))
    ]
    graphs = _exported(model, [*encoder, *decoder], count, SMALL_VOCABULARY, condition)
    return {
        "encoder": cut_encoder(graphs.encoder, encoder, heads),
        "decoder": cut_decoder(graphs.decoder, list(zip(heads, heads, decoder_widths, strict=True))),
    }


def _exported(
    model: PreTrainedModel, layers: Layers, decoder_layers: int, vocabulary: int, condition: GenerationCondition
) -> Seq2SeqGraphs:
    return PRECISIONS[condition.precision](to_onnx(random_model(model, layers, decoder_layers=decoder_layers, vocabulary=vocabulary)))


def _inputs(graph: onnx.ModelProto, condition: GenerationCondition) -> dict[str, Array]:
    """Random tokens and caches, full masks, and the beams of each request side by side."""
    random, past = np.random.default_rng(0), max(1, condition.target_length // 2)
    rows = condition.requests * condition.beams
    is_decoder = any(value.name.endswith("query_slots") or value.name == "position_ids" for value in graph.graph.input)
    sizes = {
        "requests": condition.requests if is_decoder else 1,
        "source": condition.source_length,
        "rows": rows,
        "new": 1,
        "past": past,
        "past + new": past + 1,
        "queries": condition.beams,
    }
    fixed: Mapping[str, Array] = {
        "position_ids": np.full((rows, 1), past, dtype=np.int64),
        "request_queries": np.arange(rows, dtype=np.int64).reshape(condition.requests, condition.beams),
        "query_slots": np.arange(rows, dtype=np.int64).reshape(rows, 1),
    }
    found: dict[str, Array] = {}
    for value in graph.graph.input:
        shape = [sizes[each.dim_param] if each.dim_param else each.dim_value for each in value.type.tensor_type.shape.dim]
        if value.name in fixed:
            found[value.name] = fixed[value.name]
        elif len(shape) == 4:
            found[value.name] = random.standard_normal(shape, dtype=np.float32)
        elif value.name == "input_ids":
            found[value.name] = random.integers(8, 16, size=shape)
        else:
            found[value.name] = np.ones(shape, dtype=np.int64)
    return found


def _encoder_blocks(dimensions: GenerationDimensions) -> list[Block]:
    layers = dimensions.dense[: dimensions.encoder_layers]
    return [*blocks_of(layers), *[Block("source", dimensions.heads)] * dimensions.decoder_layers]


def _decoder_blocks(dimensions: GenerationDimensions) -> list[Block]:
    heads, neurons = dimensions.heads, dimensions.decoder_intermediate
    return [Block("self_attention", heads), Block("cross_attention", heads), Block("feed_forward", neurons)] * dimensions.decoder_layers


def _name(graph: Graph, block: Block) -> str:
    return f"{graph} {block.kind} {block.size}"


def _table(
    identity: GenerationIdentity, timings: Timings, libraries: Mapping[Graph, BlockLibrary], depth: int, wholes: Timings
) -> GenerationTable:
    """Differences to the anchors, per block, of what chains take in the quiet rounds."""

    def sizes(graph: Graph, kind: str) -> dict[int, float]:
        anchor = timings.quiet_ms(f"{graph} anchor")
        blocks = [block for block in libraries[graph].blocks if block.kind == kind]
        return levels({block.size: (timings.quiet_ms(_name(graph, block)) - anchor) / depth for block in blocks})

    def head_ms(vocabulary: int) -> float:
        return max(wholes.quiet_ms(f"head {vocabulary}") - wholes.quiet_ms(f"head {SMALL_VOCABULARY}"), 0.0)

    spread = float(np.median([timings.spread(name) for name in timings.samples]))
    if spread > UNQUIET:
        logger.warning("the machine was busy: latencies varied by %.0f %%; take the table again when it is quiet", 100 * spread)
    attention, own = sizes("encoder", "attention"), sizes("decoder", "self_attention")
    request = RequestTable(
        fixed_ms=max(timings.quiet_ms("encoder anchor") - attention[1], 0.0),
        attention_ms=attention,
        feed_forward_ms=sizes("encoder", "feed_forward"),
        source_ms={0: 0.0} | sizes("encoder", "source"),
    )
    step = StepTable(
        fixed_ms=max(timings.quiet_ms("decoder anchor") - own[1], 0.0),
        self_attention_ms=own,
        cross_attention_ms=sizes("decoder", "cross_attention"),
        feed_forward_ms=sizes("decoder", "feed_forward"),
        head_ms=head_ms(identity.dimensions.vocabulary),
        own_head_ms=head_ms(identity.dimensions.outputs),
    )
    return GenerationTable(identity=identity, request=request, step=step, spread=spread)
