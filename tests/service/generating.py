"""Tiny random encoder-decoders behind the service's sessions, and what transformers generates with them."""

from functools import cache

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from pruning.compaction import compact
from pruning.seq2seq_export import to_onnx
from pruning.seq2seq_quantization import quantize_graphs
from service.generation import DecoderSession, EncoderDecoder, GenerationSettings, SpecialTokens
from service.runtime.onnx import OnnxSession
from tests.pruning.helpers import LONGEST, VOCABULARY, kill_randomly, tiny_bart
from tests.pruning.seq2seq_artifacts import wide_bart

START, END, PADDING = 2, 2, 1


@cache
def model_of(seed: int) -> PreTrainedModel:
    """A random BART that reads its source, hesitates, and ends.

    Every other one is pruned to unequal heads and removed blocks, and every other one of those lost whole layers of encoder and decoder.
    """
    dropped = (0, 4, 5) if seed % 4 == 3 else ()
    model = tiny_bart(seed=seed, decoder_layers=3 if dropped else 2)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.encoder_attn.q_proj.weight *= 4
            layer.encoder_attn.out_proj.weight *= 4
            layer.self_attn.q_proj.weight *= 4
            layer.self_attn.out_proj.weight *= 4
        model.model.decoder.embed_positions.weight *= 0.4
        for parameter in model.model.decoder.layers[-1].final_layer_norm.parameters():
            parameter *= 0.3
    if seed % 2:
        kill_randomly(np.random.default_rng(seed), model)
        model = compact(model, drop_layers=dropped)
    model.final_logits_bias[0, END] += 2
    return model


@cache
def sessions_of(seed: int) -> tuple[OnnxSession, DecoderSession]:
    """Its graphs, loaded."""
    graphs = to_onnx(model_of(seed))
    return OnnxSession(graphs.encoder.SerializeToString()), DecoderSession(graphs.decoder.SerializeToString())


def exported(seed: int, *, end: tuple[int, ...] = (END,), forced_first: int | None = None, forced_last: int | None = END) -> EncoderDecoder:
    """The same model for the engine."""
    special = SpecialTokens(start=START, end=end, forced_first=forced_first, forced_last=forced_last, padding=PADDING)
    return EncoderDecoder(*sessions_of(seed), special, positions=LONGEST)


@cache
def exported_in_8_bits() -> EncoderDecoder:
    """`wide_bart` in 8 bits, which never ends by itself."""
    encoder, decoder = quantize_graphs(to_onnx(wide_bart())).sessions()
    return EncoderDecoder(encoder, decoder, SpecialTokens(start=START, end=(), padding=PADDING), positions=LONGEST)


def sources(seed: int, count: int) -> list[list[int]]:
    """Random documents of 1 to 20 tokens."""
    rng = np.random.default_rng(seed)
    return [rng.integers(4, VOCABULARY, int(rng.integers(1, 21))).tolist() for _ in range(count)]


def by_transformers(
    seed: int, documents: list[list[int]], settings: GenerationSettings, special: SpecialTokens, *, max_length: int | None = None
) -> list[tuple[int, ...]]:
    """What `generate` gives behind the start token, up to the first end token; with `max_length`, that is what limits it."""
    asked = settings.model_dump(exclude={"seed", "temperature", "top_k", "top_p", "min_new_tokens", "min_length"})
    if max_length is not None:
        asked = {**asked, "max_new_tokens": None, "max_length": max_length}
    config = GenerationConfig(
        **asked,
        min_length=settings.fewest_new_tokens + 1,
        decoder_start_token_id=special.start,
        eos_token_id=list(special.end),
        pad_token_id=special.padding,
        bos_token_id=0,
        forced_bos_token_id=special.forced_first,
        forced_eos_token_id=special.forced_last,
    )
    ids = torch.full((len(documents), max(map(len, documents))), special.padding)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = torch.tensor(document)
    with torch.no_grad():
        tokens = model_of(seed).generate(
            ids, attention_mask=(ids != special.padding).long(), generation_config=config, use_model_defaults=False
        )
    return [_up_to_end(row[1:], special.end) for row in tokens.tolist()]


def _up_to_end(tokens: list[int], end: tuple[int, ...]) -> tuple[int, ...]:
    length = next((place + 1 for place, token in enumerate(tokens) if token in end), len(tokens))
    return tuple(tokens[:length])
