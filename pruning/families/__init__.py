"""The model families that can be pruned. To add one: a file here, a line in `FAMILIES`, a fixture in the tests."""

from transformers import PreTrainedModel

from pruning.errors import UnsupportedModelError
from pruning.families.bart import BartFamily
from pruning.families.base import AttentionBlock, EncoderLayer, Family, FeedForwardBlock
from pruning.families.bert import BertFamily
from pruning.families.distilbert import DistilBertFamily

__all__ = ["FAMILIES", "AttentionBlock", "EncoderLayer", "Family", "FeedForwardBlock", "family_of", "family_of_type"]

FAMILIES: dict[str, Family] = {
    "bert": BertFamily("bert"),
    "roberta": BertFamily("roberta"),
    "distilbert": DistilBertFamily(),
    "bart": BartFamily(),
}


def family_of(model: PreTrainedModel) -> Family:
    """The family that knows this model's layers."""
    if getattr(model.config, "is_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} is set up as a decoder (config.is_decoder), which no family knows how to prune"
        )
    return family_of_type(model.config.model_type)


def family_of_type(model_type: str) -> Family:
    """The family of a config's `model_type`."""
    if model_type not in FAMILIES:
        raise UnsupportedModelError(f"models of type {model_type!r} cannot be pruned, only {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]
