"""The latency table of generation, by a timer that knows the answer; one real table proves the plumbing."""

from collections import Counter

import numpy as np
import pytest

from pruning import generation_bench
from pruning.compaction import compact
from pruning.config import DensityTarget, GenerationTarget, MacsTarget, PruneConfig
from pruning.errors import ConfigError, NothingPrunedError, UnreachableTargetError, UnsupportedModelError
from pruning.families.bart import layers_to_drop
from pruning.generation_bench import GenerationBench, dimensions_of, generation_prices, measure_table
from pruning.generation_latency import GenerationCondition, GenerationPrices, GenerationTable
from pruning.latency import budget_for, predicted_speedup
from pruning.masking import attach
from pruning.methods import method_of
from pruning.onnx_graph import operator_counts
from pruning.post_training import Calibration, prune
from pruning.search import rank, search
from pruning.seq2seq_export import to_onnx
from pruning.skeleton import Block, blocks_of, cut_decoder, cut_encoder, random_model
from pruning.structure import LayerStructure, bake, dense_structure, macs, parameters, shapes, shapes_of, sides
from pruning.targets import check_reachable, goal_of, left_by
from pruning.tasks import task_named
from pruning.timing import Ratio, Timings, interleaved
from service.artifact import LayerShape
from tests.pruning.helpers import tiny_bart, tiny_model
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.test_bart_post_training import importance_of, sample

CONDITION = GenerationCondition(precision="fp32", source_length=9, target_length=6)
GENERATION = GenerationTarget(speedup=1.6, precision="fp32", source_length=9, target_length=6)
BLOCK_MS = {
    "encoder attention": 0.3,
    "encoder feed_forward": 0.02,
    "encoder source": 0.05,
    "decoder self_attention": 0.2,
    "decoder cross_attention": 0.1,
    "decoder feed_forward": 0.01,
}
ANCHOR_MS, DEPTH = 5.0, 2
HEAD_MS = {20: 1.5, 61: 4.0}


class KnowingTimer:
    """Says of a chain what its blocks cost, and of a whole model what it was told; a vocabulary costs what `HEAD_MS` says more."""

    def __init__(self, **milliseconds):
        """Keep the latencies of whole models."""
        self.milliseconds = milliseconds

    def __call__(self, calls, *, seconds, description=None):
        """Three rounds that all give the same; every call is made once."""
        for call in calls.values():
            call()
        return Timings({name: np.full(3, self.latency(name)) for name in calls})

    def latency(self, name):
        """Milliseconds of the call of this name."""
        kind, _, size = name.rpartition(" ")
        if kind in BLOCK_MS:
            return ANCHOR_MS + DEPTH * BLOCK_MS[kind] * (int(size) + (kind != "encoder source"))
        if kind == "head":
            return ANCHOR_MS + HEAD_MS.get(int(size), 0.0)
        return self.milliseconds.get(name, ANCHOR_MS)


def bart(**options):
    """One encoder and two decoder layers."""
    return tiny_bart(encoder_layers=2, decoder_layers=2, neurons=(32, 48), **options)


@pytest.fixture(scope="module")
def table() -> GenerationTable:
    """The table that a knowing timer leads to, of a model that will choose from 20 tokens, with predictions that need no factor."""
    measured = measure_table(bart(), CONDITION, outputs=20, timer=KnowingTimer())
    whole = {"request": measured.request.model_copy(update={"factor": 1.0}), "step": measured.step.model_copy(update={"factor": 1.0})}
    return measured.model_copy(update=whole)


@pytest.fixture
def known(table, monkeypatch):
    """Every table that is asked for is this one."""
    monkeypatch.setattr(generation_bench, "measure_table", lambda model, condition, outputs: table)
    return table


def test_block_latencies_are_found_from_differences_of_chains(table):
    """Each kind of block, by its sizes, whole removal included."""
    assert table.request.attention_ms == pytest.approx({heads: 0.3 * (1 + heads) for heads in range(5)})
    assert table.request.source_ms == pytest.approx({heads: 0.05 * heads for heads in range(5)})
    assert table.step.self_attention_ms == pytest.approx({heads: 0.2 * (1 + heads) for heads in range(5)})
    assert table.step.cross_attention_ms == pytest.approx({heads: 0.1 * (1 + heads) for heads in range(5)})
    assert table.request.feed_forward_ms == pytest.approx({neurons: 0.02 * (1 + neurons) for neurons in (0, 16, 32)})
    assert table.step.feed_forward_ms == pytest.approx({neurons: 0.01 * (1 + neurons) for neurons in (0, 16, 32, 48)})


def test_a_vocabulary_is_paid_at_each_step(table):
    """What the dense model chooses from, and what this one will."""
    assert (table.step.head_ms, table.step.own_head_ms) == pytest.approx((4.0, 1.5))


def test_a_price_is_a_request_and_as_many_steps_as_tokens(table):
    """Encoder blocks and the keys and values of sources once per request, decoder blocks and the head at each step."""
    request = 4.4 + 2 * (1.5 + 0.66) + 2 * 0.2
    step = 4.6 + 2 * (1.0 + 0.5 + 0.49)
    prices = GenerationPrices(table, sides(bart()))
    assert prices.dense_ms == pytest.approx(request + 6 * (step + 4.0))
    assert prices.latency_ms(shapes(bart())) == pytest.approx(request + 6 * (step + 1.5))
    many = table.identity.condition.model_copy(update={"requests": 3})
    together = table.model_copy(update={"identity": table.identity.model_copy(update={"condition": many})})
    assert GenerationPrices(together, sides(bart())).dense_ms == pytest.approx(3 * request + 6 * (step + 4.0))


def test_prices_for_the_search_are_the_predictions(table):
    """What the search adds up is what the table predicts, calibration included."""
    factors = {"request": table.request.model_copy(update={"factor": 1.3}), "step": table.step.model_copy(update={"factor": 0.8})}
    prices = GenerationPrices(table.model_copy(update=factors), sides(bart()))
    layers = [LayerShape(heads=heads, intermediate=width) for heads, width in ((3, 16), (0, 0), (1, 0), (2, 32), (0, 0), (4, 48))]
    assert prices.costs(shapes(bart())).total(layers) == pytest.approx(prices.latency_ms(layers))


def test_the_dense_model_calibrates_the_table():
    """Predictions for the dense model are what it takes, encoder and decoder each."""
    table = measure_table(bart(), CONDITION, timer=KnowingTimer(encoder=12.0, step=7.0))
    dense = table.identity.dimensions.dense, table.identity.dimensions.sides
    assert table.request_ms(*dense) == pytest.approx(12.0)
    assert table.step_ms(*dense) == pytest.approx(7.0 + HEAD_MS[61])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_real_table_can_be_taken(precision):
    """With the real timer and runtime, beams and requests at once; what the levels are depends on the day."""
    condition = GenerationCondition(precision=precision, source_length=9, target_length=6, beams=2, requests=2)
    table = measure_table(bart(), condition, timer=lambda calls, **_: interleaved(calls, rounds=1))
    assert list(table.step.cross_attention_ms) == [0, 1, 2, 3, 4]
    assert min(table.request_ms(shapes(bart()), sides(bart())), table.step_ms(shapes(bart()), sides(bart()))) > 0


def test_fewer_decoder_layers_are_a_speed_up_over_the_dense_model(known, tmp_path):
    """A model that dropped a layer is priced by the table of the dense one, and is faster before anything is pruned."""
    shallow = compact(bart(), drop_layers=layers_to_drop(bart(), decoder_layers=1))
    prices = generation_prices(shallow, CONDITION, outputs=20, folder=tmp_path)
    assert dimensions_of(shallow, outputs=20) == known.identity.dimensions
    assert predicted_speedup(prices, shapes(shallow)) > 1.2


def test_the_search_reaches_a_speed_up_of_generation(known, tmp_path):
    """By prices, what is found takes no more than it may, and little less; a decoder gives up more than an encoder."""
    model = bart()
    prices = generation_prices(model, CONDITION, outputs=20, folder=tmp_path)
    budget = budget_for(prices, 1.6)
    importance = importance_of(model)
    found = search(importance, prices.costs(shapes(model), step=4), budget)
    assert rank(importance).feed_forward[2].errors.tolist() == [0.0]
    assert 0.95 * budget <= prices.latency_ms(shapes_of(found)) <= budget


def test_what_is_left_is_time_over_that_of_the_dense_model(known, tmp_path, monkeypatch):
    """The vocabulary that will go counts, and so do masks as they close."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    model = bart()
    left = left_by(GENERATION, model, "summarization", outputs=20)
    masks = attach(model, GRANULARITIES["struct"], method_of(METHODS["magnitude"]))
    prices = GenerationPrices(known, sides(model))
    assert left(masks) == pytest.approx(prices.latency_ms(shapes(model)) / prices.dense_ms)
    masks.close(0.5, step=0)
    assert left(masks) < 0.85 * prices.latency_ms(shapes(model)) / prices.dense_ms
    assert goal_of(GENERATION) == 1 / 1.6


def test_a_target_that_nothing_reaches_is_refused(known, tmp_path, monkeypatch):
    """With every gate closed there is still what the output tokens take."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    model, target = bart(), GENERATION.model_copy(update={"speedup": 50.0})
    left = left_by(target, model, "summarization", outputs=20)
    masks = attach(model, GRANULARITIES["struct"], method_of(METHODS["magnitude"]))
    with pytest.raises(UnreachableTargetError, match="out of reach"):
        check_reachable(masks, left, goal_of(target))


def test_a_target_that_the_smaller_vocabulary_reaches_alone_is_refused(known, tmp_path, monkeypatch):
    """There is nothing to prune."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    with pytest.raises(NothingPrunedError, match="met"):
        left_by(GENERATION.model_copy(update={"speedup": 1.1}), bart(), "summarization", outputs=20)


def test_the_measured_speed_up_weighs_steps_by_tokens():
    """Both models are built, exported and run; times of encoder and step add up as in service."""
    times = {"dense encoder": 10.0, "dense step": 4.0, "pruned encoder": 8.0, "pruned step": 2.0}
    model = compact(bart(), drop_layers=layers_to_drop(bart(), decoder_layers=1))
    bench = GenerationBench(model, CONDITION, timer=KnowingTimer(**times))
    structure = list(dense_structure(model))
    structure[1] = LayerStructure((), ())
    bake(model, tuple(structure))
    assert bench.speedup(shapes(compact(model))).value == pytest.approx((10 + 6 * 4) / (8 + 6 * 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtime": "abacus"}, "runtime 'abacus'"),
        ({"precision": "int3"}, "precision 'int3'"),
        ({"source_length": 4096}, "positions for 40"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(change, message, tmp_path):
    """Before anything is exported."""
    with pytest.raises(ConfigError, match=message):
        generation_prices(bart(), CONDITION.model_copy(update=change), folder=tmp_path)


def test_an_encoder_generates_nothing(tmp_path):
    """One line instead of an attribute error."""
    with pytest.raises(UnsupportedModelError, match="generates nothing"):
        generation_prices(tiny_model(), CONDITION, folder=tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_chain_computes_what_the_export_of_that_shape_does(precision: str):
    """The same operators, as many of each, in encoder and decoder; but each cross-attention has the states quantized anew."""
    exact = generation_bench.PRECISIONS[precision]
    decoder = [(4, 4, 48), (2, 0, 16), (0, 2, 0)]
    encoder = [LayerShape(heads=4, intermediate=32), LayerShape(heads=0, intermediate=16), LayerShape(heads=2, intermediate=0)]
    listed = [
        part
        for own, cross, width in decoder
        for part in (LayerShape(heads=own, intermediate=0), LayerShape(heads=cross, intermediate=width))
    ]
    graphs = exact(to_onnx(random_model(bart(), [*encoder, *listed], decoder_layers=3)))
    blocks = [
        Block(kind, size)
        for layer in decoder
        for kind, size in zip(("self_attention", "cross_attention", "feed_forward"), layer, strict=True)
    ]
    step = cut_decoder(graphs.decoder, decoder).chain(blocks)
    sources = [Block("source", cross) for _, cross, _ in decoder if cross]
    whole = cut_encoder(graphs.encoder, encoder, [cross for _, cross, _ in decoder]).chain([*blocks_of(encoder), *sources])
    assert operator_counts(step) == operator_counts(graphs.decoder)
    again = {"DynamicQuantizeLinear": len(sources) - 1} if precision == "int8" else {}
    assert operator_counts(whole) == operator_counts(graphs.encoder) + Counter({"Identity": 1, **again})


@pytest.mark.parametrize(
    "target", [MacsTarget(macs=0.6, sequence_length=11, target_length=6), DensityTarget(density=0.6), GENERATION], ids=str
)
@pytest.mark.parametrize("reconstruct", [True, False])
def test_pruning_with_no_training_reaches_its_target(target, reconstruct, known, tmp_path, monkeypatch):
    """Importance, search and reconstruction, put together: what compaction leaves is what was asked for, or a little less."""
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    prices = GenerationPrices(known, sides(bart()))
    monkeypatch.setattr(GenerationBench, "speedup", lambda self, layers: Ratio(*[predicted_speedup(prices, layers)] * 3))
    model = bart()
    dense = {"macs": macs(model, 11, 6).encoder, "density": parameters(model).encoder, "speedup": prices.dense_ms}
    settings = PruneConfig(targets=(target,), search_trials=2, reconstruct=reconstruct)
    calibration = Calibration(batches=tuple(sample(6)), search=tuple(sample(2)))
    found = prune(model, task_named("summarization"), importance_of(model), calibration, target, settings, seed=0, outputs=20)
    small = compact(model)
    left = {"macs": macs(small, 11, 6).encoder, "density": parameters(small).encoder, "speedup": prices.latency_ms(shapes(small))}
    kind = next(name for name in dense if hasattr(target, name))
    assert goal_of(target) - 0.1 <= left[kind] / dense[kind] <= goal_of(target)
    assert shapes(small) == shapes_of(found.structure)
    assert bool(found.blocks) is reconstruct
