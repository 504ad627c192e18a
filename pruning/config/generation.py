"""What only recipes of a task that generates say: what its model is made of, how it decodes, and what of it goes before the rest."""

from pydantic import Field

from pruning.config.base import Section


class WarmStartConfig(Section):
    """An encoder-decoder from a pretrained BERT (Rothe et al., 2020, arXiv:1907.12461), for a task that generates."""

    decoder_layers: int = Field(3, gt=0, description="Layers of the decoder, copied from the encoder's, the first and the last among them.")


class DecodingConfig(Section):
    """How a model that generates does so where a request says nothing else; what is left out is as the model says."""

    num_beams: int | None = Field(None, gt=0, description="Beams; 1 is greedy.")
    length_penalty: float | None = Field(None, description="Beams: above 0 favours longer summaries.")
    early_stopping: bool | None = Field(None, description="Beams: stop when there are as many ended ones as beams.")
    no_repeat_ngram_size: int | None = Field(None, ge=0, description="No sequence of this many tokens occurs twice; 0: it may.")
    min_new_tokens: int | None = Field(None, ge=0, description="Fewest tokens of a summary.")
    max_new_tokens: int | None = Field(None, gt=0, description="Most tokens of a summary.")


class ShrinkConfig(Section):
    """Whole layers that go before anything else is pruned (Shleifer & Rush, 2020, arXiv:2010.13002)."""

    encoder_layers: int | None = Field(None, gt=0, description="Layers that the encoder keeps; all by default.")
    decoder_layers: int | None = Field(None, gt=0, description="Layers that the decoder keeps; all by default.")


class VocabularyConfig(Section):
    """Tokens that a model which generates may choose from; what it takes to spell all others is among them."""

    keep: int = Field(gt=0, description="How many: special tokens and what others are spelled in, then those most used in summaries.")
