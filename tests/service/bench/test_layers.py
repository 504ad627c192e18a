"""The raw session, the engine and a server over HTTP, as cells measure them."""

import json
import threading

import pytest

from service.bench.client import Generator
from service.bench.engine import engine_visit, running_scheduler
from service.bench.layers import Bench, http_visit, judge_of
from service.bench.raw import fastest_calls, raw_calls, raw_visit
from service.bench.servers import Server
from service.bench.texts import make_load, same
from service.errors import BenchError


class AwakeStub:
    """The part of a server that a visit needs, for one that is never stopped."""

    def __init__(self, port: int) -> None:
        """It answers there."""
        self.port, self.pids, self.calls = port, [], []

    def wake(self) -> None:
        """Note it."""
        self.calls.append("wake")

    def sleep(self) -> None:
        """Note it."""
        self.calls.append("sleep")


class CountingSession:
    """Notes the shapes that it is fed."""

    inputs, outputs, runtime = ("input_ids",), ("logits",), "none"

    def __init__(self) -> None:
        """Nothing was fed."""
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: dict) -> dict:
        """Nothing comes out."""
        self.shapes.append(inputs["input_ids"].shape)
        return {}


class BrokenSession(CountingSession):
    """Cannot run."""

    def run(self, inputs: dict) -> dict:
        """Fails."""
        raise ValueError("broken")


@pytest.mark.parametrize(
    ("texts", "rows_per_call", "feeds", "rows", "requests"), [(1, 1, 1, 1, 1.0), (1, 8, 1, 8, 8.0), (8, 1, 8, 1, 1.0), (8, 8, 1, 8, 1.0)]
)
def test_raw_calls_hold_all_rows_and_count_requests(classify_model, texts, rows_per_call, feeds, rows, requests):
    """Alone or joined, every row is there, and a call says how many requests it answers."""
    calls = raw_calls(make_load(classify_model, texts_per_request=texts), classify_model, rows_per_call)
    assert {(len(call.feeds), len(call.feeds[0]["input_ids"]), call.requests) for call in calls} == {(feeds, rows, requests)}
    assert sum(call.requests for call in calls) == 16


def test_raw_visit_is_of_as_many_callers(classify_model):
    """Callers run side by side, each row of the load gets its turn, and processor time is taken."""
    session = CountingSession()
    seen = raw_visit(session, raw_calls(make_load(classify_model), classify_model, 1), callers=2, seconds=0.05)
    assert set(session.shapes) == {(1, 32)}
    assert 0 < seen.requests <= len(session.shapes)
    assert seen.cpu_seconds > 0


def test_a_session_that_fails_does_not_hang_the_others(classify_model, monkeypatch):
    """A caller that cannot start ends the visit."""
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with pytest.raises(RuntimeError):
        raw_visit(BrokenSession(), raw_calls(make_load(classify_model), classify_model, 1), callers=2, seconds=0.05)


def test_rows_that_may_not_share_a_call_never_do(classify_model, monkeypatch):
    """A model whose answers depend on neighbours is measured row by row."""
    load = make_load(classify_model)
    monkeypatch.setattr(type(classify_model), "batches", False)
    assert {len(call.feeds[0]["input_ids"]) for call in fastest_calls(load, classify_model, callers=1)} == {1}


def test_engine_answers_what_is_kept_in_flight(classify_model, monkeypatch):
    """Requests of several texts count once, when all are answered; so many are in flight, never more, and none is left behind."""
    load, jobs, all_sent = make_load(classify_model, texts_per_request=8), [], threading.Event()
    run_batch = classify_model.run_batch
    with running_scheduler(2) as scheduler:
        submit, depths = scheduler.submit, []

        def noted(job):
            submit(job)
            jobs.append(job)
            depths.append(scheduler.depth[0])
            if len(jobs) == 3 * 8:
                all_sent.set()

        def held(rows):
            assert all_sent.wait(10), "fewer are in flight"
            return run_batch(rows)

        monkeypatch.setattr(scheduler, "submit", noted)
        monkeypatch.setattr(classify_model, "run_batch", held)
        seen = engine_visit(scheduler, classify_model, load, in_flight=3, seconds=0.1)
        assert scheduler.depth == (0, 0, 0)
    assert max(depths) == 3 * 8
    assert len(jobs) % 8 == 0
    assert 0 < seen.requests <= len(jobs) / 8


def test_engine_that_fails_is_said(classify_model, monkeypatch):
    """An error of the model ends the visit with its reason."""
    load = make_load(classify_model)
    monkeypatch.setattr(classify_model, "session", BrokenSession())
    with running_scheduler(1) as scheduler, pytest.raises(BenchError, match="broken"):
        engine_visit(scheduler, classify_model, load, in_flight=1, seconds=0.05)


def test_http_visit_wakes_the_server_and_judges_its_answers(stub):
    """The server sleeps again afterwards; an answer that is not the expected one is noticed."""
    server = AwakeStub(stub.port)
    wanted = [[{"label": "A", "score": 0.5}], [{"label": "B", "score": 0.5}]]
    messages = [("/echo", json.dumps([[{"label": "A", "score": 0.5}]]))] * 2
    with Generator() as generator:
        seen = http_visit(generator, server, messages, judge_of(wanted, same), connections=2)(0.05)  # type: ignore[arg-type]
    assert server.calls == ["wake", "sleep"]
    assert (seen.failed, seen.unexpected) == (0, 1)


@pytest.mark.parametrize("body", ["", "no JSON", "[]", '[{"label": "A", "score": 0.5}, {"label": "A", "score": 0.5}]', "null"])
def test_a_body_of_another_kind_is_not_the_answer(body):
    """Whatever a server sends, judging it does not fail."""
    assert not judge_of([[{"label": "A", "score": 0.5}]], same)(0, body)


@pytest.mark.parametrize(("cores", "texts", "expected"), [(2, 1, 8), (2, 8, 8), (64, 1, 256), (64, 8, 56), (500, 1000, 1)])
def test_no_more_is_kept_in_flight_than_a_queue_takes(classify_model, cores, texts, expected):
    """Four requests for each core, but never more texts than the service lets wait."""
    load = make_load(classify_model, texts_per_request=1)
    many = type(load)(**{**vars(load), "texts_per_request": texts})
    bench = Bench(cores, generator=None, ours=Server.__new__(Server), scheduler=None)  # type: ignore[arg-type]
    assert bench.in_flight(many) == expected
