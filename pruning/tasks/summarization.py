"""Summarization: a document goes in, and a decoder is taught each of its summaries, token by token."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from pruning.errors import DataError
from pruning.examples import Example, SummaryExample
from pruning.tasks.base import IGNORED, Feature
from pruning.vocabulary import OutputVocabulary, output_vocabulary
from service.artifact import TaskName

CHUNK = 1000


class Summarization:
    """Sequence to sequence (BART: Lewis et al., 2020, arXiv:1910.13461), one row for each summary of a document."""

    name: TaskName = "summarization"
    auto_class: Any = AutoModelForSeq2SeqLM
    targets: tuple[str, ...] = ("labels",)

    def features(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int = 0, target_length: int = 64
    ) -> list[Feature]:
        """Documents cut at `max_length`, summaries at `target_length`; `stride` is not used.

        `decoder_input_ids` are the labels, one place later, behind the token that decoding starts with.

        Raises:
            DataError: an example is not a document with summaries.
        """
        documents = [e for e in examples if isinstance(e, SummaryExample)]
        if not documents or len(documents) != len(examples):
            raise DataError("summarization needs documents with summaries, as JSON lines or CSV")
        return [
            feature
            for i in range(0, len(documents), CHUNK)
            for feature in _features(documents[i : i + CHUNK], tokenizer, max_length=max_length, target_length=target_length)
        ]

    def losses(self, outputs: ModelOutput, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Cross entropy, mean over the tokens of a summary, `[batch]`."""
        labels = batch["labels"]
        logits = outputs.logits.float().flatten(0, 1)  # [batch * target, vocabulary]; over a middle dimension it is far slower
        each = F.cross_entropy(logits, labels.flatten(), reduction="none", ignore_index=IGNORED, label_smoothing=label_smoothing)
        return each.view_as(labels).sum(-1) / (labels != IGNORED).sum(-1)

    def logits(self, outputs: ModelOutput) -> tuple[Tensor, ...]:
        """Token logits `[batch, target, vocabulary]`."""
        return (outputs.logits,)


def decoding_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """Token that decoding starts with: [CLS] of a tokenizer that has no end of text but [SEP], as BERT's, and BART's end of text."""
    return int(tokenizer.cls_token_id if tokenizer.eos_token_id is None else tokenizer.eos_token_id)


def target_ids(tokenizer: PreTrainedTokenizerBase, summaries: Sequence[str], *, target_length: int) -> list[list[int]]:
    """What the decoder is to write: the summary's tokens with those around it, but for a first one that decoding starts with anyhow."""
    start = decoding_start(tokenizer)
    rows: list[list[int]] = tokenizer(list(summaries), truncation=True, max_length=target_length, verbose=False)["input_ids"]
    return [row[1:] if row[0] == start else row for row in rows]


def in_output_ids(features: Sequence[Feature], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Sequence[Feature]:
    """The rows with what the decoder reads and writes in the ids of a model of a reduced output vocabulary; as they are for others."""
    vocabulary = output_vocabulary(model, tokenizer)
    if vocabulary is None:
        return features
    return [_spelled(feature, vocabulary) for feature in features]


def _spelled(feature: Feature, vocabulary: OutputVocabulary) -> Feature:
    labels, start = vocabulary.to_output(feature["labels"]), vocabulary.to_output(feature["decoder_input_ids"][:1])
    return {**feature, "labels": labels, "decoder_input_ids": [*start, *labels[:-1]]}


def _features(
    documents: Sequence[SummaryExample], tokenizer: PreTrainedTokenizerBase, *, max_length: int, target_length: int
) -> Iterator[Feature]:
    sources = tokenizer([each.document for each in documents], truncation=True, max_length=max_length, verbose=False)["input_ids"]
    pairs = [(source, summary) for source, each in zip(sources, documents, strict=True) for summary in each.summaries]
    targets = target_ids(tokenizer, [summary for _, summary in pairs], target_length=target_length)
    start = decoding_start(tokenizer)
    for (source, _), labels in zip(pairs, targets, strict=True):
        yield {
            "input_ids": source,
            "attention_mask": [1] * len(source),
            "decoder_input_ids": [start, *labels[:-1]],
            "labels": labels,
        }
