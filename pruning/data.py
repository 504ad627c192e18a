"""Datasets: a hub name or a local file becomes a list of examples; the first thing that a run's data meets.

`data_sources` finds and reads the rows, `examples` makes examples of them. Every problem is a `DataError` in one line that names the
file, what was found and what was expected.
"""

import random
from collections.abc import Iterable, Iterator, Sequence

from pruning.config import DataSource
from pruning.data_sources import rows_of
from pruning.distractors import with_distractors, with_wrong_paragraphs
from pruning.errors import DataError
from pruning.examples import Example, QuestionExample, documents_of, examples_of


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
        where, rows = rows_of(source)
        found: Iterator[object] = (
            documents_of(rows, where, source) if source.copy_target else examples_of(rows, where, source, task, labels=labels, seed=0)
        )
        if not sum(1 for _ in found):
            raise DataError(f"{where}: no examples in it")


def load_source(source: DataSource, task: str, *, labels: Sequence[str] = (), seed: int = 17) -> list[Example]:
    """The examples of one source; see `load_examples`."""
    where, rows = rows_of(source)
    examples = list(examples_of(rows, where, source, task, labels=labels, seed=seed))
    if not examples:
        raise DataError(f"{where}: no examples in it")
    if source.limit is not None and source.limit < len(examples):
        examples = random.Random(seed).sample(examples, source.limit)
    if source.distractors and task == "question-answering":
        examples = with_distractors([e for e in examples if isinstance(e, QuestionExample)], source.distractors, seed=seed)
    if source.wrong_paragraphs and task == "question-answering":
        examples = with_wrong_paragraphs([e for e in examples if isinstance(e, QuestionExample)], source.wrong_paragraphs, seed=seed)
    return examples
