"""Layers that go whole."""

import pytest
import torch

from pruning.errors import ConfigError
from pruning.shrinking import shrunk
from pruning.structure import sides
from tests.pruning.helpers import bart_batch, tiny_bart, tiny_model


def test_a_shallower_model_is_made_of_copies_of_layers():
    """Of six decoder layers the first, third and last; the model that they are copied from stays as it is."""
    deep = tiny_bart(decoder_layers=6)
    shallow = shrunk(deep, decoder_layers=3)
    assert sides(shallow) == ("encoder",) * 2 + ("decoder", "cross") * 3
    assert len(deep.model.decoder.layers) == 6
    for kept, number in zip(shallow.model.decoder.layers, (0, 2, 5), strict=True):
        assert torch.equal(kept.fc1.weight, deep.model.decoder.layers[number].fc1.weight)


def test_with_nothing_to_drop_it_is_a_copy():
    """Outputs stay what they were."""
    model = tiny_bart()
    with torch.no_grad():
        assert torch.equal(shrunk(model)(**bart_batch()).logits, model(**bart_batch()).logits)


def test_what_cannot_be_shrunk_is_refused():
    """An encoder, and more layers than there are."""
    with pytest.raises(ConfigError, match="has not"):
        shrunk(tiny_model(), decoder_layers=1)
    with pytest.raises(ConfigError, match="cannot keep 9 of 3"):
        shrunk(tiny_bart(), decoder_layers=9)
