"""The wire format of POST /qa."""

import pytest

from service.model import Model
from service.tasks.qa import QuestionRequest
from tests.service.http.support import QA, assert_problem

CONTEXT = QA["context"]


def ask(client, inputs, **parameters):
    """The answer to a body, which must be one."""
    response = client.post("/qa", json={"inputs": inputs, "parameters": parameters})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture(scope="module")
def engine(models):
    """The model behind the default variant."""
    return Model.load(models / "qa/dense")


def expected(engine, question=QA["question"], context=CONTEXT, **options):
    """What the engine itself answers."""
    return engine.predict_one(QuestionRequest(question=question, context=context, **options)).model_dump()["answers"]


def test_question_gets_a_list_with_one_answer(client, engine):
    """One question is answered with a list, best first, as the engine answers it."""
    assert ask(client, QA) == expected(engine)


def test_batch_gets_a_list_of_lists_in_order(client, engine):
    """A list of questions is answered with a list of lists in its order."""
    inputs = [{"question": f"who {word}?", "context": CONTEXT} for word in ("wrote", "it", "ada")]
    assert ask(client, inputs) == [expected(engine, each["question"]) for each in inputs]


def test_batch_of_one_is_still_a_list_of_lists(client, engine):
    """The shape of the answer follows the shape of the question, not its length."""
    assert ask(client, [QA]) == [expected(engine)]


def test_several_questions_about_one_context(client, engine):
    """A list of questions about one context gets a list of lists."""
    questions = ["who wrote it?", "in the café?"]
    assert ask(client, {"question": questions, "context": CONTEXT}) == [expected(engine, question) for question in questions]


def test_offsets_are_code_points_of_the_context(client):
    """`context[start:end]` is the answer, whatever stands before it."""
    answers = ask(client, QA, top_k=20, handle_impossible_answer=False)
    assert len(answers) == 20
    assert any(answer["start"] > CONTEXT.index("🙂") for answer in answers)
    assert all(CONTEXT[answer["start"] : answer["end"]] == answer["answer"] != "" for answer in answers)


def test_offsets_can_be_utf16_units(client):
    """With `offset_unit: utf16` they are what JavaScript slices by."""
    units = CONTEXT.encode("utf-16-le")
    answers = ask(client, QA, top_k=20, handle_impossible_answer=False, offset_unit="utf16")
    assert any(answer["start"] > CONTEXT.index("🙂") for answer in answers)
    assert all(units[2 * answer["start"] : 2 * answer["end"]].decode("utf-16-le") == answer["answer"] for answer in answers)


def test_top_k_answers_come_best_first(client, engine):
    """top_k answers with falling scores and different places."""
    answers = ask(client, QA, top_k=5)
    scores = [answer["score"] for answer in answers]
    assert answers == expected(engine, top_k=5)
    assert scores == sorted(scores, reverse=True)
    assert len({(answer["start"], answer["end"]) for answer in answers}) == 5


def test_no_answer_is_a_choice_where_the_manifest_says_so(client, engine):
    """Without `handle_impossible_answer` the model's own training decides, and saying so changes nothing."""
    asked = {"question": "日?", "context": "本 🙂"}
    default = ask(client, asked, top_k=100)
    assert {"answer": "", "start": 0, "end": 0}.items() <= next(each for each in default if each["answer"] == "").items()
    assert ask(client, asked, top_k=100, handle_impossible_answer=True) == default
    assert all(each["answer"] for each in ask(client, asked, top_k=100, handle_impossible_answer=False))


@pytest.mark.parametrize(("threshold", "empty"), [(-1000.0, True), (1000.0, False)])
def test_null_score_threshold_decides_for_or_against_no_answer(client, threshold, empty):
    """A threshold far below every margin makes "no answer" win, one far above makes it lose."""
    (answer,) = ask(client, QA, null_score_diff_threshold=threshold, handle_impossible_answer=True)
    assert (answer["answer"] == "") is empty


def test_answers_can_be_aligned_to_words(client):
    """With `align_to_words` no answer begins or ends inside a word; without it, this one does."""
    asked = {"question": "who?", "context": "gardener and gatekeeper"}
    loose, aligned = (
        {each["answer"] for each in ask(client, asked, top_k=50, handle_impossible_answer=False, align_to_words=align)}
        for align in (False, True)
    )
    words = {"gardener", "and", "gatekeeper", "gardener and", "and gatekeeper", "gardener and gatekeeper"}
    assert not loose <= words
    assert aligned <= words


def test_windows_follow_doc_stride_and_max_seq_len(client):
    """Shorter windows that share more are more windows."""
    windows = [
        ask(client, QA, details=True, **parameters)["windows"]
        for parameters in ({}, {"doc_stride": 8}, {"max_seq_len": 16}, {"max_seq_len": 16, "doc_stride": 7})
    ]
    assert windows == sorted(windows)
    assert windows[0] < windows[1] < windows[3]


def test_question_can_be_cut_to_max_question_len(client, engine):
    """A question that fills the window is refused, and read in part when that is asked for."""
    asked = {"question": "who wrote it " * 20, "context": CONTEXT}
    body = {"inputs": asked}
    problem = assert_problem(client.post("/qa", json=body), 422, body)
    assert problem["errors"][0]["pointer"] == "#/inputs/question"
    assert ask(client, asked, max_question_len=3) == expected(engine, "who wrote it")


def test_answers_have_at_most_max_answer_len_tokens(client):
    """No answer is longer than asked for."""
    answers = ask(client, {"question": "who?", "context": "ada wrote it in the café"}, max_answer_len=1, top_k=50)
    assert {answer["answer"] for answer in answers} <= {"", "ada", "wrote", "it", "in", "the", "café"}


def test_details_say_how_the_answers_came_about(client):
    """With `details` there are the score of no answer, windows, tokens, the model, and where the time went."""
    response = client.post("/qa", json={"inputs": QA, "parameters": {"details": True, "top_k": 2}})
    details = response.json()
    assert len(details["answers"]) == 2
    assert details["has_answer"] is (details["answers"][0]["answer"] != "")
    assert 0 <= details["no_answer_score"] <= 1
    assert details["windows"] > 1
    assert details["usage"] == {"input_tokens": int(response.headers["x-compute-tokens"]), "truncated": False}
    assert details["model"] == {"name": "qa", "variant": "dense", "revision": response.headers["x-model-revision"]}
    assert set(details["timings_ms"]) == {"queue", "tokenize", "infer", "post"}
    assert all(value >= 0 for value in details["timings_ms"].values())


def test_one_bad_question_refuses_the_batch(client):
    """All or nothing by default, with a pointer to the one that is wrong."""
    body = {"inputs": [QA, {"question": "who?", "context": "  "}]}
    problem = assert_problem(client.post("/qa", json=body), 422, body)
    assert [error["pointer"] for error in problem["errors"]] == ["#/inputs/1/context"]


def test_partial_answers_the_good_and_says_why_not_the_bad(client, engine):
    """With `partial` each question has its own outcome."""
    body = {"inputs": [QA, {"question": "who?", "context": "  "}, QA], "partial": True}
    first, failed, last = client.post("/qa", json=body).json()
    assert first == last == expected(engine)
    assert failed == {"error": "context is empty; send some text", "error_type": "unprocessable"}


def test_example_of_the_documentation_is_answered(client):
    """What /docs offers to try works."""
    examples = client.get("/openapi.json").json()["paths"]["/qa"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert examples
    assert [client.post("/qa", json=example["value"]).status_code for example in examples.values()] == [200] * len(examples)
