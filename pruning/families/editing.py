"""Edits that are the same for every family."""

from collections.abc import Collection

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

DENSE_LAYERS_FIELD = "dense_hidden_layers"
DENSE_DECODER_LAYERS_FIELD = "dense_decoder_layers"


def keep_layers(model: PreTrainedModel, layers: nn.ModuleList, dropped: Collection[int]) -> nn.ModuleList:
    """The layers that stay, with the config brought up to date; it remembers how many the dense model had."""
    kept = nn.ModuleList(layer for index, layer in enumerate(layers) if index not in dropped)
    setattr(model.config, DENSE_LAYERS_FIELD, dense_layers(model))
    model.config.num_hidden_layers = len(kept)
    return kept


def dense_layers(model: PreTrainedModel) -> int:
    """Layers of the dense model that this one comes from; without those of a decoder."""
    return int(getattr(model.config, DENSE_LAYERS_FIELD, model.config.num_hidden_layers))


def dense_decoder_layers(config: PretrainedConfig) -> int:
    """Decoder layers of the dense model that a model of this config comes from; 0 for an encoder."""
    return int(getattr(config, DENSE_DECODER_LAYERS_FIELD, config.decoder_layers)) if config.is_encoder_decoder else 0


def listed_layers(config: PretrainedConfig) -> int:
    """How many layers a family lists for a model of this config: two for each of a decoder."""
    return int(config.num_hidden_layers) + (2 * int(config.decoder_layers) if config.is_encoder_decoder else 0)
