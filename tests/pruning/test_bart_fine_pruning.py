"""Fine-pruning an encoder-decoder: targets of every kind are met, and what is interrupted ends as if it had not been."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizerFast, PreTrainedModel

from pruning import generation_bench
from pruning.compaction import compact
from pruning.config import DensityTarget, FinePruneConfig, GenerationTarget, MacsTarget, ParametersTarget, Target, TrainConfig
from pruning.examples import SummaryExample
from pruning.fine_pruning import FinePruning, fine_prune
from pruning.generation_latency import GenerationPrices, GenerationTable
from pruning.structure import macs, parameters, shapes, sides
from pruning.targets import condition_of, goal_of, left_by
from pruning.tasks import task_named
from tests.pruning.helpers import bart_batch, tiny_bart
from tests.pruning.method_cases import GRANULARITIES, METHODS
from tests.pruning.training_helpers import differing, state

TASK = task_named("summarization")
TRAIN = TrainConfig(epochs=14, batch_size=4, learning_rate=1e-3, precision="fp32", save_steps=7, dropout=0.1)
HALF = DensityTarget(density=0.5)
GENERATION = GenerationTarget(speedup=1.5, precision="fp32", source_length=16, target_length=8)
WORDS = ["the", "good", "bad", "a", "b", "c", "d", "e", "f", "g", "h", "i"]
ROWS = [SummaryExample(str(i), " ".join(WORDS[i:] + WORDS[:i]), (" ".join(WORDS[i : i + 3]),)) for i in range(12)]


def model_of(seed: int = 0) -> PreTrainedModel:
    """Tiny, with sizes that every granularity divides."""
    return tiny_bart(encoder_layers=1, decoder_layers=2, neurons=(32, 32), seed=seed)


def config_for(method: str, granularity: str, target: Target = HALF) -> FinePruneConfig:
    """Forty-two steps, in which scores can get somewhere."""
    return FinePruneConfig(
        method=METHODS[method],
        granularity=GRANULARITIES[granularity],
        targets=(target,),
        train=TRAIN,
        score_learning_rate=0.3,
        warmup=0.1,
        cooldown=0.3,
    )


def fine_pruned(model: PreTrainedModel, tokenizer: BertTokenizerFast, config: FinePruneConfig, folder: Path) -> FinePruning:
    """Fine-prune on twelve documents."""
    torch.manual_seed(5)
    (target,) = config.targets
    features = TASK.features(ROWS, tokenizer, max_length=20, target_length=8)
    left, goal = left_by(target, model, TASK.name), goal_of(target)
    return fine_prune(model, tokenizer, TASK, features, config, left=left, target=goal, folder=folder, seed=5)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> GenerationTable:
    """Prices of generation with nothing to measure: a decoder's heads and neurons are dear."""
    identity = generation_bench.identity_of(model_of(), condition_of(GENERATION))
    heads, neurons = {0: 0.1, 1: 1.0, 4: 2.0}, {0: 0.1, 16: 1.0, 32: 2.0}
    prices = {"fixed_ms": 0.2, "feed_forward_ms": neurons}
    known = GenerationTable.model_validate(
        {
            "identity": identity,
            "request": {**prices, "attention_ms": heads, "source_ms": heads},
            "step": {**prices, "self_attention_ms": heads, "cross_attention_ms": heads, "head_ms": 0.2, "own_head_ms": 0.2},
        }
    )
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(generation_bench, "measure_table", lambda model, condition, outputs: known)
    return known


@pytest.mark.parametrize(
    ("method", "granularity"),
    [
        pytest.param(method, ("hybrid", "struct")[number % 2], marks=[pytest.mark.slow] if method == "movement, global" else [])
        for number, method in enumerate(METHODS)
    ],
)
def test_the_density_asked_for_is_met(method: str, granularity: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    """Within 5 %, or half a head where heads go whole; and the compact model says what the pruned one says."""
    model = model_of()
    dense = parameters(model).encoder
    found = fine_pruned(model, tiny_tokenizer, config_for(method, granularity), tmp_path)
    head = 4 * 32 * 8 / dense
    assert found.left == pytest.approx(0.5, abs=head if granularity == "struct" else 0.025)
    small = compact(model)
    if granularity == "struct":
        assert parameters(small).encoder / dense == pytest.approx(found.left)
    with torch.no_grad():
        expected, logits = (each.double()(**bart_batch()).logits for each in (model, small))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["movement", "l0"])
def test_a_target_of_work_is_met(method: str, tiny_tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    """Multiply-accumulates of what compaction leaves, for a source and a target of their own lengths."""
    model = model_of()
    dense = macs(model, 16, 6).encoder
    target = MacsTarget(macs=0.5, sequence_length=16, target_length=6)
    found = fine_pruned(model, tiny_tokenizer, config_for(method, "struct", target), tmp_path)
    assert macs(compact(model), 16, 6).encoder / dense == pytest.approx(found.left)
    assert found.left == pytest.approx(0.5, abs=0.1)


def test_a_target_of_size_is_met(tiny_tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    """Parameters of the whole model, embeddings included."""
    model = model_of()
    dense = parameters(model).total
    found = fine_pruned(model, tiny_tokenizer, config_for("movement, global", "struct", ParametersTarget(parameters=0.6)), tmp_path)
    assert parameters(compact(model)).total / dense == pytest.approx(found.left)
    assert found.left == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("method", ["magnitude, global", "soft movement"])
def test_a_speed_up_of_generation_is_met(method: str, table: GenerationTable, tiny_tokenizer: BertTokenizerFast, tmp_path: Path) -> None:
    """As the table predicts it for what compaction leaves, near enough for whole heads."""
    model = model_of()
    found = fine_pruned(model, tiny_tokenizer, config_for(method, "struct", GENERATION), tmp_path / "run")
    prices = GenerationPrices(table, sides(model))
    assert prices.latency_ms(shapes(compact(model))) / prices.dense_ms == pytest.approx(found.left)
    assert 1 / found.left == pytest.approx(1.5, abs=0.15)


@pytest.mark.parametrize(("method", "steps"), [("soft movement", 36), pytest.param("l0", 20, marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted(
    method: str, steps: int, tiny_tokenizer: BertTokenizerFast, tmp_path: Path, interrupted_after: Callable[[int], None]
) -> None:
    """Bit for bit, cut on the ramp or in the cool-down."""
    config = config_for(method, "hybrid")
    whole, cut, resumed = model_of(), model_of(), model_of(seed=9)
    expected = fine_pruned(whole, tiny_tokenizer, config, tmp_path / "whole")
    interrupted_after(steps)
    with pytest.raises(KeyboardInterrupt):
        fine_pruned(cut, tiny_tokenizer, config, tmp_path / "cut")
    interrupted_after(1000)
    found = fine_pruned(resumed, tiny_tokenizer, config, tmp_path / "cut")
    assert differing(state(whole), state(resumed)) == []
    assert found.trace == expected.trace
