"""The load generator sends what it is told, when it is told, and misses no answer."""

import io
import itertools
import json
from collections import Counter

import numpy as np
import pytest

from service.bench import generator
from service.bench.connections import LOST, content_length, message
from service.bench.generator import arrivals, serve


def _closed(port: int, *requests: tuple[str, str], connections: int = 3, seconds: float = 0.1) -> dict:
    options = {"connections": connections, "seconds": seconds, "pids": []}
    return serve({"kind": "closed", "port": port, "requests": list(requests), "options": options})


def _open(port: int, *requests: tuple[str, str], phases: list[list[float]], connections: int = 50) -> dict:
    options = {"phases": phases, "connections": connections, "seed": 0, "pids": []}
    return serve({"kind": "open", "port": port, "requests": list(requests), "options": options})


def test_a_message_counts_its_bytes():
    """Content-Length is of bytes, not of characters."""
    head, _, body = message("/qa", '"é"').partition(b"\r\n\r\n")
    assert head.startswith(b"POST /qa HTTP/1.1\r\n")
    assert content_length(head) == len(body) == 4


@pytest.mark.parametrize("path", ["/echo", "/split", "/slow"])
def test_closed_loop_keeps_its_connections_and_notes_every_answer(stub, path):
    """As many answers as requests reached the server, each with its own body, over the same few connections."""
    bodies = ['"a"', '"bb"', '"ccc"']
    result = _closed(stub.port, *[(path, body) for body in bodies])
    assert set(result["status"]) == {200}
    assert len(result["status"]) == stub.paths[path] >= 3
    assert sorted(result["bodies"]) == [[index, body] for index, body in enumerate(bodies)]
    assert stub.connections == 3


def test_closed_loop_never_has_more_on_its_way_than_connections(stub):
    """Two clients wait for their answers before they ask again."""
    result = _closed(stub.port, ("/slow", "1"), connections=2)
    changes = sorted([(moment, 1) for moment in result["sent"]] + [(moment, -1) for moment in result["ended"]])
    assert max(itertools.accumulate(change for _, change in changes)) == 2


def test_closed_loop_is_full_until_the_window_is_shut(stub):
    """Whatever was on its way when the window shut was answered while others still were."""
    result = _closed(stub.port, ("/slow", "1"), connections=3)
    shut, ended = result["shut"]["clock"], np.array(result["ended"])
    across = ended[(np.array(result["sent"]) < shut) & (ended >= shut)]
    assert len(across) == 3
    assert (np.array(result["sent"]) >= shut).any()


def test_open_loop_sends_when_it_is_due_and_opens_connections_for_it(stub):
    """Slow answers do not hold back the next request."""
    result = _open(stub.port, ("/slow", "1"), phases=[[0.3, 200.0]])
    intended = np.array(result["intended"]) - result["opened"]["clock"]
    assert sorted(intended) == pytest.approx(list(arrivals([[0.3, 200.0]], 0)), abs=1e-9)
    assert stub.connections > 3
    assert (np.array(result["sent"]) >= np.array(result["intended"])).all()


def test_open_loop_counts_the_wait_for_a_connection(stub):
    """With one connection, latency from the intended start grows as the backlog does."""
    result = _open(stub.port, ("/slow", "1"), phases=[[0.2, 100.0]], connections=1)
    waited = np.array(result["sent"]) - np.array(result["intended"])
    assert stub.connections == 1
    assert len(result["status"]) == len(list(arrivals([[0.2, 100.0]], 0)))
    assert waited.max() > 0.2


def test_refusals_and_lost_connections_are_told_apart(stub):
    """A 503 keeps its connection and its body; a server that hangs up is noted, and asked again on a new one."""
    result = _open(stub.port, ("/busy", '"why"'), ("/gone", "1"), ("/echo", "2"), phases=[[0.2, 100.0]], connections=1)
    counts = Counter(result["status"])
    assert set(counts) == {200, 503, LOST}
    assert 2 * counts[LOST] == stub.paths["/gone"], "each is sent once more, on a connection of its own"
    assert json.loads(result["problem"]) == "why"
    assert stub.connections >= counts[LOST]


def test_a_connection_that_ends_while_nothing_is_asked_is_not_lost(stub):
    """Servers end idle connections; the next request takes a new one, and every answer counts once."""
    result = _open(stub.port, ("/once", "1"), phases=[[0.5, 20.0]], connections=1)
    assert set(result["status"]) <= {200}
    assert len(result["status"]) == stub.paths["/once"] > 1


def test_arrivals_are_a_poisson_process_of_the_given_rates():
    """Gaps are exponential: their mean is 1 / rate and their spread is as large as their mean; a seed gives the same times."""
    times = np.array(list(arrivals([[50.0, 100.0], [50.0, 10.0]], 7)))
    first, second = times[times < 50], times[times >= 50]
    gaps = np.diff(first)
    assert len(first) == pytest.approx(5000, rel=0.05)
    assert len(second) == pytest.approx(500, rel=0.15)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    assert list(times) == list(arrivals([[50.0, 100.0], [50.0, 10.0]], 7))


def test_an_answer_that_cannot_be_read_is_an_error(stub, monkeypatch, capsys):
    """The process says what is wrong in its one line, and goes on with the next command."""
    command = {
        "kind": "closed",
        "port": stub.port,
        "requests": [["/chunked", "1"]],
        "options": {"connections": 1, "seconds": 0, "pids": []},
    }
    good = {**command, "requests": [["/echo", "1"]]}
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{json.dumps(command)}\n{json.dumps(good)}\n"))
    generator.main()
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "without Content-Length" in first["error"]
    assert set(second["status"]) == {200}


def test_silence_is_an_error(stub, monkeypatch):
    """A server that never answers does not hold the benchmark for ever."""
    monkeypatch.setattr(generator, "SILENCE_SECONDS", 0.01)
    monkeypatch.setattr("service.bench.connections.SILENCE_SECONDS", 0.01)
    with pytest.raises(TimeoutError, match="no answer"):
        _closed(stub.port, ("/slow", "1"))
