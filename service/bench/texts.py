"""What is asked: texts of our own, from a seed, that take exactly so many tokens with the model's own tokenizer.

A load is a model, a length and a number of texts per request. The same texts go to every layer and every peer, and what the model
answers to them in this process is what every server has to answer.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.artifact import TaskName
from service.errors import BenchError, RequestError
from service.model import Model
from service.tasks.base import Request
from service.tasks.classify import ClassifyRequest, ClassifyResponse
from service.tasks.qa import QuestionRequest, QuestionResponse

PATHS: dict[TaskName, str] = {"question-answering": "/qa", "text-classification": "/classify"}
TOKENS: dict[TaskName, int] = {"question-answering": 384, "text-classification": 32}
TEXTS = 16
SCORE_TOLERANCE = 1e-3

_WHO = ("the gardener", "a beekeeper", "the old miller", "her neighbour", "the apprentice", "a travelling botanist", "the head warden")
_DID = ("pruned", "watered", "planted", "sold", "described", "measured", "forgot", "admired")
_WHAT = ("the climbing roses", "two pear trees", "a hedge of box", "the last quinces", "every young vine", "a row of limes")
_WHERE = ("behind the chapel", "near the river", "in the walled garden", "on the south slope", "along the towpath", "at the nursery")
_WHEN = ("in late winter", "before sunrise", "after the long drought", "in 1843", "every other spring", "on a quiet Monday")
_WHY = ("because frost was coming", "although nobody had asked", "with a borrowed secateur", "for almost no money", "to general surprise")
_FILLERS = ("and", "then", "also", "it", "a")
_QUESTION = "Who {did} {what}?"


@dataclass(frozen=True)
class Load:
    """What is asked of one model.

    Attributes:
        name: as tables show it.
        model: its name.
        task: what it does.
        tokens: of each text.
        texts_per_request: how many a request holds.
        bodies: `inputs` of each request, as JSON-like data.
        requests: the same for the engine, one for each text.
    """

    name: str
    model: str
    task: TaskName
    tokens: int
    texts_per_request: int
    bodies: tuple[object, ...]
    requests: tuple[tuple[Request, ...], ...]

    @property
    def path(self) -> str:
        """Where the service takes it."""
        return PATHS[self.task]

    @property
    def tokens_per_request(self) -> int:
        """Of all its texts."""
        return self.tokens * self.texts_per_request

    def messages(self, variant: str | None, path: str | None = None) -> list[tuple[str, str]]:
        """Path and body of each request; for one variant of the service's, or without naming one, for a peer."""
        which = {} if variant is None else {"model": self.model, "variant": variant}
        return [(path or self.path, json.dumps({"inputs": inputs, **which})) for inputs in self.bodies]


def make_load(model: Model, *, texts_per_request: int = 1, tokens: int | None = None, seed: int = 0) -> Load:
    """Requests for a model: `tokens` tokens in each text, or what its task is measured with; no more than it takes."""
    task, name = model.manifest.task, model.manifest.name
    length = min(tokens or TOKENS[task], model.manifest.max_length)
    make = _question if task == "question-answering" else _text
    texts = [make(model, length, random.Random(f"{seed} {index}")) for index in range(TEXTS)]
    groups = [[texts[(index + offset) % TEXTS] for offset in range(texts_per_request)] for index in range(TEXTS)]
    many = f"{texts_per_request} x {length}" if texts_per_request > 1 else f"{length}"
    return Load(
        name=f"{name}, {many} tokens",
        model=name,
        task=task,
        tokens=length,
        texts_per_request=texts_per_request,
        bodies=tuple(_inputs(group) for group in groups),
        requests=tuple(tuple(group) for group in groups),
    )


def expected(load: Load, model: Model) -> list[list[dict[str, Any]]]:
    """The best answer to each text of each request, as this model gives it in this process."""
    return [[_best(model.predict_one(request)) for request in group] for group in load.requests]


def answers_in(document: object) -> list[object]:
    """The best answer for each text in a server's answer: a list of answers, or of lists of answers, best first."""
    entries = document if isinstance(document, list) else [document]
    return [entry[0] if isinstance(entry, list) and entry else entry for entry in entries]


def same(found: object, wanted: dict[str, Any]) -> bool:
    """Whether an answer is the expected one: the same words or label and place, the score to within rounding."""
    if not isinstance(found, dict):
        return False
    exact = all(found.get(name) == value for name, value in wanted.items() if name != "score")
    score = found.get("score")
    return exact and isinstance(score, int | float) and abs(score - wanted["score"]) <= SCORE_TOLERANCE


def same_words(found: object, wanted: dict[str, Any]) -> bool:
    """Whether an answer has the same words or label; others score differently, and only we may say that there is no answer."""
    return isinstance(found, dict) and all(found.get(name) == wanted[name] for name in ("answer", "label") if name in wanted)


def exact_text(count: Callable[[str], int], sentences: Iterator[str], target: int) -> str:
    """Sentences, then single words, until `count` finds exactly `target` tokens."""
    text = ""
    while count(longer := f"{text} {next(sentences)}".strip()) <= target:
        text = longer
    for _ in range(target):
        if text and count(text) == target:
            return text
        text = next((longer for word in _FILLERS if count(longer := f"{text} {word}".strip()) <= target), text)
    raise BenchError(f"no text of exactly {target} tokens was found with this tokenizer; it may not know English words")


def sentences(source: random.Random) -> Iterator[str]:
    """Sentences without end."""
    while True:
        words = [source.choice(part) for part in (_WHO, _DID, _WHAT, _WHERE, _WHEN, _WHY)]
        yield " ".join(words).capitalize() + "."


def _question(model: Model, tokens: int, source: random.Random) -> QuestionRequest:
    question = _QUESTION.format(did=source.choice(_DID), what=source.choice(_WHAT))

    def request(context: str) -> QuestionRequest:
        return QuestionRequest(question=question, context=context)

    return request(exact_text(lambda context: _tokens(model, request(context)), sentences(source), tokens))


def _text(model: Model, tokens: int, source: random.Random) -> ClassifyRequest:
    # One token more than asked for tells a text that is cut from one that fits.
    cut = model.manifest.max_length

    def count(text: str) -> int:
        rows = model.rows(ClassifyRequest(text=text))
        return cut + 1 if rows[0].truncated else len(rows[0])

    return ClassifyRequest(text=exact_text(count, sentences(source), tokens))


def _tokens(model: Model, request: Request) -> int:
    """Of all rows, so that a text that takes two windows has more than one that fills a window."""
    try:
        return sum(map(len, model.rows(request)))
    except RequestError as error:
        raise BenchError(f"the model takes no question of this length ({error})") from error


def _inputs(group: Sequence[Request]) -> object:
    """`inputs` of a request's body."""
    texts = [_input(request) for request in group]
    return texts if len(texts) > 1 else texts[0]


def _input(request: Request) -> object:
    if isinstance(request, QuestionRequest):
        return {"question": request.question, "context": request.context}
    return request.text if isinstance(request, ClassifyRequest) else request.model_dump()


def _best(response: object) -> dict[str, Any]:
    if isinstance(response, QuestionResponse):
        return response.answers[0].model_dump()
    if isinstance(response, ClassifyResponse):
        return response.labels[0].model_dump()
    raise BenchError(f"{type(response).__name__} is an answer that the benchmark does not know")
