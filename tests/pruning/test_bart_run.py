"""The pruning steps of a run on a tiny encoder-decoder: layers that go whole, then heads and neurons, then tokens to choose from."""

import json
from pathlib import Path

import pytest

from pruning import checkpoint
from pruning.config import parse_config
from pruning.pipeline import pruned_models
from pruning.run import Run
from pruning.stages import Stages
from pruning.stages.compaction import compact_stage, reduce_vocabulary
from pruning.stages.dense import train_dense
from pruning.structure import shapes, sides
from tests.pruning.helpers import tiny_bart, tiny_tokenizer

TEXTS = ["the good a b c", "bad the d e", "good good f", "the bad bad"] * 3


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A recipe that keeps one decoder layer of two, half of the rest, and two tokens fewer than there are."""
    tokenizer = tiny_tokenizer()
    lines = [json.dumps({"document": f"{text} {text}", "summary": text}) for text in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    model = tiny_bart(encoder_layers=1, decoder_layers=2, neurons=(32, 32), vocabulary=len(tokenizer))
    for config in (model.config, model.generation_config):
        config.pad_token_id, config.bos_token_id, config.decoder_start_token_id = 0, 2, 2
        config.eos_token_id = config.forced_eos_token_id = 3
    checkpoint.save(model, tokenizer, tmp_path / "model")
    content = {
        "name": "tiny",
        "task": "summarization",
        "model": str(tmp_path / "model"),
        "max_length": 24,
        "target_length": 8,
        "data": {"train": [{"path": str(tmp_path / "texts.jsonl"), "name": "tiny"}]},
        "shrink": {"decoder_layers": 1},
        "vocabulary": {"keep": len(tokenizer) - 2},
        "prune": {"targets": [{"density": 0.5}], "search_trials": 0, "batch_size": 3},
    }
    return Run(parse_config(content, origin="test"), Stages(tmp_path / "run"))


def test_layers_then_groups_then_tokens(run: Run) -> None:
    """Each step starts from what the one before left, and every model can be loaded again."""
    (pruned,) = pruned_models(run, train_dense(run))
    small = compact_stage(run, pruned.label, pruned.masked)
    reduced = run.load(reduce_vocabulary(run, pruned.label, small, keep=len(run.tokenizer) - 2).name)
    assert sides(reduced) == ("encoder", "decoder", "cross")
    assert shapes(reduced) == shapes(run.load(small.name))
    assert reduced.lm_head.out_features == len(run.tokenizer) - 2
