"""Extractive question answering: windows over long contexts, start and end positions, position 0 for "no answer here"."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase
from transformers.modeling_outputs import ModelOutput

from pruning.errors import DataError
from pruning.examples import AnswerSpan, Example, QuestionExample
from pruning.tasks.base import Feature
from service.artifact import TaskName

CHUNK = 1000


class QuestionAnswering:
    """Span extraction (SQuAD: Rajpurkar et al., 2016, arXiv:1606.05250; no answer: arXiv:1806.03822)."""

    name: TaskName = "question-answering"
    auto_class: Any = AutoModelForQuestionAnswering
    targets: tuple[str, ...] = ("start_positions", "end_positions")

    def features(
        self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int = 0, target_length: int = 64
    ) -> list[Feature]:
        """One row per window; a window without the whole answer points to position 0.

        Raises:
            DataError: an example is not a question, or a question leaves no room for the context.
        """
        questions = [e for e in examples if isinstance(e, QuestionExample)]
        if len(questions) != len(examples):
            raise DataError("question answering needs questions with contexts, in SQuAD's format")
        return [
            feature
            for i in range(0, len(questions), CHUNK)
            for feature in _features(questions[i : i + CHUNK], tokenizer, max_length=max_length, stride=stride)
        ]

    def losses(self, outputs: ModelOutput, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        """Mean of the start's and the end's cross entropy, `[batch]`."""
        start = F.cross_entropy(outputs.start_logits.float(), batch["start_positions"], reduction="none", label_smoothing=label_smoothing)
        end = F.cross_entropy(outputs.end_logits.float(), batch["end_positions"], reduction="none", label_smoothing=label_smoothing)
        return (start + end) / 2

    def logits(self, outputs: ModelOutput) -> tuple[Tensor, ...]:
        """Start and end logits, each `[batch, sequence]`."""
        return outputs.start_logits, outputs.end_logits


def _features(
    questions: Sequence[QuestionExample], tokenizer: PreTrainedTokenizerBase, *, max_length: int, stride: int
) -> Iterator[Feature]:
    names = [name for name in tokenizer.model_input_names if name != "attention_mask"]
    try:
        encoded = tokenizer(
            [q.question.strip() for q in questions],
            [q.context for q in questions],
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
    except Exception as error:
        if "truncat" not in str(error).lower() and "stride" not in str(error).lower():
            raise
        raise DataError(
            f"a question leaves no room for its context in {max_length} tokens with stride {stride}: raise max_length"
        ) from None
    for row, source in enumerate(encoded["overflow_to_sample_mapping"]):
        start, end = _target(questions[source].answers, encoded["offset_mapping"][row], encoded.sequence_ids(row))
        ids = {name: encoded[name][row] for name in names}
        yield {**ids, "attention_mask": encoded["attention_mask"][row], "start_positions": start, "end_positions": end}


def _target(answers: Sequence[AnswerSpan], offsets: Sequence[tuple[int, int]], sequence_ids: Sequence[int | None]) -> tuple[int, int]:
    """First and last token of the first gold answer, or (0, 0) if this window does not hold all of it."""
    if not answers:
        return 0, 0
    text = answers[0].text
    first_char, last_char = (
        answers[0].start + len(text) - len(text.lstrip()),
        answers[0].start + len(text.rstrip()),
    )  # spaces are in no token
    inside = [i for i, part in enumerate(sequence_ids) if part == 1 and offsets[i][0] < last_char and offsets[i][1] > first_char]
    covered = inside and offsets[inside[0]][0] <= first_char and offsets[inside[-1]][1] >= last_char
    return (inside[0], inside[-1]) if covered else (0, 0)
