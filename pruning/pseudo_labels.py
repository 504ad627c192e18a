"""Pseudo-labels: what a teacher writes for the documents of the training data, found by beam search, once.

Sequence-level distillation (Kim & Rush, 2016, arXiv:1606.07947). Generating takes long, so every batch is written down when it is done,
and a rerun goes on behind the last one.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pruning.config import PseudoLabelsConfig
from pruning.examples import SummaryExample

NO_REPEAT = 3


def with_pseudo_labels(examples: Sequence[SummaryExample], written: Sequence[str], *, references: bool) -> list[SummaryExample]:
    """The examples with what was written for each; beside their own summaries, or instead of them."""
    return [
        SummaryExample(each.id, each.document, (*(each.summaries if references else ()), text) if text else each.summaries)
        for each, text in zip(examples, written, strict=True)
    ]


def write_summaries(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    config: PseudoLabelsConfig,
    *,
    path: Path,
    max_length: int,
    target_length: int,
) -> list[str]:
    """A summary of each document, in order; what `path` holds of an interrupted run is taken from there.

    Args:
        model: An encoder-decoder, in evaluation mode.
        tokenizer: Its tokenizer.
        documents: Cut at `max_length` tokens.
        config: How to search.
        path: JSON lines, `[number of the document, summary]` each; written to after every batch.
        max_length: Most tokens of a document.
        target_length: Most tokens of a summary.
    """
    found = _read(path)
    left = sorted((number for number in range(len(documents)) if number not in found), key=lambda number: -len(documents[number]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for at in tqdm(range(0, len(left), config.batch_size), desc="pseudo-labels", unit="batch"):
            numbers = left[at : at + config.batch_size]
            texts = _generate(model, tokenizer, [documents[number] for number in numbers], config, max_length, target_length)
            found |= dict(zip(numbers, texts, strict=True))
            file.write("".join(json.dumps(pair) + "\n" for pair in zip(numbers, texts, strict=True)))
            file.flush()
    return [found[number] for number in range(len(documents))]


def _read(path: Path) -> dict[int, str]:
    """Whole lines of the file; one that was cut short is left out, and taken off so that the next begins on its own."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    path.write_text("".join(whole), encoding="utf-8")
    return dict(map(json.loads, whole))


@torch.no_grad()
def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    config: PseudoLabelsConfig,
    max_length: int,
    target_length: int,
) -> list[str]:
    batch = tokenizer(documents, truncation=True, max_length=max_length, padding=True, return_tensors="pt", verbose=False)
    ids = model.generate(
        input_ids=batch["input_ids"].to(model.device),
        attention_mask=batch["attention_mask"].to(model.device),
        num_beams=config.beams,
        max_new_tokens=target_length,
        no_repeat_ngram_size=NO_REPEAT,
        early_stopping=config.beams > 1,
    )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
