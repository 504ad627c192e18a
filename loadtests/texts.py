"""What is asked: requests from a seed, of a stated distribution of lengths, made of our own sentences; or taken from a user's file.

How many tokens a text takes is known only to who answers: the service says so with every answer. A function that asks it is passed in,
so that a text is given words until it has the length that was drawn. Nothing here knows HTTP.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from loadtests.errors import TextsError
from loadtests.lengths import Fixed, Lengths

Inputs = str | dict[str, str]
Count = Callable[[Inputs], int]
Compose = Callable[[random.Random], Callable[[int, int], Inputs]]

_WHO = ("the gardener", "an old cooper", "the ferryman", "her youngest aunt", "a visiting surveyor", "the bell founder", "our neighbour")
_DID = ("mended", "carried", "counted", "painted", "lost", "described", "bought", "measured", "remembered")
_WHAT = ("seven clay pots", "the orchard ladder", "a crate of quinces", "the long hedge", "every wooden gate", "two cherry trees")
_WHERE = ("beside the canal", "behind the school", "in the upper meadow", "near the old station", "under the stone bridge", "at the market")
_WHEN = ("before the first frost", "in the spring of 1911", "one rainy Tuesday", "after the harvest", "late in the evening", "last summer")
_WHY = ("because nobody else would", "for a handful of coins", "although it was late", "with great patience", "and said nothing about it")
CUT = sys.maxsize
_FILLER = "and"
_FILLERS = 0.04
_GUESSES = 4


@dataclass(frozen=True)
class Task:
    """What can be asked of the service.

    Attributes:
        name: as on the command line.
        path: where the service takes it.
        served_as: its name in what the service says of its variants.
        lengths: what is measured where nobody says otherwise.
        slo_ms: in which 99 of 100 answers should come, where nobody says otherwise.
        compose: a maker of texts from a seed; that takes a number of words and of fillers and gives `inputs` of a request.
        columns: names that a file's lines may give each of the fields; the first is the service's own.
        score: name of the metric that stands for its accuracy.
        head: class of transformers that holds a checkpoint of one graph; empty for models that generate.
        parameters: that are sent along, so that there is one right answer.
        counting: parameters beside those, of a request that asks how many tokens a text takes.
    """

    name: str
    path: str
    served_as: str
    lengths: Lengths
    slo_ms: float
    compose: Compose
    columns: Mapping[str, tuple[str, ...]]
    score: str
    head: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    counting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def generates(self) -> bool:
        """Whether its models write their answers token by token: these run in ONNX Runtime alone."""
        return not self.head


@dataclass(frozen=True)
class Texts:
    """Requests of one task.

    Attributes:
        task: its name.
        inputs: of each request.
        tokens: of each, as the service counts them; of all windows.
        origin: where they come from, in words.
    """

    task: str
    inputs: tuple[Inputs, ...]
    tokens: tuple[int, ...]
    origin: str


def own_texts(task: Task, lengths: Lengths, *, count: Count, texts: int, seed: int) -> Texts:
    """Texts of our own sentences.

    Args:
        task: what they are for.
        lengths: of which each text's is drawn.
        count: how many tokens `inputs` takes, and `CUT` for a text that the model would cut: none such is made.
        texts: how many different ones.
        seed: the same one gives the same texts.
    """
    sources = [random.Random(f"{seed} {index}") for index in range(texts)]
    made = [fitted(task.compose(source), count, lengths.draw(source)) for source in sources]
    inputs, tokens = zip(*made, strict=True)
    return Texts(task.name, inputs, tokens, f"own sentences, {lengths} tokens, seed {seed}")


def file_texts(task: Task, path: Path, *, count: Count, texts: int, seed: int) -> Texts:
    """At most so many texts of a file, chosen by the seed, of the lengths that they have.

    The file is JSON as SQuAD has it (for /qa), or JSON lines with the service's own names of fields or those in `Task.columns`.
    """
    rows = read_rows(path, task)
    chosen = tuple(random.Random(seed).sample(rows, min(texts, len(rows))))
    return Texts(task.name, chosen, tuple(map(count, chosen)), f"{path.name}, {len(chosen)} of {len(rows)} texts, seed {seed}")


def fitted(compose: Callable[[int, int], Inputs], count: Count, tokens: int) -> tuple[Inputs, int]:
    """A text whose words take nearly so many tokens, and fillers of a token each the rest; and how many it takes, never more.

    Counting means asking, so what was counted guides the search, and halving is for where that does not help.
    """
    fewest, beyond, taken = 1, tokens + 1, count(compose(1, 0))
    if taken > tokens:
        raise TextsError(f"no text of {tokens} tokens can be made; choose a greater length")
    guess, slack, tries = 3 * tokens // 4, max(2, int(_FILLERS * tokens)), 0
    while tokens - taken > slack and beyond - fewest > 1:
        probe = min(max(guess, fewest + 1), beyond - 1)
        found = count(compose(probe, 0))
        fewest, taken, beyond = (probe, found, beyond) if found <= tokens else (fewest, taken, probe)
        tries += 1
        guess = probe * (tokens - slack // 2) // found if tries < _GUESSES else (fewest + beyond) // 2
    filled = compose(fewest, tokens - taken)
    total = count(filled)
    return (filled, total) if total <= tokens else (compose(fewest, 0), taken)


def estimated_tokens(inputs: Inputs) -> int:
    """About how many tokens a text takes, where nobody says: its words, a full stop for every twelve, and the marks around it."""
    words = sum(len(text.split()) for text in ([inputs] if isinstance(inputs, str) else inputs.values()))
    return words + words // 12 + (2 if isinstance(inputs, str) else 4)


def read_rows(path: Path, task: Task) -> list[Inputs]:
    """`inputs` of every text of a file."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = _squad_rows(json.loads(text)) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TextsError(f"{path}: cannot be read as SQuAD's JSON (.json) or as JSON lines ({type(error).__name__}: {error})") from error
    if not rows:
        raise TextsError(f"{path}: no text in it")
    return [_inputs(row, task, f"{path}, text {number}") for number, row in enumerate(rows, start=1)]


def words(source: random.Random) -> Iterator[str]:
    """Words of our own sentences, without end."""
    while True:
        sentence = " ".join(source.choice(part) for part in (_WHO, _DID, _WHAT, _WHERE, _WHEN, _WHY))
        yield from f"{sentence[0].upper()}{sentence[1:]}.".split()


def _compose_text(source: random.Random) -> Callable[[int, int], str]:
    stream, taken = words(source), list[str]()

    def text(count: int, fillers: int) -> str:
        taken.extend(islice(stream, max(0, count - len(taken))))
        return " ".join([*taken[:count], *[_FILLER] * fillers])

    return text


def _compose_question(source: random.Random) -> Callable[[int, int], Inputs]:
    question = f"Who {source.choice(_DID)} {source.choice(_WHAT)}?"
    text = _compose_text(source)
    return lambda count, fillers: {"question": question, "context": text(count, fillers)}


def _squad_rows(document: Any) -> list[dict[str, str]]:  # noqa: ANN401 - JSON
    paragraphs = [paragraph for article in document["data"] for paragraph in article["paragraphs"]]
    return [{"question": asked["question"], "context": each["context"]} for each in paragraphs for asked in each["qas"]]


def _inputs(row: object, task: Task, where: str) -> Inputs:
    """The task's fields of a row; a task of one field takes the bare text."""
    found = {
        field: next((row[name] for name in names if isinstance(row, dict) and isinstance(row.get(name), str)), None)
        for field, names in task.columns.items()
    }
    missing = [field for field, value in found.items() if not value]
    if missing:
        names = " or ".join(task.columns[missing[0]])
        raise TextsError(f"{where}: no {missing[0]}; expected an object with a text named {names}")
    return next(iter(found.values())) if len(found) == 1 else {field: str(value) for field, value in found.items()}  # type: ignore[return-value]


_GREEDY = {"generate_parameters": {"do_sample": False, "num_beams": 1, "max_new_tokens": 64}}
_COUNTING = {"details": True, "generate_parameters": {**_GREEDY["generate_parameters"], "max_new_tokens": 1}}
_TEXT_TO_SUMMARIZE = {"text": ("text", "document", "article")}

_QUESTION = {"question": ("question",), "context": ("context",)}
_SENTENCE = {"text": ("text", "sentence")}
_QA_HEAD, _CLASSIFY_HEAD = "AutoModelForQuestionAnswering", "AutoModelForSequenceClassification"

TASKS = {
    task.name: task
    for task in (
        Task("qa", "/qa", "question-answering", Fixed(384), 200.0, _compose_question, _QUESTION, "f1", _QA_HEAD),
        Task("classify", "/classify", "text-classification", Fixed(32), 200.0, _compose_text, _SENTENCE, "accuracy", _CLASSIFY_HEAD),
        Task(
            "summarize",
            "/summarize",
            "summarization",
            Fixed(256),
            1500.0,
            _compose_text,
            _TEXT_TO_SUMMARIZE,
            "rougeL",
            parameters=_GREEDY,
            counting=_COUNTING,
        ),
    )
}
"""Summaries are due within 1.5 s: what piles up has to be late before a load of some ten seconds ends, or no rate is ever too high."""
