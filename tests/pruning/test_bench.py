"""Taking the latency table and measuring speed-ups, with a timer that knows the answer; one real table proves the plumbing."""

import logging
import time
from itertools import pairwise

import numpy as np
import pytest

from pruning.bench import (
    CACHE_VARIABLE,
    StructuralBench,
    cache_folder,
    dimensions_of,
    head_counts,
    identity_of,
    latency_table,
    measure_table,
    neuron_counts,
    timer_for,
)
from pruning.compaction import compact
from pruning.errors import ConfigError
from pruning.latency import Condition, LatencyTable
from pruning.structure import LayerStructure, bake
from pruning.timing import Timings, interleaved
from service.artifact import LayerShape
from tests.pruning.helpers import tiny_model

QUESTIONS = "question-answering"
CONDITION = Condition(precision="fp32", sequence_length=8)
ANCHOR_MS = 5.0
BLOCK_MS = {"attention": 0.3, "feed_forward": 0.02}


class KnowingTimer:
    """Says of a chain what its blocks cost, linear in their size; of anything else, what it was told. Makes every call once."""

    def __init__(self, depth=3, **milliseconds):
        """Keep the depth of chains and the latencies of whole models."""
        self.depth, self.milliseconds = depth, milliseconds

    def __call__(self, calls, *, seconds, description=None):
        """Three rounds that all give the same."""
        for call in calls.values():
            call()
        return Timings({name: np.full(3, self.latency(name)) for name in calls})

    def latency(self, name):
        """Milliseconds of the call of this name."""
        kind, _, size = name.partition(" ")
        if kind in BLOCK_MS:
            return ANCHOR_MS + self.depth * BLOCK_MS[kind] * (1 + int(size))
        return self.milliseconds.get(name, ANCHOR_MS)


class CountingMeasure:
    """Hands out one table and counts how often it was asked."""

    def __init__(self):
        """Start at none."""
        self.count = 0

    def __call__(self, model, task, condition, *, seconds):
        """A small table under the identity that it was asked for."""
        self.count += 1
        levels = {0: 0.0, 4: 1.0}
        identity = identity_of(model, task, condition)
        return LatencyTable(identity=identity, fixed_ms=1.0, attention_ms=levels, feed_forward_ms=levels)


@pytest.fixture
def measure():
    """A counting stand-in for `measure_table`."""
    return CountingMeasure()


@pytest.fixture(scope="module")
def table():
    """The table that a knowing timer leads to."""
    return measure_table(tiny_model(intermediate=64), QUESTIONS, CONDITION, timer=KnowingTimer())


def test_the_table_has_every_size_that_is_to_be_measured(table):
    """All head counts and the grid of widths are there, whole-block removal included."""
    assert list(table.attention_ms) == [0, 1, 2, 3, 4]
    assert list(table.feed_forward_ms) == neuron_counts(64)
    assert table.feed_forward_ms.keys() >= {0, 64}


def test_block_latencies_are_found_from_differences_of_chains(table):
    """A block's share is what a chain of it takes more than the anchor, over the chain's length."""
    for heads, milliseconds in table.attention_ms.items():
        assert milliseconds == pytest.approx(BLOCK_MS["attention"] * (1 + heads))
    for neurons, milliseconds in table.feed_forward_ms.items():
        assert milliseconds == pytest.approx(BLOCK_MS["feed_forward"] * (1 + neurons))


def test_the_fixed_part_is_the_anchor_without_its_block(table):
    """What is left of the anchor when its one head is taken off is embeddings, head and call."""
    assert table.fixed_ms == pytest.approx(ANCHOR_MS - BLOCK_MS["attention"] * 2)


def test_the_table_is_calibrated_with_whole_models_of_full_depth(table):
    """The dense model and unequal ones, all with as many layers as the model."""
    dense, *others = table.points
    assert dense.layers == table.identity.dimensions.dense
    assert len(others) >= 2
    assert all(len(point.layers) == 3 for point in table.points)
    assert any(len(set(point.layers)) > 1 for point in others)


def test_noise_never_makes_more_cost_less():
    """Whatever the samples say, the levels are non-decreasing in size and not negative."""

    class NoisyTimer(KnowingTimer):
        random = np.random.default_rng(3)

        def latency(self, name):
            return super().latency(name) * self.random.uniform(0.7, 1.3)

    table = measure_table(tiny_model(intermediate=64), QUESTIONS, CONDITION, timer=NoisyTimer())
    for levels in (table.attention_ms, table.feed_forward_ms):
        values = list(levels.values())
        assert all(a <= b for a, b in pairwise(values))
        assert min(values) >= 0


def test_a_busy_machine_is_pointed_out(caplog):
    """Samples that vary a lot leave a warning in the log and a figure in the table."""

    class BusyTimer(KnowingTimer):
        def __call__(self, calls, *, seconds, description=None):
            quiet = super().__call__(calls, seconds=seconds)
            return Timings({name: values * np.array([1.0, 1.5, 2.0]) for name, values in quiet.samples.items()})

    with caplog.at_level(logging.WARNING):
        table = measure_table(tiny_model(intermediate=64), QUESTIONS, CONDITION, timer=BusyTimer())
    assert "machine was busy" in caplog.text
    assert table.spread > 0.15


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_real_table_can_be_taken(precision):
    """With the real timer and runtime the levels are all there and non-decreasing; what they are depends on the day."""
    condition = Condition(precision=precision, sequence_length=8)
    table = measure_table(tiny_model(intermediate=64), QUESTIONS, condition, timer=lambda calls, **_: interleaved(calls, rounds=3))
    assert list(table.attention_ms) == [0, 1, 2, 3, 4]
    assert all(a <= b for a, b in pairwise(table.feed_forward_ms.values()))
    assert len(table.points) == 4


def test_a_cached_table_is_not_measured_again(measure, tmp_path):
    """The second time the table comes from its file, equal to the first."""
    first, second = (latency_table(tiny_model(), QUESTIONS, CONDITION, folder=tmp_path, measure=measure) for _ in range(2))
    assert first == second
    assert measure.count == 1


@pytest.mark.parametrize(
    ("model", "task", "condition"),
    [
        (tiny_model(intermediate=48), QUESTIONS, CONDITION),
        (tiny_model("roberta"), QUESTIONS, CONDITION),
        (tiny_model(task="text-classification"), "text-classification", CONDITION),
        (tiny_model(), QUESTIONS, Condition(precision="int8", sequence_length=8)),
        (tiny_model(), QUESTIONS, Condition(precision="fp32", sequence_length=9)),
        (tiny_model(), QUESTIONS, Condition(precision="fp32", sequence_length=8, threads=2)),
    ],
    ids=["width", "family", "task", "precision", "length", "threads"],
)
def test_a_table_of_something_else_is_measured(measure, tmp_path, model, task, condition):
    """A change in anything that latency depends on is another table."""
    latency_table(tiny_model(), QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    latency_table(model, task, condition, folder=tmp_path, measure=measure)
    assert measure.count == 2


def test_a_compact_model_has_the_table_of_its_dense_one(measure, tmp_path):
    """Pruning further prices blocks by the same table, whatever has been removed already."""
    model = tiny_model()
    latency_table(model, QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    bake(model, (LayerStructure((0,), (1, 2)),) * 3)
    latency_table(compact(model, drop_layers=[1]), QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    assert measure.count == 1


@pytest.mark.parametrize("content", ["", '{"fixed_ms": 1', "{}", "[]"], ids=["empty", "truncated", "no fields", "no mapping"])
def test_a_corrupt_file_is_measured_again(measure, tmp_path, caplog, content):
    """A cache file that cannot be read costs a measurement and a warning, and is replaced."""
    latency_table(tiny_model(), QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        latency_table(tiny_model(), QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    assert measure.count == 2
    assert path.name in caplog.text
    assert LatencyTable.model_validate_json(path.read_text()).fixed_ms == 1.0


def test_a_table_from_another_machine_is_measured_again(measure, tmp_path, caplog):
    """A file whose content tells of another machine is not believed, whatever its name."""
    table = latency_table(tiny_model(), QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    (path,) = tmp_path.iterdir()
    elsewhere = table.identity.machine.model_copy(update={"cpu": "abacus"})
    identity = table.identity.model_copy(update={"machine": elsewhere})
    path.write_text(table.model_copy(update={"identity": identity}).model_dump_json())
    with caplog.at_level(logging.WARNING):
        latency_table(tiny_model(), QUESTIONS, CONDITION, folder=tmp_path, measure=measure)
    assert measure.count == 2
    assert "elsewhere" in caplog.text


def test_a_cache_that_cannot_be_written_is_no_obstacle(measure, tmp_path, caplog):
    """Without a place to keep it the table is still handed out, with a warning."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        table = latency_table(tiny_model(), QUESTIONS, CONDITION, folder=blocked / "cache", measure=measure)
    assert table.fixed_ms == 1.0
    assert "not kept" in caplog.text


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    """SECATEUR_CACHE moves the cache; without it, it is in the home folder."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path / "latency"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "secateur" / "latency"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runtime": "abacus"}, "runtime 'abacus', only in onnxruntime"),
        ({"precision": "int3"}, "precision 'int3', only in fp32, int8"),
        ({"sequence_length": 4096}, "positions for 40"),
    ],
    ids=["runtime", "precision", "length"],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, change, message):
    """An impossible condition is refused before anything is exported, and the message says what is possible."""
    with pytest.raises(ConfigError, match=message):
        latency_table(tiny_model(), QUESTIONS, CONDITION.model_copy(update=change), folder=tmp_path)


def test_the_measured_speedup_is_dense_over_pruned():
    """Both models are built, exported and run; the ratio is the timer's."""
    bench = StructuralBench(tiny_model(), QUESTIONS, CONDITION, timer=KnowingTimer(dense=6.0, pruned=4.0))
    assert bench.speedup([LayerShape(heads=2, intermediate=16), LayerShape(heads=0, intermediate=0)]).value == pytest.approx(1.5)


def test_what_other_processes_take_does_not_count():
    """On one thread a call that does not compute takes next to nothing, however long it lasts; with more it is timed by the clock."""
    calls = {"asleep": lambda: time.sleep(0.02)}
    one, two = (timer_for(CONDITION.model_copy(update={"threads": threads}))(calls, seconds=0.0) for threads in (1, 2))
    assert one.median_ms("asleep") < 10 < two.median_ms("asleep")


def test_dimensions_are_those_of_the_dense_model(family):
    """Every family says its widths under other names; they end up under the same ones."""
    dimensions = dimensions_of(tiny_model(family, layers=2, hidden=32, heads=4, intermediate=37), QUESTIONS)
    assert dimensions.dense == (LayerShape(heads=4, intermediate=37),) * 2
    assert (dimensions.family, dimensions.hidden_size, dimensions.head_size) == (family, 32, 8)


@pytest.mark.parametrize("heads", [1, 2, 12, 16, 40])
def test_head_counts_end_with_none_one_and_all(heads):
    """Removal, the smallest block and the whole one are always measured, and never very many sizes."""
    counts = head_counts(heads)
    assert {0, 1, heads} <= set(counts)
    assert len(counts) <= 18


@pytest.mark.parametrize("intermediate", [3, 37, 64, 1536, 3072])
def test_widths_are_few_and_fit_the_kernels(intermediate):
    """None and all are measured, in at most 16 sizes, which are multiples of 16 where the model's width is."""
    counts = neuron_counts(intermediate)
    assert {0, intermediate} <= set(counts)
    assert len(counts) <= 16
    assert intermediate % 16 or all(count % 16 == 0 for count in counts)
