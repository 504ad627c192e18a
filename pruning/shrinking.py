"""Whole layers go first: a shallower encoder-decoder, made of copies of some of a deeper one's layers (Shleifer & Rush, 2020,
arXiv:2010.13002).

Unlike what masks remove, this changes what the model computes, so it is fine-tuned afterwards; a decoder's depth is what generation
takes most of its time for.
"""

from transformers import PreTrainedModel

from pruning.compaction import compact
from pruning.errors import ConfigError
from pruning.families.bart import layers_to_drop


def shrunk(model: PreTrainedModel, *, encoder_layers: int | None = None, decoder_layers: int | None = None) -> PreTrainedModel:
    """A copy of an encoder-decoder with that many layers, chosen as `families.bart.layers_to_copy` says; None for all there are.

    Raises:
        ConfigError: the model has no decoder, or not as many layers.
    """
    if not model.config.is_encoder_decoder:
        raise ConfigError(f"`shrink` chooses layers of an encoder and a decoder, which {type(model).__name__} has not; leave it out")
    return compact(model, drop_layers=layers_to_drop(model, encoder_layers=encoder_layers, decoder_layers=decoder_layers))
