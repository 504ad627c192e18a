"""Masks on an encoder-decoder: what learns, what baking and compacting leave, and what a decoder weighs in the penalty."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from pruning.compaction import compact
from pruning.config import FinePruneConfig, Granularity, SoftMovementConfig
from pruning.families import family_of
from pruning.fine_pruning import penalty_weights
from pruning.mask_plots import density_by_layer, magnitudes_left
from pruning.masking import Masks, attach
from pruning.methods import method_of
from pruning.structure import LayerStructure, linears, parameters, shapes
from tests.pruning.helpers import bart_batch, random_batch, tiny_bart
from tests.pruning.mask_cases import summary_of
from tests.pruning.method_cases import CASES, GRANULARITIES, METHODS

LEVEL = 0.3
KINDS = {"attention", "feed_forward", "decoder_attention", "decoder_feed_forward"}


def model_with(method: str, granularity: str) -> tuple[PreTrainedModel, Masks]:
    """A tiny BART with masks whose scores, if any, are random."""
    model = tiny_bart(neurons=(32, 24), encoder_layers=1, decoder_layers=2, dtype=torch.float64)
    masks = attach(model, GRANULARITIES[granularity], method_of(METHODS[method]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for scores in masks.scores:
            scores.add_(2 * torch.randn(scores.shape, generator=generator))
    return model, masks


@pytest.mark.parametrize(("method", "granularity"), CASES)
def test_scores_learn_and_baked_and_compacted_models_equal_the_masked_one(method: str, granularity: str):
    """Every score gets a gradient; afterwards logits stay the same to 1e-9 in float64, with no parametrization left."""
    model, masks = model_with(method, granularity)
    masks.close(LEVEL, step=1)
    batch = bart_batch()
    model.train()
    (model(**batch, labels=batch["decoder_input_ids"]).loss + masks.penalty({})).backward()
    assert all(scores.grad is not None and scores.grad.any() for scores in masks.scores)
    model.eval()
    masks.freeze()
    with torch.no_grad():
        masked = model(**batch).logits
        masks.bake()
        assert not any(hasattr(module, "parametrizations") for module in model.modules())
        torch.testing.assert_close(model(**batch).logits, masked, atol=1e-9, rtol=0)
        torch.testing.assert_close(compact(model)(**batch).logits, masked, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("method", "granularity", "beams"), [(method, ("hybrid", "struct", "block")[n % 3], (1, 4)[n % 2]) for n, method in enumerate(METHODS)]
)
def test_baked_and_compacted_models_generate_what_the_masked_one_does(method: str, granularity: str, beams: int):
    """The same tokens, greedy and by beams."""
    model, masks = model_with(method, granularity)
    masks.close(LEVEL, step=1)
    masks.freeze()
    options = {**random_batch("roberta"), "num_beams": beams, "min_new_tokens": 4, "max_new_tokens": 10, "no_repeat_ngram_size": 1}
    masked = model.generate(**options)
    masks.bake()
    assert torch.equal(model.generate(**options), masked)
    assert torch.equal(compact(model).generate(**options), masked)


def test_a_report_tells_encoder_and_decoder_apart(tmp_path: Path):
    """What it keeps of the masks has both, and heads of all three attentions."""
    model, masks = model_with("movement", "hybrid")
    masks.close(LEVEL, step=1)
    masks.freeze()
    summary = summary_of(model, masks, tmp_path)
    assert {each.kind for each in summary.matrices} == KINDS
    assert [len(heads.blocks) for heads in summary.heads] == [4] * 5
    assert "decoder feed-forward" in magnitudes_left(summary.magnitudes, name="magnitudes")
    assert density_by_layer(summary, name="densities").count("density-query") == 2


def test_every_linear_of_encoder_and_decoder_is_masked():
    """Each under a name of its own; cross-attention is attention of the decoder."""
    model, masks = model_with("movement", "hybrid")
    masked = {id(each.linear) for each in masks.masked} | {id(linear) for each in masks.masked for linear, _ in each.followers}
    assert masked == {id(linear) for layer in family_of(model).layers(model) for linear in linears(layer)}
    assert len({each.name for each in masks.masked}) == len(masks.masked)
    kinds = {each.name: each.kind for each in masks.masked}
    assert kinds["model.decoder.layers.1.encoder_attn.value"] == "decoder_attention"
    assert kinds["model.encoder.layers.0.self_attn.value"] == "attention"
    assert set(kinds.values()) == KINDS


def test_whole_groups_leave_when_the_model_is_compacted():
    """Heads and neurons whose gate is closed are gone, in every attention its own number of them."""
    model, masks = model_with("movement, global", "struct")
    before = parameters(model).encoder
    masks.close(0.5, step=0)
    masks.bake()
    small = compact(model)
    assert parameters(small).encoder / before == pytest.approx(0.5, abs=0.02)
    assert len({shape.heads for shape in shapes(small)}) > 1


def test_cross_attention_without_keys_gives_up_its_values():
    """Uniform attention over the source is not absence either."""
    model, masks = model_with("movement", "hybrid")
    masks.close(1.0, step=0)
    keys = next(each.mask for each in masks.masked if each.name == "model.decoder.layers.0.encoder_attn.key")
    keys.keep[:2] = 0
    masks.freeze()
    masks.bake()
    assert [shape.heads for shape in shapes(compact(model))] == [4, 4, 3, 4, 4]


def test_what_is_protected_stays_whole():
    """Heads of self- and cross-attention and neurons that are protected keep their weights."""
    model = tiny_bart(neurons=(32, 24))
    layers = family_of(model).layers(model)
    kept = tuple(LayerStructure((1,), (0, 5) if layer.feed_forward else ()) for layer in layers)
    before = [layer.attention.output.weight.detach()[:, 8:16].clone() for layer in layers]
    masks = attach(model, GRANULARITIES["struct"], method_of(METHODS["movement"]), protected=kept)
    masks.close(0.0, step=0)
    masks.freeze()
    masks.bake()
    assert [(shape.heads, shape.intermediate) for shape in shapes(compact(model))] == [(1, len(layer.neurons)) for layer in kept]
    after = [layer.attention.output.weight[:, 8:16] for layer in family_of(model).layers(model)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_decoder_weighs_twice_as_much_in_the_penalty():
    """By default, and as much as the config says; the weights of attention and feed-forward hold in both."""
    config = {"granularity": Granularity(attention="head", feed_forward="neuron"), "method": SoftMovementConfig()}
    assert penalty_weights(FinePruneConfig(**config)) == {
        "attention": 1.0,
        "feed_forward": 1.0,
        "decoder_attention": 2.0,
        "decoder_feed_forward": 2.0,
    }
    chosen = FinePruneConfig(**config, attention_penalty=0.5, decoder_penalty=3.0)
    assert penalty_weights(chosen)["decoder_attention"] == 1.5
    _, masks = model_with("soft movement", "struct")
    for scores in masks.scores:
        scores.requires_grad_(False)
    alone = {kind: float(masks.penalty({other: float(other == kind) for other in KINDS})) for kind in KINDS}
    assert float(masks.penalty(penalty_weights(chosen))) == pytest.approx(
        sum(penalty_weights(chosen)[kind] * share for kind, share in alone.items())
    )
