"""What fine-pruning did to each matrix: saved, read again, and summed up."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from pruning.analysis import FILE_NAME, SAMPLE, read_masks, save_masks, summarise
from pruning.compaction import live_structure
from pruning.errors import CheckpointError
from pruning.mask_summary import PIXELS, MaskSummary, Pixels
from tests.pruning.mask_cases import TRACE, summary_of, trained_masks
from tests.pruning.method_cases import CASES, GRANULARITIES


@pytest.mark.parametrize(("method", "granularity"), CASES)
def test_what_is_read_is_what_was_written(method, granularity, tmp_path):
    """Gates, scores, and where each mask is, for every method and granularity."""
    _, masks = trained_masks(method, granularity)
    save_masks(masks, tmp_path)
    for each, saved in zip(masks.masked, read_masks(tmp_path), strict=True):
        grid = each.mask.grid
        assert (saved.name, saved.kind, saved.layer, saved.part) == (each.name, each.kind, each.layer, each.part)
        assert (saved.rows, saved.columns, saved.members) == (grid.rows, grid.columns, each.mask.members)
        assert (saved.keep.dtype, saved.magnitude.shape) == (np.uint8, saved.keep.shape)
        assert np.array_equal(saved.keep, each.mask.keep.numpy())
        assert (saved.scores is None) is (each.mask.scores is None)
        if each.mask.scores is not None:
            assert np.array_equal(saved.scores, each.mask.scores.detach().half().numpy())


def test_magnitude_is_that_of_all_weights_of_a_group(tmp_path):
    """A neuron's counts its row of the up-projection and its column of the down-projection."""
    model, masks = trained_masks("movement", "struct")
    feed_forward = model.bert.encoder.layer[0]
    up, down = feed_forward.intermediate.dense.weight.detach(), feed_forward.output.dense.parametrizations.weight.original.detach()
    save_masks(masks, tmp_path)
    saved = next(each for each in read_masks(tmp_path) if each.part == "neurons")
    expected = torch.cat([up.T, down]).square().mean(dim=0).sqrt()
    assert saved.magnitude[0] == pytest.approx(expected.numpy(), rel=1e-3)


def test_scores_too_large_for_half_precision_stay_finite(tmp_path):
    """The largest number stands for them."""
    _, masks = trained_masks()
    with torch.no_grad():
        masks.scores[0].fill_(1e9)
    save_masks(masks, tmp_path)
    assert np.isfinite(read_masks(tmp_path)[0].scores).all()


@pytest.mark.parametrize("damage", [b"", b"{}", json.dumps({"a": 1}).encode()])
def test_a_damaged_file_is_one_line(damage, tmp_path):
    """Whatever is wrong with it, the file is named."""
    (tmp_path / FILE_NAME).write_bytes(damage)
    with pytest.raises(CheckpointError, match=FILE_NAME):
        read_masks(tmp_path)


def test_without_masks_there_is_no_summary(tmp_path):
    """A model that was pruned with no training has none."""
    assert summarise(tmp_path, {"structure": []}) is None


@pytest.mark.parametrize(("method", "granularity"), CASES)
def test_densities_agree_with_the_masks(method, granularity, tmp_path):
    """Layer by layer and part by part they add up to the density of the masks."""
    model, masks = trained_masks(method, granularity)
    density, closed = masks.density(), sum(int((1 - each.mask.keep).sum()) * each.mask.members for each in masks.masked)
    summary = summary_of(model, masks, tmp_path)
    assert (summary.density, summary.pruned) == (pytest.approx(density), closed)
    assert sum(each.density * each.weights for each in summary.matrices) / sum(each.weights for each in summary.matrices) == pytest.approx(
        density
    )


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_summary_survives_json(granularity, tmp_path):
    """What the report writes reads back as the same."""
    summary = summary_of(*trained_masks("movement", granularity), tmp_path)
    assert MaskSummary.model_validate_json(summary.model_dump_json()) == summary
    assert [reading.step for reading in summary.trace] == [reading["step"] for reading in TRACE]


@pytest.mark.parametrize("granularity", ["hybrid", "struct", "block"])
def test_live_heads_have_values_and_outputs(granularity, tmp_path):
    """Heads that compaction leaves kept a weight in V and in O; whole heads keep all four matrices or none."""
    model, masks = trained_masks("movement", granularity, level=0.15)
    summary = summary_of(model, masks, tmp_path)
    for layer, structure in zip(summary.heads, live_structure(model), strict=True):
        assert layer.live == structure.heads
        assert len(layer.blocks) == 4
        assert all({"V", "O"} <= set(layer.blocks[head]) for head in layer.live)
        if granularity == "struct":
            assert {head for head, blocks in enumerate(layer.blocks) if blocks == "QKVO"} == set(layer.live)


def test_a_head_that_lost_its_queries_says_so(tmp_path):
    """Its letter is missing, and so is that of its values, which it gave up."""
    model, masks = trained_masks("movement", "hybrid", level=1.0)
    query = next(each for each in masks.masked if each.part == "query")
    query.mask.keep[: query.mask.keep.shape[0] // 4] = 0
    masks.close_idle_values()
    summary = summary_of(model, masks, tmp_path)
    assert summary.heads[0].blocks == ("KO", "QKVO", "QKVO", "QKVO")
    assert summary.heads[0].live == (1, 2, 3)


def test_without_masked_attention_there_are_no_heads(tmp_path):
    """Nothing can be said of them."""
    assert summary_of(*trained_masks("movement", "feed-forward alone"), tmp_path).heads == ()


def test_histograms_add_up(tmp_path):
    """All weights are in some bin, and of each bin no more is left than there was."""
    summary = summary_of(*trained_masks("magnitude", "unstructured"), tmp_path)
    assert [histogram.kind for histogram in summary.magnitudes] == ["attention", "feed_forward"]
    for histogram in summary.magnitudes:
        of_kind = [each for each in summary.matrices if each.kind == histogram.kind]
        assert sum(histogram.every) == pytest.approx(1, abs=1e-3)
        assert sum(histogram.left) == pytest.approx(sum(m.left for m in of_kind) / sum(m.weights for m in of_kind), abs=1e-3)
        assert all(left <= every for left, every in zip(histogram.left, histogram.every, strict=True))


def test_equal_magnitudes_have_a_histogram(tmp_path):
    """All in one bin."""
    model, masks = trained_masks("movement", "feed-forward alone")
    with torch.no_grad():
        for each in masks.masked:
            each.weight.fill_(0.5)
            each.followers[0][0].weight.fill_(0.5)
    summary = summary_of(model, masks, tmp_path)
    assert max(summary.magnitudes[0].every) == pytest.approx(1)


def test_samples_are_bounded_and_true(tmp_path):
    """No more than were asked for, the same every time, and a group that was kept has no lower score than one that was not."""
    model, masks = trained_masks("movement, global", "unstructured")
    summary = summary_of(model, masks, tmp_path)
    assert [len(sample.kept) for sample in summary.scores] == [SAMPLE, SAMPLE]
    for sample in summary.scores:
        kept = [score for score, keeps in zip(sample.scores, sample.kept, strict=True) if keeps]
        pruned = [score for score, keeps in zip(sample.scores, sample.kept, strict=True) if not keeps]
        assert min(kept) >= max(pruned)


def test_methods_that_learn_no_scores_have_no_sample(tmp_path):
    """Magnitude pruning ranks by the weights themselves."""
    assert summary_of(*trained_masks("magnitude", "block"), tmp_path).scores == ()


@pytest.mark.parametrize("shape", [(1, 12), (24, 24), (48, 7), (1, 1)])
def test_small_masks_are_kept_exactly(shape):
    """One pixel for each gate."""
    keep = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8)
    assert np.array_equal(Pixels.of(keep).shares(), keep)


@pytest.mark.parametrize("shape", [(96, 144), (100, 50), (1, 1000)])
def test_large_masks_are_made_small(shape):
    """At most so many pixels, and about as much is left in them as in the mask."""
    keep = (np.random.default_rng(0).random(shape) < 0.3).astype(np.uint8)
    shares = Pixels.of(keep).shares()
    assert shares.shape == tuple(min(PIXELS, side) for side in shape)
    assert shares.mean() == pytest.approx(keep.mean(), abs=0.02)


@pytest.mark.parametrize("packed", ["?", "AAAA", Pixels.of(np.ones((3, 3), np.uint8)).packed])
def test_pixels_that_do_not_fit_are_refused(packed):
    """Neither base64, nor deflated, nor of this size."""
    with pytest.raises(ValidationError, match="packed"):
        Pixels(height=2, width=2, packed=packed)
