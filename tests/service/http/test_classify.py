"""The wire format of POST /classify."""

import pytest

from service.model import Model
from service.tasks.classify import ClassifyRequest
from tests.service.http.support import LABELS, assert_problem, same

LONG = "Ada wrote it in the café. " * 4


def label(client, inputs, model=None, **parameters):
    """The answer to a body, which must be one."""
    body = {"inputs": inputs, "parameters": parameters, **({"model": model} if model else {})}
    response = client.post("/classify", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture(scope="module")
def engine(models):
    """The model behind the default variant."""
    return Model.load(models / "sentiment/dense")


def expected(engine, text, **options):
    """What the engine itself answers."""
    return engine.predict_one(ClassifyRequest(text=text, **options)).model_dump()["labels"]


def test_one_text_gets_a_list_in_a_list(client, engine):
    """One text has one row of labels, best first, whose scores sum to one."""
    (row,) = label(client, "ada wrote it")
    assert same(row, expected(engine, "ada wrote it"))
    assert {entry["label"] for entry in row} == set(LABELS)
    assert [entry["score"] for entry in row] == sorted((entry["score"] for entry in row), reverse=True)
    assert sum(entry["score"] for entry in row) == pytest.approx(1.0)


def test_several_texts_get_a_row_each_in_order(client, engine):
    """Rows come in the order of the texts."""
    texts = ["ada", "wrote it", "café 🙂"]
    assert same(label(client, texts), [expected(engine, text) for text in texts])


def test_pair_is_read_together(client, engine):
    """A pair is one input, alone or in a list, and its second text matters."""
    pair = {"text": "ada wrote", "text_pair": "it"}
    answer = expected(engine, "ada wrote", text_pair="it")
    assert label(client, pair) == label(client, [pair]) == [answer]
    assert label(client, {"text": "ada wrote"}) == [expected(engine, "ada wrote")] != [answer]


@pytest.mark.parametrize("top_k", [1, 2, 10**9])
def test_top_k_labels_are_returned(client, top_k):
    """top_k cuts the list, and more than there are is all of them."""
    everything = label(client, "ada")
    assert label(client, "ada", top_k=top_k) == [everything[0][:top_k]]
    assert label(client, "ada", top_k=None) == everything


def test_several_labels_at_once_have_scores_of_their_own(client):
    """A model whose labels do not exclude each other answers with sigmoids, softmax on demand."""
    (logits,) = label(client, "ada wrote", model="topics", function_to_apply="none")
    (row,) = label(client, "ada wrote", model="topics")
    for entry, logit in zip(row, logits, strict=True):
        assert entry["score"] == pytest.approx(1 / (1 + 2.718281828459045 ** -logit["score"]))
    assert label(client, "ada wrote", model="topics", function_to_apply="sigmoid") == [row]
    assert sum(entry["score"] for entry in label(client, "ada wrote", model="topics", function_to_apply="softmax")[0]) == pytest.approx(1.0)


def test_long_text_is_cut_and_said_to_be(client):
    """By default what does not fit is cut, and details say so."""
    (details,) = label(client, LONG, details=True)
    assert details["usage"] == {"input_tokens": 24, "truncated": True}
    assert details["model"]["name"] == "sentiment"
    assert [entry["label"] for entry in details["labels"]] == [entry["label"] for entry in label(client, LONG)[0]]
    assert label(client, "ada", details=True)[0]["usage"]["truncated"] is False


def test_long_text_is_refused_without_truncation(client):
    """`truncation: false` refuses it with a pointer to the text."""
    body = {"inputs": ["ada", LONG], "parameters": {"truncation": False}}
    problem = assert_problem(client.post("/classify", json=body), 422, body)
    assert problem["errors"][0]["pointer"] == "#/inputs/1"


def test_long_text_can_be_read_in_windows(client, engine):
    """`long_text: windows` reads all of it, so that its end matters."""
    (details,) = label(client, LONG, long_text="windows", details=True)
    assert details["usage"]["truncated"] is False
    assert details["usage"]["input_tokens"] > len(LONG)
    assert same(details["labels"], expected(engine, LONG, long_text="windows"))
    assert not same(details["labels"], expected(engine, LONG))


def test_pair_is_not_read_in_windows(client):
    """Two rules that exclude each other are a 422 that points to one of them."""
    body = {"inputs": {"text": "ada", "text_pair": "it"}, "parameters": {"long_text": "windows"}}
    problem = assert_problem(client.post("/classify", json=body), 422, body)
    assert problem["errors"][0]["pointer"] == "#/parameters/long_text"


def test_partial_answers_the_good_and_says_why_not_the_bad(client, engine):
    """With `partial` each text has its own outcome."""
    body = {"inputs": ["ada", " ", {"text": "it", "text_pair": ""}], "partial": True}
    good, *failed = client.post("/classify", json=body).json()
    assert same(good, expected(engine, "ada"))
    assert [each["error"] for each in failed] == ["text is empty; send some text", "text_pair is empty; send some text"]


def test_example_of_the_documentation_is_answered(client):
    """What /docs offers to try works."""
    content = client.get("/openapi.json").json()["paths"]["/classify"]["post"]["requestBody"]["content"]
    examples = content["application/json"]["examples"]
    assert examples
    assert [client.post("/classify", json=example["value"]).status_code for example in examples.values()] == [200] * len(examples)
