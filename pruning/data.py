"""Datasets: a hub name or a local file becomes a list of examples; the first thing that a run's data meets.

Local files are SQuAD JSON (v1.1 and v2.0) for question answering, and JSON lines or CSV for classification and summarization. Every
problem is a `DataError` in one line that names the file, what was found and what was expected.
"""

import csv
import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pruning.config import DataSource
from pruning.errors import DataError

PACKAGE = Path(__file__).parent
TEXT_COLUMNS = ("text", "sentence", "premise", "question1", "sentence1")
PAIR_COLUMNS = {"premise": "hypothesis", "question1": "question2", "sentence1": "sentence2"}
DOCUMENT_COLUMNS = ("document", "article", "text", "context")
SUMMARY_COLUMNS = ("summaries", "summary", "highlights")
SHARED_WORDS = 16
_WORD = re.compile(r"\w+")


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


def load_examples(sources: Iterable[DataSource], task: str, *, labels: Sequence[str] = (), seed: int = 17) -> list[Example]:
    """All examples of the sources, in order.

    Args:
        sources: read one after the other.
        task: `question-answering`, `text-classification` or `summarization`.
        labels: classification: label names by index; labels in the data are checked against them.
        seed: of `limit`, `passages`, `distractors` and `wrong_paragraphs`.

    Raises:
        DataError: a source cannot be read or does not fit the task.
    """
    return [example for source in sources for example in load_source(source, task, labels=labels, seed=seed)]


def check_sources(sources: Iterable[DataSource], task: str, *, labels: Sequence[str] = ()) -> None:
    """Read the sources as `load_examples` does, and keep nothing: what is wrong with them is said before hours of work.

    Raises:
        DataError: a source cannot be read or does not fit the task.
    """
    for source in sources:
        where, rows = _rows(source, task)
        found: Iterator[object] = (
            _documents(rows, where, source) if source.copy_target else _examples(rows, where, source, task, labels=labels, seed=0)
        )
        if not sum(1 for _ in found):
            raise DataError(f"{where}: no examples in it")


def load_source(source: DataSource, task: str, *, labels: Sequence[str] = (), seed: int = 17) -> list[Example]:
    """The examples of one source; see `load_examples`."""
    where, rows = _rows(source, task)
    examples = list(_examples(rows, where, source, task, labels=labels, seed=seed))
    if not examples:
        raise DataError(f"{where}: no examples in it")
    if source.limit is not None and source.limit < len(examples):
        examples = random.Random(seed).sample(examples, source.limit)
    if source.distractors and task == "question-answering":
        examples = with_distractors([e for e in examples if isinstance(e, QuestionExample)], source.distractors, seed=seed)
    if source.wrong_paragraphs and task == "question-answering":
        examples = with_wrong_paragraphs([e for e in examples if isinstance(e, QuestionExample)], source.wrong_paragraphs, seed=seed)
    return examples


def _examples(
    rows: Iterable[dict[str, Any]], where: str, source: DataSource, task: str, *, labels: Sequence[str], seed: int
) -> Iterator[Example]:
    if task == "question-answering":
        return _questions(rows, where)
    if task == "text-classification":
        return _texts(rows, where, source, labels)
    if source.copy_target is not None:
        return _copies(rows, where, source, seed=seed)
    return _summaries(rows, where, source)


def source_name(source: DataSource) -> str:
    """Name of the source in reports and manifests."""
    if source.name:
        return source.name
    if source.hub:
        return f"{source.hub}/{source.config}" if source.config else source.hub
    return Path(source.path or "").stem


def with_distractors(examples: Sequence[QuestionExample], count: int, *, seed: int) -> list[Example]:
    """Put `count` other contexts of the list around each one, in random order, so that the answer has to be found among them.

    A context that holds any of the gold answers is not taken; answers keep their place in their own context.
    """
    rng = random.Random(seed)
    contexts = sorted({e.context for e in examples})
    return [_among_others(example, contexts, count, rng) for example in examples]


def _among_others(example: QuestionExample, contexts: Sequence[str], count: int, rng: random.Random) -> QuestionExample:
    drawn = [context for context in (_unrelated(example, contexts, rng) for _ in range(count)) if context is not None]
    place = rng.randint(0, len(drawn))
    before = "".join(f"{context} " for context in drawn[:place])
    after = "".join(f" {context}" for context in drawn[place:])
    answers = tuple(replace(answer, start=answer.start + len(before)) for answer in example.answers)
    return replace(example, context=before + example.context + after, answers=answers)


def with_wrong_paragraphs(examples: Sequence[QuestionExample], share: float, *, seed: int) -> list[Example]:
    """Add questions paired with a paragraph that does not contain their answers, until they are `share` of the result.

    The paragraph is drawn from the others of the list; one that holds any of the gold answers is not taken.
    """
    rng = random.Random(seed)
    answerable = [e for e in examples if e.answers]
    contexts = sorted({e.context for e in examples})
    wanted = round(len(examples) * share / (1 - share))
    added: list[Example] = []
    for example in rng.sample(answerable, min(wanted, len(answerable))):
        context = _unrelated(example, contexts, rng)
        if context is not None:
            added.append(replace(example, id=f"{example.id}/wrong-paragraph", context=context, answers=()))
    return [*examples, *added]


def _unrelated(example: QuestionExample, contexts: Sequence[str], rng: random.Random) -> str | None:
    gold = [answer.text.lower() for answer in example.answers]
    for _ in range(20):
        context = rng.choice(contexts)
        lowered = context.lower()
        if context != example.context and not any(text in lowered for text in gold):
            return context
    return None


def without_documents(examples: Sequence[Example], held_out: Iterable[Example]) -> list[Example]:
    """The examples whose document shares no passage with those held out; examples of other tasks all stay.

    A passage is `SHARED_WORDS` words in a row, whatever their case and the signs between them. The examples' documents are looked at from
    every `SHARED_WORDS // 2`-th word on, so that a passage half as long again is always found.
    """
    known = {passage for each in held_out if isinstance(each, SummaryExample) for passage in _passages_of(each.document, step=1)}
    documents = {each.document for each in examples if isinstance(each, SummaryExample)}
    shared = {text for text in documents if not known.isdisjoint(_passages_of(text, step=SHARED_WORDS // 2))} if known else set()
    return [each for each in examples if not (isinstance(each, SummaryExample) and each.document in shared)]


def unseen_summaries(examples: Iterable[Example], trained: Iterable[Example]) -> list[SummaryExample]:
    """The documents with the summaries that no training document has for a target; a document left with none is left out.

    Summaries are the same when their words are, whatever their case and the signs between them.
    """
    seen = {_words(text) for each in trained if isinstance(each, SummaryExample) for text in each.summaries}
    unseen = [
        replace(each, summaries=tuple(text for text in each.summaries if _words(text) not in seen))
        for each in examples
        if isinstance(each, SummaryExample)
    ]
    return [each for each in unseen if each.summaries]


def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text.lower()))


def _passages_of(text: str, *, step: int) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    for start in range(0, max(1, len(words) - SHARED_WORDS + 1), step):
        yield " ".join(words[start : start + SHARED_WORDS])


def _rows(source: DataSource, task: str) -> tuple[str, Iterator[dict[str, Any]]]:
    path = find_file(source.path) if source.path else None
    if path is not None:
        return str(path), _file_rows(path, task)
    if source.hub is None:
        looked = f" (also looked in SECATEUR_DATA={os.environ['SECATEUR_DATA']})" if "SECATEUR_DATA" in os.environ else ""
        raise DataError(f"{source.path}: no such file{looked}; give a path that exists, or a hub dataset")
    return f"hub dataset {source_name(source)}, split {source.split}", _hub_rows(source)


def find_file(path: str) -> Path | None:
    """The file at `path`: from here, from the folder that SECATEUR_DATA names, or from this package (`samples/`); None if nowhere."""
    candidates = [Path(path)]
    if "SECATEUR_DATA" in os.environ:
        candidates.append(Path(os.environ["SECATEUR_DATA"]) / path)  # an absolute path stays what it is
    candidates.append(PACKAGE / path)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _hub_rows(source: DataSource) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset  # slow to import, and not needed for local files

    try:
        dataset = load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError, RuntimeError) as error:
        # what datasets and the hub's client derive from: not found, offline, no such split
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise DataError(
            f"hub dataset {source_name(source)}, split {source.split}: cannot be loaded ({reason}); "
            "check the name and the network, or set `path`"
        ) from None
    return iter(dataset)


def _file_rows(path: Path, task: str) -> Iterator[dict[str, Any]]:
    try:
        if path.suffix == ".json":
            yield from _squad_rows(json.loads(path.read_text(encoding="utf-8")), path)
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _json_line(line, path, number)
        elif path.suffix == ".csv":
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file, strict=True)
        else:
            raise DataError(f"{path}: unknown kind of file; expected .json (SQuAD), .jsonl or .csv")
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def _json_line(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number} is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(row, dict):
        raise DataError(f"{path}: line {number} is not a JSON object; expected one object with named columns a line")
    return row


def _squad_rows(content: object, path: Path) -> Iterator[dict[str, Any]]:
    if not isinstance(content, dict) or not isinstance(content.get("data"), list):
        raise DataError(f"{path}: not SQuAD JSON: expected an object with a list `data` of articles")
    try:
        for article in content["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [] if question.get("is_impossible") else question["answers"]
                    yield {
                        "id": question["id"],
                        "question": question["question"],
                        "context": paragraph["context"],
                        "answers": {"text": [a["text"] for a in answers], "answer_start": [a["answer_start"] for a in answers]},
                    }
    except KeyError as error:
        raise DataError(f"{path}: not SQuAD JSON: an article, paragraph, question or answer lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{path}: not SQuAD JSON: an article, paragraph, question or answer is not what it should be ({error})") from None


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
    for index, document in enumerate(dict.fromkeys(_documents(rows, where, source))):
        for number, (passage, target) in enumerate(copies(document, kind=source.copy_target, passages=source.passages, seed=seed + index)):
            yield SummaryExample(f"{index}/{number}", passage, (target,))


def _documents(rows: Iterable[dict[str, Any]], where: str, source: DataSource) -> Iterator[str]:
    for index, row in enumerate(rows):
        yield _text(row, _column(row, where, source.document, DOCUMENT_COLUMNS, "document"), where, index)


def _column(row: dict[str, Any], where: str, named: str | None, usual: Sequence[str], kind: str) -> str:
    column = named or next((name for name in usual if name in row), usual[0])
    if column not in row:
        raise DataError(f"{where}: no column {column!r}; it has {', '.join(map(str, row))}; name the {kind}'s column in the recipe")
    return column


def _text(row: dict[str, Any], column: str, where: str, index: int) -> str:
    if not isinstance(row[column], str) or not row[column].strip():
        raise DataError(f"{where}: row {index} has no text in column {column!r}, but {row[column]!r}")
    return str(row[column])


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
