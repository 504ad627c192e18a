"""Tiny random artifacts that summarize: of a tokenizer that takes words apart and knows no capitals, and of a byte-level one."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from pruning.seq2seq_export import Seq2SeqGraphs, to_onnx
from service.artifact import DECODER_GRAPH_NAME, ENCODER_GRAPH_NAME, OUTPUT_IDS_NAME, Golden, hash_files, write_manifest
from service.generation import DecoderSession
from service.generation.golden import logits_of
from service.runtime.onnx import OnnxSession
from tests.pruning.helpers import LONGEST, tiny_bart
from tests.service import builders

SUMMARIZATION = "summarization"
DOCUMENT = "Ada wrote it in the Café. Who wrote it? It was Ada."
LONG_DOCUMENT = " ".join([DOCUMENT, "Who is it?", "The Café is in it."] * 6)
GOLDEN_SOURCE, GOLDEN_TARGET, GOLDEN_IDS = [2, 5, 6, 3], [2, 7, 8], list(range(10))


@cache
def graphs(seed: int, vocabulary: int, end: int) -> Seq2SeqGraphs:
    """Graphs of a random model that reads its source, hesitates, and ends."""
    model = tiny_bart(seed=seed, decoder_layers=2, vocabulary=vocabulary)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            for attention in (layer.self_attn, layer.encoder_attn):
                attention.q_proj.weight *= 4
                attention.out_proj.weight *= 4
        model.model.decoder.embed_positions.weight *= 0.4
        for parameter in model.model.decoder.layers[-1].final_layer_norm.parameters():
            parameter *= 0.3
    model.final_logits_bias[0, :end] -= 6
    model.final_logits_bias[0, end] += 2
    return to_onnx(model)


def write_summarizer(
    folder: Path, *, variant: str = "dense", seed: int = 0, tokenizer: Tokenizer | None = None, mapped: bool = False, **settings: Any
) -> Path:
    """A whole artifact.

    Args:
        folder: `<name>/<variant>/`.
        variant: its name.
        seed: of its weights.
        tokenizer: BERT's kind without it.
        mapped: whether output ids are not the tokenizer's.
        settings: the model's defaults of decoding.
    """
    tokenizer = tokenizer or builders.bert_tokenizer()
    spaced, size = tokenizer.token_to_id("[SEP]") is not None, tokenizer.get_vocab_size()
    start, end = (2, 3) if spaced else (2, 2)
    folder.mkdir(parents=True)
    made = graphs(seed, size, end)
    (folder / ENCODER_GRAPH_NAME).write_bytes(made.encoder.SerializeToString())
    (folder / DECODER_GRAPH_NAME).write_bytes(made.decoder.SerializeToString())
    tokenizer.save(str(folder / "tokenizer.json"))
    if mapped:
        (folder / OUTPUT_IDS_NAME).write_text(json.dumps([*range(4), *reversed(range(4, size))]))
    generation = {
        "start": start,
        "end": [end],
        "forced_last": end,
        "padding": 0 if spaced else 1,
        "source_length": LONGEST,
        "target_length": LONGEST,
        "settings": {"max_new_tokens": 12, "no_repeat_ngram_size": 2, **settings},
        "output_ids": OUTPUT_IDS_NAME if mapped else None,
        "decoder_layers": [{"heads": 4, "cross_heads": 4, "intermediate": 29}] * 2,
        "restore_case": spaced,
    }
    manifest = builders.manifest_for(
        SUMMARIZATION,
        schema_version="1.1",
        name=folder.parent.name,
        variant=variant,
        family="bart",
        max_length=LONGEST,
        generation=generation,
        golden=_golden(made),
        files=hash_files(folder),
    )
    write_manifest(manifest, folder)
    return folder


def _golden(made: Seq2SeqGraphs) -> Golden:
    sessions = OnnxSession(made.encoder.SerializeToString()), DecoderSession(made.decoder.SerializeToString())
    logits = logits_of(*sessions, GOLDEN_SOURCE, GOLDEN_TARGET)[:, GOLDEN_IDS]
    inputs = {"input_ids": [GOLDEN_SOURCE], "decoder_input_ids": [GOLDEN_TARGET], "output_ids": [GOLDEN_IDS]}
    return Golden(inputs=inputs, outputs={"logits": [np.ravel(logits).tolist()]}, tolerance=1e-3)
