"""Accuracy of an artifact, through the engine that serves it; here a small fake stands in for the engine."""

import random
import time
from dataclasses import replace

import numpy as np
import pytest

from pruning.errors import DataError
from pruning.evaluation import Evaluation, best_null_threshold, evaluate, evaluation_of, paired_difference, rescored, rouge
from pruning.examples import AnswerSpan, QuestionExample, SummaryExample, TextExample
from service.artifact import Counts, GenerationInfo, Golden, LayerShape, Macs, Manifest
from service.errors import RequestError
from service.tasks.classify import ClassifyResponse, LabelScore
from service.tasks.qa import Answer, QuestionResponse
from service.tasks.summarize import SummarizeResponse

LABELS = ("negative", "positive")
GENERATION = GenerationInfo(start=0, end=(1,), padding=0, source_length=64, target_length=8, decoder_layers=())


def _manifest(task, labels=(), generation=None):
    return Manifest(
        schema_version="1.0",
        name="tiny",
        variant="compact",
        task=task,
        family="bert",
        precision="fp32",
        opset=17,
        labels=labels,
        generation=generation,
        max_length=64,
        stride=16,
        layers=(LayerShape(heads=2, intermediate=8),),
        head_size=4,
        hidden_size=8,
        parameters=Counts(encoder=1, embeddings=1, total=2),
        macs=Macs(encoder=1, embeddings=0, total=1, sequence_length=64),
        density=1.0,
        files={},
        golden=Golden(inputs={}, outputs={}, tolerance=1e-3),
        recipe="",
        producer="tests",
    )


class FakeClassifier:
    """Says the label that the text names, after a moment that differs from row to row."""

    def __init__(self):
        """Start having answered nothing."""
        self.manifest = _manifest("text-classification", LABELS)
        self.answered = 0

    def predict(self, requests):
        """One response for each request."""
        self.answered += len(requests)
        if not requests[0].text.strip():
            raise RequestError("text is empty; send some text")
        time.sleep(random.random() / 500)
        return [ClassifyResponse(labels=[LabelScore(label=request.text.split()[0], score=1.0)]) for request in requests]


class FakeSummarizer:
    """Writes a document's first word; knows how many were asked for at once."""

    def __init__(self):
        """Start having answered nothing."""
        self.manifest = _manifest("summarization", generation=GENERATION)
        self.together = []

    def predict(self, requests):
        """One response for each request, or an error if one of them cannot be answered."""
        self.together.append(len(requests))
        if not all(request.text.strip() for request in requests):
            raise RequestError("text is empty; send some text")
        return [
            SummarizeResponse(summary=request.text.split()[0], finish_reason="eos", generated_tokens=1, windows=1) for request in requests
        ]


class FakeReader:
    """Answers with the context's first word, or with nothing where it may and the context says so."""

    def __init__(self, margins=None):
        """Take null margins by question; 0 for the others."""
        self.manifest = _manifest("question-answering")
        self.margins = margins or {}

    def predict(self, requests):
        """One response for each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        word = request.context.split()[0]
        text = "" if request.handle_no_answer and word == "nothing" else word
        return QuestionResponse(
            answers=[Answer(answer=text, score=1.0, start=0, end=len(text))],
            no_answer_score=0.0,
            null_margin=self.margins.get(request.question, 0.0),
            windows=1,
        )


def _texts(*pairs):
    return [TextExample(str(index), text, None, label) for index, (text, label) in enumerate(pairs)]


def _question(context, *answers, question="who?"):
    return QuestionExample(context, question, context, tuple(AnswerSpan(answer, 0) for answer in answers))


def _run(model, examples, **options):
    return evaluate(model, examples, dataset="made-up", split="validation", progress=False, **options)


def _values(evaluation):
    return {metric.name: metric.value for metric in evaluation.metrics}


def test_order_is_kept_under_threads():
    """Predictions stand in the order of the examples, whichever finishes first."""
    examples = _texts(*((LABELS[index % 3 == 0], 0) for index in range(60)))
    assert _run(FakeClassifier(), examples, threads=8).predictions == tuple(example.text for example in examples)


def test_accuracy_and_f1_of_a_label():
    """Accuracy is over all examples; F1 is of the label asked for."""
    examples = _texts(("positive", 1), ("positive", 1), ("positive", 0), ("negative", 1), ("negative", 0))
    assert _values(_run(FakeClassifier(), examples, positive_label=1)) == pytest.approx({"accuracy": 60.0, "f1": 200 / 3})


def test_f1_is_given_only_when_asked():
    """Without a positive label there is accuracy alone."""
    assert list(_values(_run(FakeClassifier(), _texts(("positive", 1))))) == ["accuracy"]


def test_squad_v1_metrics():
    """Where every question has an answer, the two metrics of v1.1 are given, and the model must answer."""
    found = _run(FakeReader(), [_question("Paris is far", "the Paris"), _question("nothing here", "nothing here")])
    assert found.predictions == ("Paris", "nothing")
    assert _values(found) == pytest.approx({"exact_match": 50.0, "f1": (100 + 200 / 3) / 2})


def test_squad_v2_metrics():
    """Where a question has no answer, the model may answer nothing, and both kinds of question are scored apart."""
    examples = [_question("Paris is far", "Paris"), _question("nothing here"), _question("Rome is not it"), _question("nothing", "nothing")]
    found = _run(FakeReader(), examples)
    assert found.predictions == ("Paris", "", "Rome", "")
    assert _values(found) == {
        "exact_match": 50.0,
        "f1": 50.0,
        "has_answer_exact_match": 50.0,
        "has_answer_f1": 50.0,
        "no_answer_accuracy": 50.0,
    }


def test_metrics_of_a_part_say_how_many_examples_they_count():
    """The number of examples beside a metric is of those that it counts."""
    found = _run(FakeReader(), [_question("Paris", "Paris"), _question("nothing"), _question("Rome")])
    examples = {metric.name: metric.examples for metric in found.metrics}
    assert (examples["f1"], examples["has_answer_f1"], examples["no_answer_accuracy"]) == (3, 1, 2)


def test_label_that_the_artifact_has_not_is_refused():
    """A label past the artifact's is one line that names the labels, before anything runs."""
    model = FakeClassifier()
    with pytest.raises(DataError, match=r"label 2, but the artifact's labels are 0 to 1 \(negative, positive\)"):
        _run(model, _texts(("positive", 1), ("positive", 2)))
    assert model.answered == 0


def test_positive_label_that_the_artifact_has_not_is_refused():
    """F1 of a label that does not exist is refused."""
    with pytest.raises(DataError, match="F1 is asked for label 5"):
        _run(FakeClassifier(), _texts(("positive", 1)), positive_label=5)


@pytest.mark.parametrize("examples", [[], [_question("Paris", "Paris")]], ids=["none", "questions"])
def test_examples_that_do_not_fit_the_task_are_refused(examples):
    """No examples, or questions for a classifier, are one line."""
    with pytest.raises(DataError, match="tiny/compact is for text-classification"):
        _run(FakeClassifier(), examples)


def test_summaries_are_scored_again_against_others():
    """The same predictions, of some of the documents, against the summaries given; a document that was not evaluated is refused."""
    examples = [SummaryExample("a", "x", ("a good dog", "the sea")), SummaryExample("b", "y", ("a cat",))]
    whole = evaluation_of(["a good dog", "the end"], rouge(["a good dog", "the end"], examples), examples, dataset="d", split="validation")

    found = rescored(whole, [replace(examples[0], summaries=("the sea",))], split="others")

    assert found.predictions == ("a good dog",)
    assert (_values(whole)["rougeL"], _values(found)["rougeL"]) == (50.0, 0.0)
    assert {(metric.split, metric.examples) for metric in found.metrics} == {("others", 1)}
    with pytest.raises(DataError, match="'c' was not evaluated"):
        rescored(whole, [replace(examples[0], id="c")], split="others")


def test_row_that_cannot_be_answered_is_named_and_stops_the_rest():
    """The first row that is refused ends the evaluation with its id; rows not yet started never run."""
    model = FakeClassifier()
    with pytest.raises(DataError, match="example '0' cannot be answered: text is empty"):
        _run(model, _texts((" ", 0), *[("positive", 1)] * 500), threads=1)
    assert model.answered < 500


def test_interrupt_stops_the_rest():
    """Ctrl-C in the middle goes out, and rows not yet started never run."""

    class Interrupted(FakeClassifier):
        def predict(self, requests):
            """Answer, but end the third time with Ctrl-C."""
            responses = super().predict(requests)
            if self.answered == 3:
                raise KeyboardInterrupt
            return responses

    model = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        _run(model, _texts(*[("positive", 1)] * 500), threads=1)
    assert model.answered < 500


def test_evaluation_survives_saving(tmp_path):
    """What is loaded is what was saved: names, predictions, per-example scores, metrics."""
    saved = _run(FakeReader(), [_question("Paris", "Paris"), _question("nothing")])
    saved.save(tmp_path / "scores.json")
    loaded = Evaluation.load(tmp_path / "scores.json")
    assert (loaded.dataset, loaded.split, loaded.ids) == (saved.dataset, saved.split, saved.ids)
    assert (loaded.predictions, loaded.metrics) == (saved.predictions, saved.metrics)
    assert list(loaded.scores) == list(saved.scores)
    for name, scores in saved.scores.items():
        np.testing.assert_array_equal(loaded.scores[name].numerator, scores.numerator)
        np.testing.assert_array_equal(loaded.scores[name].denominator, scores.denominator)


@pytest.mark.parametrize("content", [None, "{", '{"dataset": "x"}'], ids=["missing", "truncated", "incomplete"])
def test_file_that_is_no_evaluation_is_refused(tmp_path, content):
    """A missing, truncated or foreign file is one line that names it."""
    path = tmp_path / "scores.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=r"scores\.json"):
        Evaluation.load(path)


def test_difference_of_an_evaluation_from_itself_is_zero():
    """The same answers differ by exactly 0 in every metric, F1 of a label included."""
    evaluation = _run(FakeClassifier(), _texts(("positive", 1), ("negative", 1), ("positive", 0)), positive_label=1)
    found = paired_difference(evaluation, evaluation, against="tiny/dense")
    assert set(found) == {"accuracy", "f1"}
    for difference in found.values():
        assert (difference.value, difference.low, difference.high, difference.against) == (0.0, 0.0, 0.0, "tiny/dense")


def test_differences_are_attached_to_metrics():
    """Each metric carries its difference: this one minus the other."""
    truth = [("positive", 1)] * 20
    worse = _run(FakeClassifier(), _texts(*truth[:15], *[("negative", 1)] * 5))
    better = _run(FakeClassifier(), _texts(*truth))
    (metric,) = worse.compared_with(better, against="tiny/dense")
    assert (metric.value, metric.difference.value) == (75.0, -25.0)
    assert metric.difference.low < -25.0 < metric.difference.high < 0


def test_different_examples_cannot_be_compared():
    """Two evaluations over other examples are refused."""
    one, two = _run(FakeClassifier(), _texts(("positive", 1))), _run(FakeClassifier(), _texts(("positive", 1), ("positive", 1)))
    with pytest.raises(DataError, match="expected the same examples"):
        paired_difference(one, two, against="tiny/dense")


def test_best_null_threshold_separates_the_margins():
    """The threshold lies where questions without an answer begin, and spans are scored with no answer switched off."""
    margins = {"a": -2.0, "b": 1.0, "c": 3.0, "d": 5.0}
    examples = [_question("nothing", "nothing", question="a"), _question("Rome", "Rome", question="b")]
    examples += [_question("Oslo", question="c"), _question("Bonn", question="d")]
    assert best_null_threshold(FakeReader(margins), examples, progress=False) == 2.0


def test_null_threshold_needs_a_question_without_an_answer():
    """Where every question has an answer there is nothing to choose."""
    with pytest.raises(DataError, match="no question without an answer"):
        best_null_threshold(FakeReader(), [_question("Rome", "Rome")], progress=False)


def test_summaries_are_decoded_together_and_stay_in_order():
    """Every document gets its own summary, whoever it was decoded with."""
    documents = [SummaryExample(str(number), f"word{number} is here", (f"word{number}",)) for number in range(40)]
    model = FakeSummarizer()
    found = evaluate(model, documents, dataset="d", split="s", threads=2, progress=False)
    assert found.predictions == tuple(f"word{number}" for number in range(40))
    assert sorted(model.together) == [8, 16, 16]
    assert {metric.name: metric.value for metric in found.metrics}["rouge1"] == 100


def test_a_document_that_cannot_be_summarized_is_named():
    """One line says which, though it was asked with others."""
    documents = [SummaryExample(str(number), " " if number == 5 else "some text", ("text",)) for number in range(9)]
    with pytest.raises(DataError, match="example '5' cannot be answered"):
        evaluate(FakeSummarizer(), documents, dataset="d", split="s", threads=1, progress=False)
