"""Requests that come together are answered as each would be alone, whoever shares a call with whom and whoever leaves."""

import asyncio
import json
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.registry import Registry
from service.settings import Settings
from tests.service.http.support import FakeSession, HeldSession, live, metric, registry_of, same, until

WORDS = ("ada", "wrote", "it", "in", "the", "café", "🙂", "日本", ".", "?")
REQUESTS = 60


def text(chance, most):
    """Some words."""
    return " ".join(chance.choices(WORDS, k=chance.randint(1, most)))


def asked(chance, path):
    """A random body: mostly for the variant whose rows share calls, now and then for the other one."""
    variant = "dense" if chance.random() < 0.8 else "compact-int8"
    if path == "/qa":
        questions = [{"question": text(chance, 5), "context": text(chance, 40)} for _ in range(chance.randint(1, 3))]
        parameters = {"top_k": chance.randint(1, 5), "handle_impossible_answer": chance.random() < 0.5}
        return {"inputs": questions, "parameters": parameters, "variant": variant}
    long_text = chance.choice(["truncate", "windows"])
    return {
        "inputs": [text(chance, 12) for _ in range(chance.randint(1, 4))],
        "parameters": {"long_text": long_text, "function_to_apply": "none"},
        "model": "sentiment",
        "variant": variant,
    }


def held(models, event):
    """An application whose models wait for an event before each call."""
    settings = Settings(models=models, runners=2, variants=("qa/*", "sentiment/*"))
    registry = Registry.load(settings)
    for served in registry.served.values():
        served.model.session = HeldSession(served.model.session, event)
    return create_app(settings, registry)


def release(event, condition):
    """Let the models go when the condition holds."""
    until(condition)
    event.set()


async def together(app, path, bodies):
    """Answers to requests that are all sent at once."""
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://garden", timeout=60) as client:
        responses = await asyncio.gather(*(client.post(path, json=body) for body in bodies))
    assert [response.status_code for response in responses] == [200] * len(bodies)
    return [response.json() for response in responses]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("path", ["/qa", "/classify"])
def test_every_answer_equals_the_answer_given_alone(models, path, seed):
    """Shuffled and sent at once, to a model that shares calls and to one whose rows must not: nothing changes but the time."""
    chance, open_gate = random.Random(seed), threading.Event()
    open_gate.set()
    bodies = [asked(chance, path) for _ in range(REQUESTS)]
    order = chance.sample(range(REQUESTS), REQUESTS)
    with TestClient(held(models, open_gate)) as client:
        alone = [client.post(path, json=body).json() for body in bodies]
        calls = metric(client.get("/metrics").text, "secateur_batch_rows_count")
        open_gate.clear()
        depth = client.app.state.serving.scheduler
        threading.Thread(target=release, args=(open_gate, lambda: depth.depth[0] > REQUESTS)).start()
        crowded = asyncio.run(together(client.app, path, [bodies[index] for index in order]))
        crowded_calls = metric(client.get("/metrics").text, "secateur_batch_rows_count") - calls
    assert crowded_calls < 0.9 * calls, "hardly a row shared a call with another request's, so nothing was tried"
    for index, answer in zip(order, crowded, strict=True):
        assert same(answer, alone[index], tolerance=1e-5 if bodies[index]["variant"] == "dense" else 0.0), bodies[index]


@contextmanager
def opened_at_last(gate):
    """Whatever happens, nothing waits for the gate any more."""
    try:
        yield
    finally:
        gate.set()


def hang_up(port, body):
    """Send a whole request and leave without waiting for the answer."""
    raw = json.dumps(body).encode()
    head = f"POST /classify HTTP/1.1\r\nHost: garden\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + raw)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_clients_that_hang_up_change_nobody_elses_answer(models, precision):
    """Half of the clients leave while they wait: their work is dropped and counted, the others are answered, nothing stays behind."""
    gate, half = threading.Event(), 10
    session = FakeSession("text-classification", lambda: gate.wait(30))
    app = create_app(Settings(models=models, runners=1), registry_of(session, precision=precision))
    depth = app.state.serving.scheduler
    with (
        live(app) as server,
        httpx2.Client(base_url=server.address, timeout=60) as client,
        ThreadPoolExecutor(half + 1) as pool,
        opened_at_last(gate),
    ):
        waiting = [pool.submit(client.post, "/classify", json={"inputs": "ada"})]
        until(lambda: depth.depth[0] == 1)
        for number in range(half):
            waiting.append(pool.submit(client.post, "/classify", json={"inputs": [f"ada {number}", "it"]}))
            hang_up(server.port, {"inputs": ["ada", "wrote", "it"]})
        until(lambda: metric(client.get("/metrics").text, 'secateur_shed_total{reason="client_gone"}') == half)
        until(lambda: depth.depth[0] == 1 + 2 * half)
        gate.set()
        answers = [each.result(60) for each in waiting]
        text = client.get("/metrics").text
    assert [response.status_code for response in answers] == [200] * (1 + half)
    assert all(response.json() == answers[1].json() for response in answers[2:])
    assert metric(text, 'secateur_requests_total{code="499",route="/classify",variant="dense"}') == half
    assert metric(text, "secateur_inflight") == 1, "the one that reads it"
    assert depth.depth == (0, 0, 0)
    assert session.runs <= 1 + 2 * half, "what nobody waits for never ran"


def test_client_that_leaves_in_the_middle_of_its_request_harms_nobody(server):
    """Half a request and no more is no error of the server's."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"POST /qa HTTP/1.1\r\nHost: garden\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
    with httpx2.Client(base_url=server.address) as client:
        until(lambda: metric(client.get("/metrics").text, 'secateur_requests_total{code="499",route="/qa",variant=""}') == 1)
        assert metric(client.get("/metrics").text, "secateur_inflight") == 1
        assert client.post("/classify", json={"inputs": "ada"}).status_code == 200
