"""Answers are spans of the context: the best of all windows, or none."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ArtifactError, RequestError
from service.tasks.base import parse_request
from service.tasks.qa import QuestionAnswering, QuestionRequest, QuestionResponse, best_spans, merged_spans
from service.tokenization import Row, TextTokenizer
from tests.service.builders import bert_tokenizer, manifest_for, roberta_tokenizer

TASK = QuestionAnswering()
TOKENIZERS = {"bert": TextTokenizer(bert_tokenizer()), "roberta": TextTokenizer(roberta_tokenizer())}
MANIFEST = manifest_for("question-answering", max_length=30, stride=3)
PIECES = [*"abc  .", "é", "日", "🙂", "e\u0301", "👩\u200d👧"]
contexts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=40).map("".join).filter(str.strip)
seeds = st.integers(0, 2**32 - 1)


def _outputs(rows: list[Row], seed: int, *, levels: int = 1000) -> list[dict[str, np.ndarray]]:
    """Random logits; few levels make many ties."""
    random = np.random.default_rng(seed)
    return [{name: random.integers(-levels, levels, size=(1, len(row))).astype(np.float32) / 100 for name in TASK.outputs} for row in rows]


def _answer(request: QuestionRequest, kind: str, seed: int, **changes: object) -> tuple[QuestionResponse, list[Row], list]:
    manifest = MANIFEST.model_copy(update=changes)
    rows = TASK.preprocess(request, TOKENIZERS[kind], manifest)
    outputs = _outputs(rows, seed)
    return TASK.postprocess(request, rows, outputs, manifest), rows, outputs


def _exhaustive(rows: list[Row], outputs: list[dict[str, np.ndarray]], width: int) -> dict[tuple[int, int], float]:
    """Best logit of every span of characters, by trying all pairs of positions of all windows."""
    best: dict[tuple[int, int], float] = {}
    for row, output in zip(rows, outputs, strict=True):
        positions = np.flatnonzero(row.context_mask)
        for start in positions:
            for end in positions[(positions >= start) & (positions < start + width)]:
                place = (int(row.offsets[start, 0]), int(row.offsets[end, 1]))
                logit = float(output["start_logits"][0, start]) + float(output["end_logits"][0, end])
                if place[1] > place[0]:
                    best[place] = max(logit, best.get(place, -math.inf))
    return best


@given(st.sampled_from(sorted(TOKENIZERS)), contexts, seeds, st.integers(1, 8), st.integers(1, 40))
def test_merged_windows_equal_exhaustive_search(kind, context, seed, width, top_k):
    """The answers are the best spans over all windows, each place once, best first."""
    request = QuestionRequest(question="a", context=context, top_k=top_k, max_answer_tokens=width, handle_no_answer=False)
    response, rows, outputs = _answer(request, kind, seed)
    expected = _exhaustive(rows, outputs, width)
    found = {(answer.start, answer.end): answer.score for answer in response.answers}
    ranked = sorted(expected.values(), reverse=True)[:top_k]
    assert len(found) == len(response.answers) == min(top_k, len(expected))
    assert [expected[place] for place in found] == pytest.approx(ranked)


@given(st.sampled_from(sorted(TOKENIZERS)), contexts, seeds, st.booleans())
def test_answer_is_the_slice_of_the_context(kind, context, seed, handle_no_answer):
    """`context[start:end] == answer`, always, and only no-answer is empty."""
    request = QuestionRequest(question="a", context=context, top_k=1000, handle_no_answer=handle_no_answer)
    response, _, _ = _answer(request, kind, seed)
    assert all(context[answer.start : answer.end] == answer.answer for answer in response.answers)
    empty = [answer for answer in response.answers if not answer.answer]
    assert [(answer.start, answer.end) for answer in empty] == ([(0, 0)] if handle_no_answer else [])


@given(contexts, seeds, st.integers(1, 20))
def test_fewer_answers_are_the_first_of_more(context, seed, top_k):
    """`top_k` only cuts the list."""
    request = QuestionRequest(question="a", context=context, top_k=1000, handle_no_answer=True)
    everything, _, _ = _answer(request, "bert", seed)
    some, _, _ = _answer(request.model_copy(update={"top_k": top_k}), "bert", seed)
    assert some.answers == everything.answers[:top_k]


@given(contexts, seeds)
def test_scores_of_all_spans_and_no_answer_sum_to_one(context, seed):
    """With tokens of different characters, the scores are a probability distribution, best first."""
    request = QuestionRequest(question="a", context=context, top_k=1000, max_answer_tokens=3, handle_no_answer=True)
    response, _, _ = _answer(request, "bert", seed)
    values = [answer.score for answer in response.answers]
    assert sum(values) == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    assert response.no_answer_score in values


@given(contexts, seeds, st.permutations(range(20)))
def test_order_of_the_windows_does_not_matter(context, seed, order):
    """Windows may come in any order."""
    request = QuestionRequest(question="a", context=context, top_k=5)
    rows = TASK.preprocess(request, TOKENIZERS["roberta"], MANIFEST.model_copy(update={"max_length": 12}))
    outputs = _outputs(rows, seed)
    shuffled = [index for index in order if index < len(rows)] + list(range(20, len(rows)))
    left = TASK.postprocess(request, rows, outputs, MANIFEST)
    right = TASK.postprocess(request, [rows[index] for index in shuffled], [outputs[index] for index in shuffled], MANIFEST)
    assert left == right


def test_answer_in_a_later_window_is_found():
    """The best span counts wherever it is, although every window has its own best."""
    request = QuestionRequest(question="a", context="b " * 40 + "ada")
    rows = TASK.preprocess(request, TOKENIZERS["bert"], MANIFEST)
    outputs = [{name: np.zeros((1, len(row)), dtype=np.float32) for name in TASK.outputs} for row in rows]
    for name in TASK.outputs:
        outputs[-1][name][0, np.flatnonzero(rows[-1].context_mask)[-1]] = 9
    assert len(rows) > 1
    assert TASK.postprocess(request, rows, outputs, MANIFEST).answers[0].answer == "ada"


def test_question_and_special_tokens_are_never_an_answer():
    """However high the logits outside the context, the answer is in it."""
    request = QuestionRequest(question="who wrote", context="ada", handle_no_answer=False)
    rows = TASK.preprocess(request, TOKENIZERS["bert"], MANIFEST)
    outputs = [{name: np.where(rows[0].context_mask, 0.0, 1e6)[None].astype(np.float32) for name in TASK.outputs}]
    assert TASK.postprocess(request, rows, outputs, MANIFEST).answers[0].answer == "ada"


def _two_windows_null(first: float, second: float, span: float, **changes: object) -> QuestionResponse:
    request = QuestionRequest(question="a", context="b " * 30, handle_no_answer=True)
    manifest = MANIFEST.model_copy(update=changes)
    rows = TASK.preprocess(request, TOKENIZERS["bert"], manifest)[:2]
    outputs = [{name: np.full((1, len(row)), span / 2, dtype=np.float32) for name in TASK.outputs} for row in rows]
    for output, null in zip(outputs, (first, second), strict=True):
        for name in TASK.outputs:
            output[name][0, 0] = null / 2
    return TASK.postprocess(request, rows, outputs, manifest)


def test_null_is_the_lowest_over_the_windows():
    """One window that sees an answer is enough for there to be one."""
    assert _two_windows_null(10, 2, span=0).null_margin == pytest.approx(2)
    assert _two_windows_null(10, -2, span=0).answers[0].answer == "b"


@pytest.mark.parametrize(("threshold", "answer"), [(1.5, ""), (2.5, "b")])
def test_threshold_of_the_manifest_decides(threshold, answer):
    """No answer when null beats the best span by more than the threshold."""
    assert _two_windows_null(2, 2, span=0, null_threshold=threshold).answers[0].answer == answer


@pytest.mark.parametrize("trained", [True, False])
def test_manifest_says_whether_no_answer_is_a_choice(trained):
    """Without a word in the request, the model does what it was trained for."""
    request = QuestionRequest(question="a", context="b", top_k=10)
    response, _, _ = _answer(request, "bert", 0, handles_no_answer=trained)
    assert ("" in [answer.answer for answer in response.answers]) == trained


def test_huge_logits_do_not_overflow():
    """Scores stay probabilities for any finite logits."""
    request = QuestionRequest(question="a", context="b c", handle_no_answer=True, top_k=10)
    rows = TASK.preprocess(request, TOKENIZERS["bert"], MANIFEST)
    outputs = [{name: (1e30 * np.arange(len(rows[0])))[None].astype(np.float32) for name in TASK.outputs}]
    response = TASK.postprocess(request, rows, outputs, MANIFEST)
    assert response.answers[0].score == 1.0


def test_nan_logits_are_the_artifacts_fault():
    """Outputs that are not numbers never become an answer."""
    request = QuestionRequest(question="a", context="b c")
    rows = TASK.preprocess(request, TOKENIZERS["bert"], MANIFEST)
    outputs = [{name: np.full((1, len(rows[0])), np.nan, dtype=np.float32) for name in TASK.outputs}]
    with pytest.raises(ArtifactError, match="not finite"):
        TASK.postprocess(request, rows, outputs, MANIFEST)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": " "}, "question is empty"),
        ({"context": ""}, "context is empty"),
        ({"context": "\n\t"}, "context is empty"),
        ({"context": "\u200b"}, "no token"),
        ({"question": "a " * 50}, "shorten the question"),
        ({"stride": 40}, "choose a stride below"),
    ],
)
def test_request_that_cannot_be_answered_is_refused(fields, message):
    """What is wrong is said before the model runs."""
    request = QuestionRequest(**{"question": "a", "context": "b", **fields})
    with pytest.raises(RequestError, match=message):
        TASK.preprocess(request, TOKENIZERS["bert"], MANIFEST)


@pytest.mark.parametrize(
    "fields", [{"top_k": 0}, {"max_answer_tokens": 0}, {"stride": -1}, {"contxt": "x"}, {"question": None}, {"top_k": 10**9}]
)
def test_field_out_of_bounds_is_one_line_that_names_it(fields):
    """A document that is no request becomes a RequestError that names the field."""
    with pytest.raises(RequestError, match=f"^{next(iter(fields))}: ") as caught:
        parse_request(QuestionRequest, {"question": "a", "context": "b", **fields})
    assert "\n" not in str(caught.value)


def test_spans_of_one_place_count_once():
    """The bytes of one emoji are several tokens at one place, which is returned once, with its best logit."""
    offsets = np.array([[0, 1], [0, 1], [0, 1], [1, 2]])
    spans = np.array([[3.0], [5.0], [4.0], [1.0]])
    assert list(best_spans(spans, offsets, 2)) == [(5.0, 0, 1), (1.0, 1, 2)]


def test_span_longer_than_allowed_is_not_considered():
    """No span has more tokens than the request allows."""
    request = QuestionRequest(question="a", context="a b c d e f", max_answer_tokens=2)
    rows = TASK.preprocess(request, TOKENIZERS["bert"], MANIFEST)
    assert merged_spans(rows, _outputs(rows, 0), 2).shape == (6, 2)
