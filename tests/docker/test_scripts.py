"""The scripts that check a running stack, against servers that play its part."""

import ast
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from service.errors import OverloadedError, StoppedError, StuckError
from service.problems import problem
from tests.docker.files import DASHBOARDS, script

check_queries, check_container = script("check_queries.py"), script("check_container.py")


@contextmanager
def serving(answer: Callable[[str, dict[str, str]], tuple[int, object]]) -> Iterator[str]:
    """A server whose answers, status and JSON, come of path and parameters."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            status, document = answer(parts.path, {name: values[0] for name, values in parse_qs(parts.query).items()})
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def prometheus(path: str, parameters: dict[str, str]) -> tuple[int, object]:
    """One series for `full`, none for `empty`, nothing but NaN for `nan`; whatever else is no query."""
    if path.endswith("/values"):
        return 200, {"data": ["dense", "compact-int8"]}
    if path.endswith("/rules"):
        return 200, {"data": {"groups": [{"rules": [{"name": "Full", "query": "full > 0.5"}]}]}}
    values = {"full": [{"value": [0, "1"]}], "empty": [], "nan": [{"value": [0, "NaN"]}]}
    query = parameters["query"]
    return (200, {"data": {"result": values[query]}}) if query in values else (400, {"error": "parse error"})


@pytest.mark.parametrize(("query", "why"), [("full", None), ("empty", "no data"), ("nan", "no data"), ("full(", "refused (parse error)")])
def test_a_query_without_data_is_found(query: str, why: str | None):
    """Nothing, or nothing but NaN, is no data; what Prometheus cannot read is refused."""
    with serving(prometheus) as url:
        assert check_queries.problem(url, query) == why


def test_variables_are_filled_in():
    """Every panel's query goes out without a variable, with all values of those that take several."""
    with serving(prometheus) as url:
        asked = list(check_queries.panels(DASHBOARDS[0].parent, url, {"loadtest"}))
    assert not [each for each in asked if "$" in each.query.replace('"$1"', "")]
    assert any('variant=~"(dense|compact-int8)"' in each.query for each in asked)
    assert not [each for each in asked if each.where.startswith("loadtest")]


def test_alerts_are_asked_for_what_they_compare():
    """The left side of the comparison: it has data while the alert is silent."""
    with serving(prometheus) as url:
        assert list(check_queries.alerts(url)) == [check_queries.Asked("alert Full", "full")]
    with pytest.raises(ValueError, match="does not compare"):
        check_queries.compared("absent(up)")


def test_users_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    """Texts are prepared before the first request: until that is counted, nothing is asked of Prometheus."""
    counts = iter([0, 0, 1])
    monkeypatch.setattr(check_queries.time, "sleep", lambda _: None)

    def locust(path: str, _: dict[str, str]) -> tuple[int, object]:
        return 200, {"success": True} if path == "/swarm" else {"stats": [{"num_requests": next(counts)}]}

    with serving(locust) as url:
        check_queries.start_users(url)
    assert list(counts) == []


def test_clients_leave_when_the_service_is_not_ready():
    """What was sent until then is answered, some of it after the stop began, and nothing is lost; each task that is served is asked."""
    state, asked = {"ready": True}, set[str]()

    def service(path: str, _: dict[str, str]) -> tuple[int, object]:
        time.sleep(0.01)
        asked.add(path)
        if path == "/v1/variants":
            return 200, [{"task": "question-answering"}, {"task": "summarization"}]
        return (200 if state["ready"] or path != check_container.READY else 503), {}

    with serving(service) as url:
        threading.Timer(0.4, state.update, [{"ready": False}]).start()
        load = check_container.stopped_under_load(["sleep", "0.5"], url, clients=2, seconds=0.2)
    assert {"/qa", "/summarize"} <= asked
    assert "/classify" not in asked
    assert set(load.statuses) == {200}
    assert load.while_stopping
    assert load.lost == []


def test_a_lost_request_is_told():
    """A connection that ends without an answer is a loss."""

    def service(path: str, _: dict[str, str]) -> tuple[int, object]:
        if path == "/qa":
            raise ConnectionAbortedError
        return 200, [{"task": "question-answering"}]

    with serving(service) as url, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)
        load = check_container.stopped_under_load(["true"], url, clients=1, seconds=0.1)
    assert len(load.lost) == 1


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [(OverloadedError(""), False), (StoppedError(""), True), (StuckError(""), True)],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_503_is_a_loss_unless_the_service_had_too_much_to_do(error: Exception, is_lost: bool):
    """What the service took and did not finish ends with 503, too, and is told from what it refused."""
    refusal = json.loads(problem(error, instance="/qa", request_id="1").body)

    def service(path: str, _: dict[str, str]) -> tuple[int, object]:
        return (503, refusal) if path == "/qa" else (200, [{"task": "question-answering"}])

    with serving(service) as url:
        load = check_container.stopped_under_load(["true"], url, clients=1, seconds=0.1)
    assert set(load.statuses) == {503}
    assert len(load.lost) == (load.statuses[503] if is_lost else 0)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}", b""])
def test_a_503_that_says_nothing_is_no_refusal(answer: bytes):
    """Something between client and service may answer for it, in words of its own."""
    assert check_container.problem_of(answer) != check_container.OVERLOADED


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [({}, []), ({"user": 0}, ["it runs as root"]), ({"capabilities": 8, "can write": ["/etc"]}, ["capabilities", "can write"])],
)
def test_what_a_container_may_do_is_told(changed: dict[str, object], wrong: list[str]):
    """Root, a capability, a folder that can be written: each is named."""
    confined = {
        "user": 10001,
        "capabilities": 0,
        "may gain privileges": False,
        "can write": [],
        "has torch": False,
        check_container.SIZE: 1,
    }
    assert check_container.unconfined({**confined, **changed}) == wrong


@pytest.mark.parametrize(("size_bytes", "is_wrong"), [(220_000_000, False), (check_container.MOST_BYTES + 1, True)])
def test_an_image_that_has_grown_is_told(size_bytes: int, is_wrong: bool):
    """What the image has beside its base, without models, is bounded."""
    assert bool(check_container.oversized({check_container.SIZE: size_bytes})) is is_wrong


def test_what_runs_in_a_container_tells_all_that_is_judged():
    """By the names that are looked up here."""
    (printed,) = (node for node in ast.walk(ast.parse(check_container.LOOK)) if isinstance(node, ast.Dict))
    names = {key.value for key in printed.keys if isinstance(key, ast.Constant)}
    assert {"user", check_container.SIZE} <= names
