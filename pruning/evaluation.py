"""Accuracy of an artifact, through the engine that serves it: one request for each example, so what is evaluated is what is served.
Summaries are decoded together, as the service does it.

An `Evaluation` keeps what every example scored, so that two artifacts can be compared later, example by example, without running either
again. Values are in percent, with bootstrap 95 % intervals; how examples are scored is in `metrics.py`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from tqdm import tqdm

from pruning.errors import DataError
from pruning.examples import Example, QuestionExample, SummaryExample, TextExample
from pruning.metrics import (
    Scores,
    best_threshold,
    class_f1,
    difference_interval,
    interval,
    mean_of,
    rouge_scores,
    squad_v1_scores,
    squad_v2_scores,
)
from pruning.storage import write_text_atomic
from service.artifact import Difference, Manifest, Metric
from service.errors import RequestError
from service.runtime.machine import core_count
from service.tasks.classify import ClassifyRequest, ClassifyResponse
from service.tasks.qa import QuestionRequest, QuestionResponse
from service.tasks.summarize import SummarizeRequest, SummarizeResponse

DECODED_TOGETHER = 16
"""Documents of a thread: the more rows a step of a decoder has, the less each of them costs."""

ExampleKind = TypeVar("ExampleKind", QuestionExample, TextExample, SummaryExample)


class Predictor(Protocol):
    """What evaluation needs of `service.model.Model`: a manifest, and answers from several threads at once."""

    @property
    def manifest(self) -> Manifest:
        """The manifest of the artifact that answers."""

    def predict(self, requests: Sequence[Any]) -> Sequence[Any]:
        """One response for each request, in order."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an artifact answered on a dataset, and how that scored.

    Attributes:
        dataset, split: names of what was evaluated on.
        ids: of the examples, in order.
        predictions: for each example the answer ("" for none), the name of the label, or the summary.
        scores: for each metric, what each example scored.
        metrics: the values with their intervals.
    """

    dataset: str
    split: str
    ids: tuple[str, ...]
    predictions: tuple[str, ...]
    scores: dict[str, Scores]
    metrics: tuple[Metric, ...]

    def save(self, path: Path) -> None:
        """Write all of it as JSON, in one step."""
        scores = {name: (each.numerator.tolist(), each.denominator.tolist()) for name, each in self.scores.items()}
        saved = _Saved(
            dataset=self.dataset, split=self.split, ids=self.ids, predictions=self.predictions, scores=scores, metrics=self.metrics
        )
        write_text_atomic(path, saved.model_dump_json() + "\n")

    @classmethod
    def load(cls, path: Path) -> "Evaluation":
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, or is not an evaluation.
        """
        try:
            saved = _Saved.model_validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); evaluate the artifact first") from error
        except ValidationError as error:
            raise DataError(f"{path}: not a saved evaluation ({error.errors()[0]['msg']}); evaluate the artifact again") from error
        scores = {name: Scores(np.asarray(above), np.asarray(below)) for name, (above, below) in saved.scores.items()}
        return cls(saved.dataset, saved.split, saved.ids, saved.predictions, scores, saved.metrics)

    def compared_with(self, other: "Evaluation", *, against: str) -> tuple[Metric, ...]:
        """The metrics, each with its paired difference from another artifact, named `against`, on the same examples."""
        differences = paired_difference(self, other, against=against)
        return tuple(metric.model_copy(update={"difference": differences.get(metric.name)}) for metric in self.metrics)


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    split: str
    ids: tuple[str, ...]
    predictions: tuple[str, ...]
    scores: dict[str, tuple[list[float], list[float]]]
    metrics: tuple[Metric, ...]


def evaluate(
    model: Predictor,
    examples: Sequence[Example],
    *,
    dataset: str,
    split: str,
    positive_label: int | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Answer every example with `model` and score the answers.

    Args:
        model: an artifact loaded by `service.model.load_model`.
        examples: questions, texts or documents, whichever the artifact's task takes. Where any question has no answer, questions are
            scored as SQuAD v2.0 and the model may answer nothing; otherwise as v1.1, and it always answers.
        dataset, split: names for the metrics.
        positive_label: classification: index of the label whose F1 is also given (1 for QQP).
        threads: concurrent callers; by default as many as this process may use cores.
        progress: show a bar on standard error.

    Raises:
        DataError: no examples, or examples that do not fit the artifact.
    """
    if model.manifest.task == "question-answering":
        questions = _only(examples, QuestionExample, model.manifest)
        answerable = [bool(example.answers) for example in questions]
        responses = _ask(model, questions, handle_no_answer=not all(answerable), threads=threads, progress=progress)
        predictions = [_text(response) for response in responses]
        scores = _squad(predictions, questions, answerable)
    elif model.manifest.task == "summarization":
        documents = _only(examples, SummaryExample, model.manifest)
        predictions = [response.summary for response in _summarize(model, documents, threads=threads, progress=progress)]
        scores = rouge(predictions, documents)
    else:
        texts = _only(examples, TextExample, model.manifest)
        _check_labels(texts, model.manifest.labels, positive_label)
        predictions = [response.labels[0].label for response in _classify(model, texts, threads=threads, progress=progress)]
        scores = _accuracy([model.manifest.labels.index(label) for label in predictions], texts, positive_label)
    return evaluation_of(predictions, scores, examples, dataset=dataset, split=split)


def evaluation_of(
    predictions: Sequence[str], scores: dict[str, Scores], examples: Sequence[Example], *, dataset: str, split: str
) -> Evaluation:
    """What was predicted for the examples, whoever did, with the scores of it."""
    metrics = tuple(_metric(name, each, dataset, split) for name, each in scores.items())
    return Evaluation(dataset, split, tuple(example.id for example in examples), tuple(predictions), scores, metrics)


def rouge(predictions: Sequence[str], examples: Sequence[SummaryExample]) -> dict[str, Scores]:
    """ROUGE-1, -2, -L and -Lsum of a summary of each document, against the best of its references."""
    found = [rouge_scores(prediction, example.summaries) for prediction, example in zip(predictions, examples, strict=True)]
    return {name: mean_of([each[name] for each in found]) for name in found[0]}


def rescored(evaluation: Evaluation, examples: Sequence[SummaryExample], *, split: str) -> Evaluation:
    """What was written for these documents, scored against the summaries that they have here.

    Args:
        evaluation: Of summaries.
        examples: Some of its documents.
        split: Name for the metrics.

    Raises:
        DataError: no documents, or one that was not evaluated.
    """
    written = dict(zip(evaluation.ids, evaluation.predictions, strict=True))
    unknown = [each.id for each in examples if each.id not in written]
    if unknown or not examples:
        raise DataError(
            f"{evaluation.dataset} {evaluation.split}: {unknown[0]!r} was not evaluated" if unknown else "no documents to score"
        )
    predictions = [written[each.id] for each in examples]
    return evaluation_of(predictions, rouge(predictions, examples), examples, dataset=evaluation.dataset, split=split)


def paired_difference(evaluation: Evaluation, other: Evaluation, *, against: str) -> dict[str, Difference]:
    """For each metric of both: `evaluation` minus `other` in points, with a 95 % interval from resampling the examples of both together.

    Raises:
        DataError: they were not evaluated on the same examples.
    """
    if (evaluation.dataset, evaluation.split, evaluation.ids) != (other.dataset, other.split, other.ids):
        raise DataError(
            f"cannot compare {evaluation.dataset} {evaluation.split} ({len(evaluation.ids)} examples) with {other.dataset} {other.split} "
            f"({len(other.ids)} examples) from {against}: expected the same examples in the same order; evaluate both on the same data"
        )
    differences = {}
    for name in (name for name in evaluation.scores if name in other.scores):
        found = difference_interval(evaluation.scores[name], other.scores[name])
        differences[name] = Difference(against=against, value=found.value, low=found.low, high=found.high)
    return differences


def best_null_threshold(
    model: Predictor, examples: Sequence[QuestionExample], *, threads: int | None = None, progress: bool = True
) -> float:
    """The null threshold that gives the best F1 on `examples`, which should be a validation set.

    Every question is answered with its best span once; a threshold then only chooses between that span and no answer.

    Raises:
        DataError: no examples, or none of them without an answer.
    """
    questions = _only(examples, QuestionExample, model.manifest)
    answerable = [bool(example.answers) for example in questions]
    if all(answerable):
        raise DataError("no question without an answer among the examples: a null threshold cannot be chosen on them")
    responses = _ask(model, questions, handle_no_answer=False, threads=threads, progress=progress)
    span_scores = [squad_v2_scores(_text(each), _golds(question))[1] for each, question in zip(responses, questions, strict=True)]
    return best_threshold([response.null_margin for response in responses], span_scores, answerable)


def _ask(
    model: Predictor, examples: Sequence[QuestionExample], *, handle_no_answer: bool, threads: int | None, progress: bool
) -> list[QuestionResponse]:
    def request(example: QuestionExample) -> QuestionRequest:
        return QuestionRequest(question=example.question, context=example.context, handle_no_answer=handle_no_answer)

    return _predict(model, examples, request, threads=threads, progress=progress)


def _classify(model: Predictor, examples: Sequence[TextExample], *, threads: int | None, progress: bool) -> list[ClassifyResponse]:
    def request(example: TextExample) -> ClassifyRequest:
        return ClassifyRequest(text=example.text, text_pair=example.text_pair, top_k=1)

    return _predict(model, examples, request, threads=threads, progress=progress)


def _summarize(model: Predictor, examples: Sequence[SummaryExample], *, threads: int | None, progress: bool) -> list[SummarizeResponse]:
    def request(example: SummaryExample) -> SummarizeRequest:
        return SummarizeRequest(text=example.document)

    return _predict(model, examples, request, threads=threads, progress=progress, together=DECODED_TOGETHER)


def _predict(
    model: Predictor,
    examples: Sequence[Any],
    request: Callable[[Any], Any],
    *,
    threads: int | None,
    progress: bool,
    together: int = 1,
) -> list[Any]:
    """One response for each example, in order; the first error, or Ctrl-C, drops what has not been started."""

    def answer(asked: Sequence[Example]) -> list[Any]:
        try:
            return list(model.predict([request(example) for example in asked]))
        except RequestError as error:
            if len(asked) > 1:
                return [response for example in asked for response in answer([example])]
            raise DataError(f"example {asked[0].id!r} cannot be answered: {error}") from error

    with (
        ThreadPoolExecutor(threads or core_count()) as pool,
        tqdm(total=len(examples), desc="evaluate", unit="row", disable=not progress) as bar,
    ):
        futures: list[Future[list[Any]]] = [
            pool.submit(answer, examples[start : start + together]) for start in range(0, len(examples), together)
        ]
        responses: list[Any] = []
        try:
            for future in futures:
                responses += future.result()
                bar.update(len(responses) - bar.n)
            return responses
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _only(examples: Sequence[Example], kind: type[ExampleKind], manifest: Manifest) -> list[ExampleKind]:
    """The examples, all of them of the kind that the artifact's task takes."""
    chosen = [example for example in examples if isinstance(example, kind)]
    if not examples or len(chosen) != len(examples):
        raise DataError(
            f"{manifest.name}/{manifest.variant} is for {manifest.task}: {len(chosen)} of {len(examples)} examples fit it; "
            "expected at least one, and all of them"
        )
    return chosen


def _check_labels(examples: Sequence[TextExample], labels: Sequence[str], positive_label: int | None) -> None:
    """Labels of the data, and the one whose F1 is wanted, are indices of the artifact's labels."""
    known = f"the artifact's labels are 0 to {len(labels) - 1} ({', '.join(labels)})"
    wrong = next((example for example in examples if not 0 <= example.label < len(labels)), None)
    if wrong is not None:
        raise DataError(f"example {wrong.id!r} has label {wrong.label}, but {known}; evaluate on data with the labels it was trained on")
    if positive_label is not None and not 0 <= positive_label < len(labels):
        raise DataError(f"F1 is asked for label {positive_label}, but {known}")


def _squad(predictions: Sequence[str], examples: Sequence[QuestionExample], answerable: Sequence[bool]) -> dict[str, Scores]:
    """SQuAD's metrics: v1.1's two, or with v2.0's split by whether there is an answer."""
    score = squad_v1_scores if all(answerable) else squad_v2_scores
    pairs = [score(prediction, _golds(example)) for prediction, example in zip(predictions, examples, strict=True)]
    exact, f1 = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scores = {"exact_match": mean_of(exact), "f1": mean_of(f1)}
    if all(answerable):
        return scores
    impossible = [not each for each in answerable]
    split = {
        "has_answer_exact_match": mean_of(exact, answerable),
        "has_answer_f1": mean_of(f1, answerable),
        "no_answer_accuracy": mean_of(f1, impossible),
    }
    return scores | {name: each for name, each in split.items() if each.examples}


def _accuracy(predicted: Sequence[int], examples: Sequence[TextExample], positive_label: int | None) -> dict[str, Scores]:
    """Accuracy, and F1 of one label where it is asked for."""
    labels = [example.label for example in examples]
    scores = {"accuracy": mean_of([float(said == label) for said, label in zip(predicted, labels, strict=True)])}
    return scores if positive_label is None else scores | {"f1": class_f1(predicted, labels, positive_label)}


def _metric(name: str, scores: Scores, dataset: str, split: str) -> Metric:
    found = interval(scores)
    examples = scores.examples if name.startswith(("has_answer", "no_answer")) else len(scores.numerator)
    return Metric(name=name, value=found.value, low=found.low, high=found.high, examples=examples, dataset=dataset, split=split)


def _golds(example: QuestionExample) -> list[str]:
    return [answer.text for answer in example.answers]


def _text(response: QuestionResponse) -> str:
    """The best answer; "" where there is none."""
    return response.answers[0].answer if response.answers else ""
