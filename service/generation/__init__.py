"""Generation by an encoder-decoder: settings, logits, searches, caches, and the engine that decodes many requests at once.

`Engine` is the way in: `submit` a source, `step` until it is done. What it generates is what transformers 4.57 generates for the same
settings, greedy and by beam search, token for token; sampling follows the same distribution.
"""

from service.generation.decoder import Decoder, Step
from service.generation.engine import Engine, generate, generate_each
from service.generation.requests import EncoderDecoder, Generation, Limits, Progress
from service.generation.searches import Generated
from service.generation.sessions import CachedSession, DecoderSession
from service.generation.settings import GenerationSettings, SpecialTokens

__all__ = [
    "CachedSession",
    "Decoder",
    "DecoderSession",
    "EncoderDecoder",
    "Engine",
    "Generated",
    "Generation",
    "GenerationSettings",
    "Limits",
    "Progress",
    "SpecialTokens",
    "Step",
    "generate",
    "generate_each",
]
