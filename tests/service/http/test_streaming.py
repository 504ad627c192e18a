"""Summaries as server-sent events: what is streamed is what is answered, and who hangs up leaves nothing behind."""

import asyncio
import json
import socket
import threading
from contextlib import contextmanager

import httpx2
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.keys import digest, make_key
from service.registry import Registry
from service.routes import streaming
from service.runtime.onnx import OnnxSession
from service.settings import Settings
from tests.service.http.support import assert_problem, live, metric, until
from tests.service.summarizing import DOCUMENT, LONG_DOCUMENT

FOREVER = {"max_new_tokens": 40, "min_new_tokens": 40}


def body_of(text=DOCUMENT, variant="dense", **generate):
    """A body that asks for a stream."""
    return {"inputs": text, "stream": True, "variant": variant, "parameters": {"generate_parameters": generate}}


def events_of(text):
    """Names and documents of the events of a stream; pings are left out."""
    blocks = [block.splitlines() for block in text.strip().split("\n\n") if not block.startswith(":")]
    fields = [dict(line.split(": ", 1) for line in block) for block in blocks]
    return [(each.get("event", "message"), json.loads(each["data"])) for each in fields]


def streamed(client, body):
    """The events of a stream that ends well."""
    response = client.post("/summarize", json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    names, events = zip(*events_of(response.text), strict=True)
    assert set(names) == {"message"}
    return events


def read_event(lines):
    """The next event's document."""
    return json.loads(next(line for line in lines if line.startswith("data: ")).removeprefix("data: "))


@contextmanager
def served(app):
    """A client of the app, served on a port."""
    with live(app) as server, httpx2.Client(base_url=server.address, timeout=30) as client:
        yield client


@contextmanager
def begun(client, **request):
    """The lines of a stream that would go on for long, after its first event."""
    with client.stream("POST", "/summarize", json=body_of(**FOREVER), **request) as response:
        lines = response.iter_lines()
        read_event(lines)
        yield lines


@pytest.mark.parametrize("variant", ["dense", "compact", "compact-int8"])
@pytest.mark.parametrize(
    "generate",
    [{}, {"max_new_tokens": 30}, {"max_new_tokens": 1}, {"do_sample": True, "seed": 3, "temperature": 9.0, "max_new_tokens": 40}],
)
def test_streamed_text_is_the_answer(client, variant, generate):
    """All pieces together are the summary, the tokens are numbered, and the last event has text and details."""
    for text in (DOCUMENT, LONG_DOCUMENT, "ada wrote it: it's the café."):
        body = body_of(text, variant, **generate)
        events = streamed(client, body)
        parameters = {"generate_parameters": {"num_beams": 1, **generate}, "details": True}
        (answer,) = client.post("/summarize", json={**body, "stream": False, "parameters": parameters}).json()
        assert "".join(event["token"]["text"] for event in events) == answer["summary_text"] == events[-1]["summary_text"]
        assert [event["index"] for event in events] == list(range(1, answer["details"]["generated_tokens"] + 1))
        assert [event["summary_text"] for event in events[:-1]] == [None] * (len(events) - 1)
        assert all(event["token"]["logprob"] <= 0 for event in events)
        assert not any(event["token"]["text"] for event in events if event["token"]["special"])
        for name in ("finish_reason", "generated_tokens", "chunks", "usage", "model", "seed"):
            assert events[-1]["details"][name] == answer["details"][name]


def test_beams_are_sent_whole(client):
    """What beams found is one event, at the end."""
    body = body_of(num_beams=3)
    (event,) = streamed(client, body)
    assert client.post("/summarize", json={**body, "stream": False}).json() == [{"summary_text": event["summary_text"]}]
    assert event["token"]["text"] == event["summary_text"]


def test_parts_are_streamed_in_the_last_round(client):
    """Of a document that is read in parts, the tokens of the summary itself are streamed."""
    body = body_of(LONG_DOCUMENT)
    body["parameters"]["long_text"] = "map_reduce"
    events = streamed(client, body)
    assert client.post("/summarize", json={**body, "stream": False}).json() == [{"summary_text": events[-1]["summary_text"]}]
    assert events[-1]["details"]["chunks"] > 1
    assert "".join(event["token"]["text"] for event in events) == events[-1]["summary_text"]


def test_model_of_beams_is_streamed_by_one(client):
    """Where the model's own way is beams, a stream that does not name them is of the greedy summary, token by token."""
    body = body_of(variant="compact-int8")
    events = streamed(client, body)
    assert len(events) > 1
    assert "".join(event["token"]["text"] for event in events) == events[-1]["summary_text"]
    whole, greedy = ({**body, "stream": False, "parameters": {"generate_parameters": way}} for way in ({}, {"num_beams": 1}))
    assert client.post("/summarize", json=greedy).json() == [{"summary_text": events[-1]["summary_text"]}]
    (event,) = streamed(client, body_of(variant="compact-int8", num_beams=4))
    assert client.post("/summarize", json=whole).json() == [{"summary_text": event["summary_text"]}]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, application/json", "text/event-stream"),
        ("application/json;q=0.5,Text/Event-Stream;q=0.9", "text/event-stream"),
        ("application/json, */*", "application/json"),
        ("text/event-streams", "application/json"),
    ],
)
def test_accept_asks_for_a_stream_as_well(client, accept, kind):
    """The header Accept does what `stream` does where it names events, among other types too."""
    response = client.post("/summarize", json={"inputs": DOCUMENT}, headers={"Accept": accept})
    assert response.headers["content-type"].partition(";")[0] == kind
    found = events_of(response.text)[-1][1] if kind == "text/event-stream" else response.json()[0]
    assert found["summary_text"]


def test_refusal_before_the_first_event_has_its_status(client):
    """What cannot be answered is a problem document, as without a stream."""
    body = body_of(" ")
    assert assert_problem(client.post("/summarize", json=body), 422, body)["errors"][0]["pointer"] == "#/inputs"
    body = body_of(num_beams=2, do_sample=True)
    assert_problem(client.post("/summarize", json=body), 422, body)


def test_refusal_costs_no_wording(held, monkeypatch):
    """What is refused is so before its document is read for how it writes its words."""
    app, _ = held
    model = app.state.serving.registry.served["summarize", "dense"].model
    read = []
    monkeypatch.setattr(model, "writer", lambda request: read.append(request))
    with TestClient(app) as client:
        assert_problem(client.post("/summarize", json=body_of(" ")), 422)
    assert read == []


def test_first_token_is_measured_however_late_it_comes(held, monkeypatch):
    """A stream that begins with a ping counts too."""
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.05)
    app, decoder = held
    decoder.gate.clear()
    with served(app) as client:
        with client.stream("POST", "/summarize", json=body_of()) as response:
            lines = response.iter_lines()
            assert next(lines) == ": ping"
            decoder.gate.set()
            list(lines)
        assert metric(client.get("/metrics").text, "secateur_first_token_duration_seconds_count") == 1


class Held:
    """A decoder's session that waits before each step while it is closed, or fails."""

    def __init__(self, session):
        """Around a session, open."""
        self.inputs, self.outputs, self.runtime, self.caches = session.inputs, session.outputs, session.runtime, session.caches
        self.gate, self.waited, self.broken, self.steps, self._session = threading.Event(), threading.Event(), False, 0, session
        self.gate.set()

    def run(self, inputs):
        """A step."""
        self.waited.set()
        self.gate.wait(20)
        self.steps += 1
        if self.broken:
            raise RuntimeError("secret of the house")
        return self._session.run(inputs)


@pytest.fixture
def held(models):
    """An application of the summarizing models alone, and the decoder of the default one, which can be held."""
    settings = Settings(models=models, runners=2, prefer=("dense",), variants=("summarize/*",))
    registry = Registry.load(settings)
    model = registry.served["summarize", "dense"].model
    decoder = Held(model.generator.decoder)
    object.__setattr__(model.generator, "decoder", decoder)
    assert isinstance(model.generator.encoder, OnnxSession)
    yield create_app(settings, registry), decoder
    decoder.gate.set()


def test_failure_on_the_way_is_an_event_with_the_problem(held, caplog):
    """When the model breaks after some tokens, the last event is `error`, with nothing of the inside, and the stream ends."""
    app, decoder = held
    with served(app) as client:
        with begun(client) as lines:
            decoder.broken = True
            rest = "\n".join(lines)
        name, problem = events_of(rest)[-1]
        assert name == "error"
        assert (problem["status"], problem["error_type"]) == (500, "internal")
        assert "secret" not in rest
        decoder.broken = False
        assert client.post("/summarize", json={"inputs": DOCUMENT}).status_code == 200
        text = client.get("/metrics").text
    assert metric(text, 'secateur_errors_total{type="internal"}') == 1
    assert metric(text, 'secateur_requests_total{code="500",route="/summarize",variant="dense"}') == 1
    assert metric(text, 'secateur_requests_total{code="200",route="/summarize",variant="dense"}') == 1
    assert metric(text, "secateur_decoder_active") == metric(text, "secateur_decoder_rows") == 0


def test_deadline_on_the_way_is_an_event(held):
    """Time that runs out after some tokens is said in the stream."""
    app, decoder = held
    with served(app) as client:
        with begun(client, headers={"X-Request-Timeout-Ms": "1000"}) as lines:
            decoder.gate.clear()
            name, problem = events_of("\n".join(lines))[-1]
        decoder.gate.set()
        assert (name, problem["status"]) == ("error", 504)


def test_shutdown_on_the_way_is_an_event(held):
    """When the time for what is in flight is over, a stream ends with an event that says so."""
    app, decoder = held
    with served(app) as client:
        with begun(client) as lines:
            decoder.gate.clear()
            app.state.serving.scheduler.abandon()
            name, problem = events_of("\n".join(lines))[-1]
        decoder.gate.set()
    assert (name, problem["status"], problem["error_type"]) == ("error", 503, "stopping")


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_hangs_up_pays_for_what_was_computed(held, stream, tmp_path):
    """A key's tokens are spent on what nobody waited for, too."""
    app, decoder = held
    key = make_key()
    (tmp_path / "keys").write_text(f"web {digest(key)} tokens_per_minute=1\n")
    app = create_app(Settings(**{**app.state.serving.settings.model_dump(), "api_keys": tmp_path / "keys"}), app.state.serving.registry)
    with live(app) as server, httpx2.Client(base_url=server.address, timeout=30, headers={"X-API-Key": key}) as client:
        decoder.gate.clear()
        hang_up(server.port, {**body_of(**FOREVER), "stream": stream}, after=0, key=key, until_begun=lambda: decoder.waited.wait(20))
        until(lambda: client.get("/metrics").status_code == 429)
        assert_problem(client.post("/summarize", json={"inputs": DOCUMENT}), 429)
        decoder.gate.set()


def test_silence_is_filled_with_pings(held, monkeypatch):
    """While no token comes, a comment does, so that nobody in between hangs up."""
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.05)
    app, decoder = held
    decoder.gate.clear()
    with (
        live(app) as server,
        httpx2.Client(base_url=server.address, timeout=30) as client,
        client.stream("POST", "/summarize", json=body_of()) as response,
    ):
        lines = response.iter_lines()
        assert [next(lines) for _ in range(4)] == [": ping", ""] * 2
        decoder.gate.set()
        assert events_of("\n".join(lines))[-1][1]["summary_text"]


def hang_up(port, body, *, after, key="", until_begun=lambda: None):
    """Send a request, wait for its work to have begun, or for so many bytes of its answer, and leave."""
    raw = json.dumps(body).encode()
    head = f"POST /summarize HTTP/1.1\r\nHost: garden\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n"
    head += f"X-API-Key: {key}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + raw)
        until_begun()
        if after:
            connection.recv(after)


def test_client_that_is_gone_before_the_first_byte_stops_the_work():
    """Also where not even the headers could be sent, and no event was ever asked for."""
    ended = []

    async def events():
        yield b""

    async def send(message):
        raise ConnectionResetError(message["type"])

    async def respond():
        await streaming.Stream(events(), [], stop=lambda: ended.append(True))({}, None, send)

    with pytest.raises(ConnectionResetError, match="start"):
        asyncio.run(respond())
    assert ended == [True]


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_hangs_up_frees_its_rows(held, stream):
    """Whoever leaves in the middle takes no more steps, and what is being decoded is shown by a metric; others are not disturbed."""
    app, decoder = held
    alone = {"inputs": "ada wrote it", "parameters": {"generate_parameters": FOREVER}}
    with served(app) as client:

        def active():
            return metric(client.get("/metrics").text, "secateur_decoder_active")

        expected = client.post("/summarize", json=alone).json()
        decoder.gate.clear()
        first = threading.Thread(target=hang_up, args=(client.base_url.port, {**body_of(**FOREVER), "stream": stream}), kwargs={"after": 0})
        answers = []
        other = threading.Thread(target=lambda: answers.append(client.post("/summarize", json=alone).json()))
        first.start()
        other.start()
        first.join()
        until(lambda: metric(client.get("/metrics").text, 'secateur_shed_total{reason="client_gone"}') == 1)
        steps = decoder.steps
        decoder.gate.set()
        other.join(20)
        until(lambda: active() == 0)
        text = client.get("/metrics").text
    assert answers == [expected]
    assert decoder.steps - steps <= 41, "who left was decoded on"
    assert metric(text, "secateur_decoder_rows") == metric(text, "secateur_decoder_waiting") == 0
    assert app.state.serving.scheduler.depth == (0, 0, 0)


def test_stream_that_is_left_in_the_middle_frees_its_row(held):
    """After the first events have been read, too."""
    app, decoder = held
    with served(app) as client:
        with begun(client):
            decoder.gate.clear()
        until(lambda: metric(client.get("/metrics").text, 'secateur_shed_total{reason="client_gone"}') == 1)
        decoder.gate.set()
        until(lambda: metric(client.get("/metrics").text, "secateur_decoder_active") == 0)
        assert app.state.serving.scheduler.depth == (0, 0, 0)
