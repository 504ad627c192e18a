"""Edits that are the same for every family."""

from collections.abc import Collection

from torch import nn
from transformers import PreTrainedModel

DENSE_LAYERS_FIELD = "dense_hidden_layers"


def keep_layers(model: PreTrainedModel, layers: nn.ModuleList, dropped: Collection[int]) -> nn.ModuleList:
    """The layers that stay, with the config brought up to date; it remembers how many the dense model had."""
    kept = nn.ModuleList(layer for index, layer in enumerate(layers) if index not in dropped)
    setattr(model.config, DENSE_LAYERS_FIELD, dense_layers(model))
    model.config.num_hidden_layers = len(kept)
    return kept


def dense_layers(model: PreTrainedModel) -> int:
    """Layers of the dense model that this one comes from."""
    return int(getattr(model.config, DENSE_LAYERS_FIELD, model.config.num_hidden_layers))
