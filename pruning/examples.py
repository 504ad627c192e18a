"""What a run's data is made of: the examples of each task, and how a row of named columns becomes one.

What does not fit is a `DataError` in one line that names where the row is, what was found and what was expected.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pruning.config import DataSource
from pruning.errors import DataError

TEXT_COLUMNS = ("text", "sentence", "premise", "question1", "sentence1")
PAIR_COLUMNS = {"premise": "hypothesis", "question1": "question2", "sentence1": "sentence2"}
DOCUMENT_COLUMNS = ("document", "article", "text", "context")
SUMMARY_COLUMNS = ("summaries", "summary", "highlights")


@dataclass(frozen=True)
class AnswerSpan:
    """A gold answer and where it starts, in code points of the context."""

    text: str
    start: int


@dataclass(frozen=True)
class QuestionExample:
    """A question about a context; no answers means that it cannot be answered from it."""

    id: str
    question: str
    context: str
    answers: tuple[AnswerSpan, ...]


@dataclass(frozen=True)
class TextExample:
    """A text, or a pair of texts, with the index of its label."""

    id: str
    text: str
    text_pair: str | None
    label: int


@dataclass(frozen=True)
class SummaryExample:
    """A document with its summaries, by one author each."""

    id: str
    document: str
    summaries: tuple[str, ...]


Example = QuestionExample | TextExample | SummaryExample


def examples_of(
    rows: Iterable[dict[str, Any]], where: str, source: DataSource, task: str, *, labels: Sequence[str], seed: int
) -> Iterator[Example]:
    """The examples that rows hold, one after the other.

    Args:
        rows: with named columns.
        where: what to call the source in messages.
        source: names its columns where they are not the usual ones.
        task: `question-answering`, `text-classification` or `summarization`.
        labels: classification: label names by index.
        seed: of `passages`.

    Raises:
        DataError: a row does not fit the task.
    """
    if task == "question-answering":
        return _questions(rows, where)
    if task == "text-classification":
        return _texts(rows, where, source, labels)
    if source.copy_target is not None:
        return _copies(rows, where, source, seed=seed)
    return _summaries(rows, where, source)


def documents_of(rows: Iterable[dict[str, Any]], where: str, source: DataSource) -> Iterator[str]:
    """The documents that rows hold, whether or not they have summaries; `DataError` where there is none."""
    for index, row in enumerate(rows):
        yield _text(row, _column(row, where, source.document, DOCUMENT_COLUMNS, "document"), where, index)


def _questions(rows: Iterable[dict[str, Any]], where: str) -> Iterator[QuestionExample]:
    for index, row in enumerate(rows):
        for column in ("question", "context", "answers"):
            if column not in row:
                raise DataError(f"{where}: row {index} has no column {column!r}; expected SQuAD's question, context, answers")
            if column != "answers" and not isinstance(row[column], str):
                raise DataError(f"{where}: row {index} has no text in column {column!r}, but {row[column]!r}")
        spans = _spans(row["answers"], where, index)
        for span in spans:
            if span.start < 0 or row["context"][span.start : span.start + len(span.text)] != span.text:
                raise DataError(f"{where}: question {row.get('id', index)!r}: the context does not hold {span.text!r} at {span.start}")
        yield QuestionExample(str(row.get("id", index)), row["question"], row["context"], spans)


def _spans(answers: Any, where: str, index: int) -> tuple[AnswerSpan, ...]:  # noqa: ANN401 - JSON, checked here
    """Gold answers, from the hub's two lists or from SQuAD's list of objects."""
    try:
        if isinstance(answers, list):
            return tuple(AnswerSpan(str(a["text"]), int(a["answer_start"])) for a in answers)
        return tuple(AnswerSpan(str(text), int(start)) for text, start in zip(answers["text"], answers["answer_start"], strict=True))
    except (KeyError, TypeError, ValueError):
        raise DataError(f"{where}: row {index}: column 'answers' does not hold `text` and `answer_start` of each answer") from None


def _texts(rows: Iterable[dict[str, Any]], where: str, source: DataSource, labels: Sequence[str]) -> Iterator[TextExample]:
    columns: tuple[str, str | None] | None = None
    for index, row in enumerate(rows):
        columns = columns or _columns(row, where, source)
        text, pair = columns
        missing = [c for c in (text, pair, source.label) if c is not None and row.get(c) is None]
        if missing:
            raise DataError(f"{where}: row {index} has no value in column {missing[0]!r}")
        yield TextExample(
            str(row.get("id", row.get("idx", index))),
            str(row[text]),
            str(row[pair]) if pair else None,
            _label(row[source.label], where, index, labels),
        )


def _columns(row: dict[str, Any], where: str, source: DataSource) -> tuple[str, str | None]:
    text = source.text or next((name for name in TEXT_COLUMNS if name in row), None)
    pair = source.text_pair or PAIR_COLUMNS.get(text or "")
    wanted = [text or "text", *([pair] if pair else []), source.label]
    for column in wanted:
        if column not in row:
            raise DataError(
                f"{where}: no column {column!r}; it has {', '.join(map(str, row))}; name the columns in the recipe or rename them"
            )
    return str(text), pair


def _label(value: Any, where: str, index: int, labels: Sequence[str]) -> int:  # noqa: ANN401 - JSON, checked here
    if isinstance(value, str) and value in labels:
        return list(labels).index(value)
    try:
        number: int = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if isinstance(value, float) and value != number:
        number = -1
    if number < 0 or (labels and number >= len(labels)):
        expected = f"0 to {len(labels) - 1}, or one of {', '.join(labels)}" if labels else "an index from 0"
        raise DataError(f"{where}: row {index} has label {value!r}; expected {expected}")
    return number


def _summaries(rows: Iterable[dict[str, Any]], where: str, source: DataSource) -> Iterator[SummaryExample]:
    for index, row in enumerate(rows):
        document = _column(row, where, source.document, DOCUMENT_COLUMNS, "document")
        summary = _column(row, where, source.summary, SUMMARY_COLUMNS, "summary")
        found = row[summary]
        summaries = tuple(
            each.strip() for each in (found if isinstance(found, list) else [found]) if isinstance(each, str) and each.strip()
        )
        if not summaries:
            raise DataError(f"{where}: row {index} has no summary in column {summary!r}, but {found!r}; expected a text or a list of texts")
        yield SummaryExample(str(row.get("id", index)), _text(row, document, where, index), summaries)


def _copies(rows: Iterable[dict[str, Any]], where: str, source: DataSource, *, seed: int) -> Iterator[SummaryExample]:
    from pruning.copying import copies  # nltk is slow to import, and not needed elsewhere

    assert source.copy_target is not None
    for index, document in enumerate(dict.fromkeys(documents_of(rows, where, source))):
        for number, (passage, target) in enumerate(copies(document, kind=source.copy_target, passages=source.passages, seed=seed + index)):
            yield SummaryExample(f"{index}/{number}", passage, (target,))


def _column(row: dict[str, Any], where: str, named: str | None, usual: Sequence[str], kind: str) -> str:
    column = named or next((name for name in usual if name in row), usual[0])
    if column not in row:
        raise DataError(f"{where}: no column {column!r}; it has {', '.join(map(str, row))}; name the {kind}'s column in the recipe")
    return column


def _text(row: dict[str, Any], column: str, where: str, index: int) -> str:
    if not isinstance(row[column], str) or not row[column].strip():
        raise DataError(f"{where}: row {index} has no text in column {column!r}, but {row[column]!r}")
    return str(row[column])
