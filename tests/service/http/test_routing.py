"""Which variant answers, and what headers say and ask."""

import re

import pytest

from tests.service.http.support import QA, assert_problem

QUESTION = {"inputs": QA}
TEXT = {"inputs": "ada"}
MILLISECONDS = re.compile(r"\d+\.\d{3}")


def variant_of(response):
    """Who answered."""
    assert response.status_code == 200, response.text
    return response.headers["x-model-variant"]


def test_default_is_the_preferred_variant(client, start):
    """Without a wish the first of `prefer` that is loaded answers."""
    assert variant_of(client.post("/qa", json=QUESTION)) == "dense"
    assert variant_of(start(prefer=("none-such", "compact-int8")).post("/qa", json=QUESTION)) == "compact-int8"


def test_body_chooses_model_and_variant(client):
    """`model` and `variant` of the body are obeyed."""
    assert variant_of(client.post("/qa", json={**QUESTION, "variant": "compact-int8"})) == "compact-int8"
    response = client.post("/classify", json={**TEXT, "model": "topics"})
    assert response.headers["x-model-name"] == "topics"


def test_header_chooses_the_variant_and_the_body_goes_before_it(client):
    """X-Variant is obeyed where the body does not say."""
    headers = {"X-Variant": "compact-int8"}
    assert variant_of(client.post("/qa", json=QUESTION, headers=headers)) == "compact-int8"
    assert variant_of(client.post("/qa", json={**QUESTION, "variant": "dense"}, headers=headers)) == "dense"


@pytest.mark.parametrize(
    ("path", "body", "headers", "known"),
    [
        ("/qa", {**QUESTION, "variant": "sparse"}, {}, "compact-int8"),
        ("/qa", QUESTION, {"X-Variant": "sparse"}, "compact-int8"),
        ("/qa", {**QUESTION, "model": "sentiment"}, {}, "qa"),
        ("/classify", {**TEXT, "model": "qa"}, {}, "sentiment, topics"),
        ("/classify", {**TEXT, "model": "topics", "variant": "compact-int8"}, {}, "dense"),
    ],
)
def test_unknown_model_or_variant_is_a_404_that_lists_what_there_is(client, path, body, headers, known):
    """What is not there is answered with what is."""
    problem = assert_problem(client.post(path, json=body, headers=headers), 404)
    assert known in problem["detail"]


def test_weights_share_the_requests_and_stick_to_the_request_id(start):
    """Both variants answer some requests, and the same id always meets the same one."""
    client = start(weights={"qa": {"dense": 1.0, "compact-int8": 1.0}})
    rounds = [[variant_of(client.post("/qa", json=QUESTION, headers={"X-Request-Id": f"visit-{n}"})) for n in range(12)] for _ in range(2)]
    assert rounds[0] == rounds[1]
    assert set(rounds[0]) == {"dense", "compact-int8"}


def test_wish_goes_before_weights(start):
    """Weights decide only where a request does not say."""
    client = start(weights={"qa": {"dense": 1.0}})
    assert variant_of(client.post("/qa", json={**QUESTION, "variant": "compact-int8"})) == "compact-int8"


def test_headers_say_who_answered_and_where_the_time_went(client):
    """Every answer names its model and its times, which add up to no more than the total."""
    headers = client.post("/classify", json={"inputs": ["ada", "wrote it"]}).headers
    assert (headers["x-model-name"], headers["x-model-variant"]) == ("sentiment", "dense")
    assert headers["x-runtime"].startswith("onnxruntime")
    assert re.fullmatch(r"[0-9a-f]{64}", headers["x-model-revision"])
    assert int(headers["x-compute-tokens"]) == len("ada") + len("wrote it") + 4
    times = [headers[f"x-{name}-time"] for name in ("queue", "tokenization", "inference", "total")]
    assert all(MILLISECONDS.fullmatch(time) for time in times)
    assert max(map(float, times[:3])) <= float(times[3])


def test_request_id_comes_back(client):
    """A request id is echoed with answers and with refusals."""
    given = {"X-Request-Id": "visit.7:a-b_c"}
    assert client.post("/qa", json=QUESTION, headers=given).headers["x-request-id"] == "visit.7:a-b_c"
    assert assert_problem(client.post("/qa", json={}, headers=given), 422)["request_id"] == "visit.7:a-b_c"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "a;b", "<script>"])
def test_request_id_that_is_none_is_replaced(client, given):
    """What cannot stand in a log or a header is not echoed; ids made here differ."""
    ids = {client.get("/v2", headers={"X-Request-Id": given}).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in ids)


@pytest.mark.parametrize("given", ["soon", "0", "-5", "nan", "inf", "", "1e999", "1 2"])
def test_timeout_that_is_none_is_malformed(client, given):
    """X-Request-Timeout-Ms that is no positive number is a 400 that says what was expected."""
    problem = assert_problem(client.post("/qa", json=QUESTION, headers={"X-Request-Timeout-Ms": given}), 400)
    assert "expected milliseconds" in problem["detail"]


def test_generous_timeout_changes_nothing(client):
    """A request that is answered in time is answered."""
    assert client.post("/qa", json=QUESTION, headers={"X-Request-Timeout-Ms": "20000"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "task"), [("/qa", QUESTION, "question-answering"), ("/summarize", {"inputs": "ada wrote it"}, "summarization")]
)
def test_task_without_a_model_says_so(start, path, body, task):
    """A task's route answers 404 with the reason when only models of another task are loaded."""
    problem = assert_problem(start(variants=("sentiment/*",)).post(path, json=body), 404)
    assert f"no model for {task} is loaded" in problem["detail"]
