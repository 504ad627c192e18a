"""Servers in child processes: ready, asleep, awake, ended."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.bench import servers
from service.bench.processes import cpu_seconds, members
from service.bench.servers import Server, awake, child_environment, started
from service.errors import BenchError

ROOT = Path(__file__).parents[3]
STUB = "tests.service.bench.stub"


def _server(*options: str) -> Server:
    return Server("the stub", [STUB, *options], ready_path="/health", environment={"PYTHONPATH": str(ROOT)})


def _answers(port: int, seconds: float) -> bool:
    """Whether a request is answered in that time."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        try:
            return bool(connection.recv(100))
        except TimeoutError:
            return False


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter waits."""
    monkeypatch.setattr(servers, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(servers, "CALM_SECONDS", 0.02)


@pytest.fixture
def running() -> Iterator[Server]:
    """The stub, ready."""
    with started(_server()) as server:
        server.wait()
        yield server


def test_a_server_is_asleep_but_for_its_visit(running):
    """Stopped, it does not answer; awake, it does; and it is stopped again afterwards."""
    running.sleep()
    assert not _answers(running.port, 0.1)
    with awake(running):
        assert _answers(running.port, 5.0)
    assert not _answers(running.port, 0.1)


def test_its_processes_are_known(running):
    """Their time can be read while it runs."""
    assert running.pids == members(running.pids[0])
    assert cpu_seconds(running.pids) > 0


def test_a_server_is_woken_to_end_by_itself():
    """One that is asleep, too, hears that it is to end, and is not killed after a long wait."""
    with started(_server()) as server:
        server.wait()
        session = server.pids[0]
        server.sleep()
        began = time.monotonic()
    assert members(session) == []
    assert time.monotonic() - began < servers.STOP_SECONDS / 2


def test_a_server_that_will_not_end_is_made_to(monkeypatch):
    """Nothing that was started outlives the benchmark."""
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.1)
    with started(_server("--stubborn")) as server:
        server.wait()
        session = server.pids[0]
    assert members(session) == []


def test_a_server_that_ends_instead_is_named_with_its_last_words():
    """What it printed last says why."""
    with started(_server("--broken")) as server, pytest.raises(BenchError, match=r"^the stub ended instead of starting: no model here$"):
        server.wait()


def test_a_server_that_never_becomes_ready_is_not_waited_for():
    """After the time allowed the benchmark says so."""
    server = Server("the stub", [STUB], ready_path="/gone", environment={"PYTHONPATH": str(ROOT)})
    with started(server), pytest.raises(BenchError, match=r"the stub was not ready in 0\.5 s: it said nothing"):
        server.wait(seconds=0.5)


def test_children_inherit_everything_but_locks():
    """An API key or a fixed port of this machine's own service would keep the benchmark out; its other settings hold."""
    inherited = {"PATH": "/bin", "SECATEUR_API_KEYS": "keys", "SECATEUR_ADMIN_PORT": "1", "SECATEUR_RUNNERS": "3"}
    assert child_environment(inherited, {"SECATEUR_VARIANTS": "[]"}) == {
        "PATH": "/bin",
        "SECATEUR_RUNNERS": "3",
        "SECATEUR_VARIANTS": "[]",
    }
