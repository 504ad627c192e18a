"""The preview of reconstruction that a search scores structures by."""

import copy
from collections.abc import Sequence

import torch
from torch.testing import assert_close
from transformers import PreTrainedModel

from pruning.compaction import compact
from pruning.families import family_of
from pruning.importance import Batch, Importance, fisher, output_probe
from pruning.preview import Preview
from pruning.reconstruction import reconstruct
from pruning.structure import LayerStructure, bake, dense_structure, gated
from tests.pruning.helpers import ModelFactory, outputs_of, random_batch
from tests.pruning.test_reconstruction import HALF, sample, with_twins


def importance_of(model: PreTrainedModel, batches: Sequence[Batch]) -> Importance:
    """The importance pass on span logits."""
    return fisher(model, batches, output_probe(lambda outputs: (outputs.start_logits, outputs.end_logits)))


def test_refitting_beats_masking(tiny_model: ModelFactory, family: str) -> None:
    """With half of everything gone, the previewed model is nearer to the dense one than the gated one is, on fresh text."""
    model, batch = tiny_model(family), random_batch(family, seed=99, rows=8)
    dense = outputs_of(model, batch)
    preview = Preview(model, importance_of(model, sample(family)))

    with gated(model, HALF):
        masked = outputs_of(model, batch)
    with preview.refitted(HALF):
        refitted = outputs_of(model, batch)

    assert (refitted - dense).square().mean() < 0.8 * (masked - dense).square().mean()


def test_for_a_single_block_it_is_what_reconstruction_gives(tiny_model: ModelFactory, family: str) -> None:
    """Where nothing else is removed and a copy stays, preview and reconstruction both find the dense outputs."""
    model = tiny_model(family, dtype=torch.float64)
    structure, batch = with_twins(model), random_batch(family, seed=98)
    reconstructed = copy.deepcopy(model)
    reconstruct(reconstructed, structure, sample(family))

    with Preview(model, importance_of(model, sample(family))).refitted(structure):
        previewed = outputs_of(model, batch)

    assert_close(previewed, outputs_of(reconstructed, batch), rtol=0.05, atol=0.05)


def test_the_model_comes_back_as_it_was(tiny_model: ModelFactory, family: str) -> None:
    """Afterwards every weight is bit for bit what it was, and no hook is left."""
    model = tiny_model(family)
    before = copy.deepcopy(model.state_dict())
    preview = Preview(model, importance_of(model, sample(family, batches=2)))

    with preview.refitted(HALF):
        assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_removed_groups_do_not_matter_inside(tiny_model: ModelFactory, family: str) -> None:
    """Baking the structure into the previewed model changes nothing: removed columns are zero already."""
    model, batch = tiny_model(family), random_batch(family)

    with Preview(model, importance_of(model, sample(family, batches=2))).refitted(HALF):
        inside = outputs_of(model, batch)
        bake(model, HALF)
        baked = outputs_of(model, batch)

    assert torch.equal(inside, baked)


def test_keeping_everything_is_the_dense_model(tiny_model: ModelFactory, family: str) -> None:
    """Nothing removed, nothing refitted."""
    model, batch = tiny_model(family), random_batch(family)

    with Preview(model, importance_of(model, sample(family, batches=2))).refitted(dense_structure(model)):
        inside = outputs_of(model, batch)

    assert torch.equal(inside, outputs_of(model, batch))


def test_compact_models_and_empty_blocks_are_previewed(tiny_model: ModelFactory, family: str) -> None:
    """Blocks that were removed before are passed over, and a block may lose all of its groups."""
    model, batch = tiny_model(family), random_batch(family)
    family_of(model).remove_attention(model, 1, torch.zeros(32))
    dense = outputs_of(model, batch)
    structure = (LayerStructure((), (0, 1, 2)), LayerStructure((), ()), dense_structure(model)[2])

    with Preview(model, importance_of(model, sample(family))).refitted(structure):
        refitted = outputs_of(model, batch)
        compacted = outputs_of(compact(model), batch)
    with gated(model, structure):
        masked = outputs_of(model, batch)

    assert (refitted - dense).square().mean() < (masked - dense).square().mean()
    assert_close(compacted, refitted, rtol=1e-4, atol=1e-4)
