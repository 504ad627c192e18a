"""Too much, too late, or broken inside: what a client is told, and that nothing is left behind."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.service.http.support import QA, FakeSession, assert_problem, metric, registry_of, until

QUESTION = {"inputs": QA}
TEXT = {"inputs": "ada wrote it"}


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Closed; a session may wait for it. It is open when the test is over, or runners would not end."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def blocked(start, gate):
    """A client of one runner that waits for the gate, its session, and a pool to send requests from."""
    with ThreadPoolExecutor(4) as pool:

        def begin(**settings):
            session = FakeSession("text-classification", lambda: gate.wait(20))
            client = start(registry_of(session), runners=1, **settings)
            waiting = pool.submit(client.post, "/classify", json=TEXT)
            until(lambda: client.app.state.serving.scheduler.depth[0] == 1)
            return client, session, waiting

        yield begin
        gate.set()


def test_request_that_waits_too_long_is_a_504_and_never_runs(blocked, gate):
    """Its time is over while it waits; the client hears of it then, and the model never does."""
    client, session, waiting = blocked()
    response = client.post("/classify", json=TEXT, headers={"X-Request-Timeout-Ms": "50"})
    assert_problem(response, 504)
    gate.set()
    assert waiting.result(20).status_code == 200
    assert session.runs == 1
    assert metric(client.get("/metrics").text, 'secateur_shed_total{reason="deadline"}') == 1


def test_time_that_a_request_may_ask_for_is_limited(blocked):
    """More than `max_timeout_ms` is that much."""
    client, _, _ = blocked(max_timeout_ms=50)
    assert_problem(client.post("/classify", json=TEXT, headers={"X-Request-Timeout-Ms": "20000"}), 504)


def test_time_that_is_over_on_arrival_is_a_504(client):
    """No time at all is not the server's overload."""
    assert_problem(client.post("/classify", json=TEXT, headers={"X-Request-Timeout-Ms": "1e-9"}), 504)


def test_full_queue_is_a_503_that_says_when_to_come_back(blocked, gate):
    """Beyond what may wait a request is refused at once, with Retry-After, and counted."""
    client, _, waiting = blocked(queue_requests=1)
    response = client.post("/classify", json=TEXT)
    problem = assert_problem(response, 503)
    assert int(response.headers["retry-after"]) >= problem["retry_after_s"] > 0
    assert metric(client.get("/metrics").text, 'secateur_shed_total{reason="queue"}') == 1
    gate.set()
    assert waiting.result(20).status_code == 200


def test_full_queue_refuses_before_it_reads_the_body(blocked):
    """Under overload a refusal costs next to nothing: a body that could not be read is not even looked at."""
    client, _, _ = blocked(queue_requests=1)
    assert_problem(client.post("/classify", content=b"{", headers={"Content-Type": "application/json"}), 503)


def test_refused_requests_do_not_make_room(blocked):
    """What is refused was never counted, so it is not counted out: the queue stays as full as it is."""
    client, _, _ = blocked(queue_characters=20)
    for _ in range(3):
        assert_problem(client.post("/classify", json={"inputs": ["ada", "wrote it in the café"]}), 503)
    assert client.app.state.serving.scheduler.depth[0] == 1


def test_batch_that_is_refused_in_part_leaves_nothing_behind(blocked, gate):
    """The texts that were let in before the one that did not fit go again."""
    client, session, waiting = blocked(queue_requests=3)
    assert_problem(client.post("/classify", json={"inputs": ["ada"] * 4}), 503)
    gate.set()
    assert waiting.result(20).status_code == 200
    until(lambda: client.app.state.serving.scheduler.depth == (0, 0, 0))
    assert session.runs == 1


def test_shutting_down_is_a_503(start):
    """Once nothing more is let in, a request is told to go elsewhere."""
    client = start()
    client.app.state.serving.scheduler.close()
    assert assert_problem(client.post("/qa", json=QUESTION), 503)["error_type"] == "stopping"


def failing(message: str = "secret of the house"):
    """A session that raises."""

    def fail() -> None:
        raise RuntimeError(message)

    return registry_of(FakeSession("question-answering", fail), FakeSession("text-classification"))


def test_broken_model_is_a_500_with_an_opaque_id(start, caplog):
    """The client gets an id and nothing else; the log has the reason under the same id; the other model still answers."""
    client = start(failing())
    problem = assert_problem(client.post("/qa", json=QUESTION), 500)
    assert problem["detail"] == f"the server's log says more, under {problem['request_id']}"
    (record,) = [record for record in caplog.records if problem["request_id"] in record.getMessage()]
    assert "secret of the house" in str(record.exc_info[1])
    assert client.post("/classify", json=TEXT).status_code == 200


def test_broken_model_says_nothing_in_a_partial_answer_either(start, caplog):
    """An entry for a failure of the server's own carries the request's id alone, and the log has the reason."""
    response = start(failing()).post("/qa", json={"inputs": [QA, QA], "partial": True}, headers={"X-Request-Id": "visit-1"})
    assert response.json() == [{"error": "the server's log says more, under visit-1", "error_type": "internal"}] * 2
    assert ["secret" in str(record.exc_info[1]) for record in caplog.records if "visit-1" in record.getMessage()] == [True, True]
