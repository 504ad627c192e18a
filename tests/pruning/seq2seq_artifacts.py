"""Artifacts of tiny random encoder-decoders, which tests of the service may use as well."""

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pruning.compaction import compact
from pruning.export import ArtifactSpec, export_artifact
from pruning.vocabulary import keep_vocabulary
from service.artifact import Manifest
from tests.pruning.helpers import kill_randomly, tiny_bart

TEXTS = ["the model reads the whole document", "a document is read by the model", "naïve readers — and writers — write the model down"]
KEPT_TOKENS = 262


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte and a few words, `<s> text </s>`, with BART's special tokens."""
    words = ["Ġthe", "Ġmodel", "Ġdocument", "Ġread", "Ġwrite"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *alphabet]
    merges: list[tuple[str, str]] = []
    for word in words:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def summarizer(*, seed: int = 0, pruned: bool = False, reduced: bool = False) -> PreTrainedModel:
    """A random BART that reads what it summarizes, with or without random removals and a smaller output vocabulary."""
    tokenizer = byte_tokenizer()
    model: PreTrainedModel = tiny_bart(seed=seed, decoder_layers=2, vocabulary=len(tokenizer))
    with torch.no_grad():
        model.model.decoder.embed_positions.weight *= 0.4
        model.final_logits_bias[0, 2] += 2
    if pruned:
        kill_randomly(np.random.default_rng(seed), model)
        model = compact(model)
    if reduced:
        keep_vocabulary(model, tokenizer, TEXTS, KEPT_TOKENS)
    return model


def wide_bart() -> PreTrainedModel:
    """A random BART with heads as large as real ones, so that the runtime has the same kernels for it, which looks at all that it reads."""
    model = tiny_bart(seed=1, encoder_layers=1, decoder_layers=2, hidden=384, heads=6, vocabulary=200)
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.encoder_attn.q_proj.weight *= 0.03
    return model


def write_summarizer(folder: Path, model: PreTrainedModel, **changes: object) -> Manifest:
    """The artifact of a tiny model; `changes` are fields of its specification."""
    tokenizer = byte_tokenizer()
    golden = tuple(tokenizer(text[:30], return_tensors="np").data for text in TEXTS[:2])
    facts: dict[str, object] = {
        "name": "tiny",
        "variant": "compact",
        "task": "summarization",
        "family": "bart",
        "max_length": 40,
        "target_length": 12,
        "macs_sequence_length": 20,
        "density": 0.5,
        "golden": golden,
    }
    return export_artifact(model, tokenizer, folder, spec=ArtifactSpec(**{**facts, **changes}))
