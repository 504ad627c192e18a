"""The process: what it prints, what signals do, and that no accepted request is lost. Real sockets, real signals."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.app import create_app
from service.errors import StoppedError
from service.jobs import Job
from service.server import _Life, _Server
from service.settings import Settings
from service.tasks.base import Request
from tests.service.test_registry import put
from tests.waiting import until

PATIENCE = 20.0
ASK = {"inputs": {"question": "who?", "context": "Ada wrote it in the night. " * 20}}


class Running:
    """A server in a process of its own."""

    def __init__(self, models: Path, *flags: str) -> None:
        """Start it, and wait until it says that it serves."""
        command = [sys.executable, "-m", "service", "--models", str(models), "--port", "0", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        found = re.search(r"http://\S+", first)
        assert found, first + (self.process.stderr.read() if self.process.stderr else "")
        self.address = found[0]

    def ready(self) -> int:
        """Status of the readiness probe."""
        return httpx.get(f"{self.address}/v2/health/ready").status_code

    def ends(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors


@contextlib.contextmanager
def running(models: Path, *flags: str) -> Iterator[Running]:
    """A server that is gone afterwards."""
    server = Running(models, *flags)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


class Callers:
    """Clients that ask as fast as they are answered, on connections that stay open, until told to stop."""

    def __init__(self, address: str, count: int = 4) -> None:
        """Start them."""
        self.statuses: list[int] = []
        self.broken: list[Exception] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(address,)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let them finish."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _ask(self, address: str) -> None:
        with httpx.Client(timeout=PATIENCE) as client:
            while not self._stop.is_set():
                try:
                    self.statuses.append(client.post(f"{address}/qa", json=ASK).status_code)
                except httpx.ConnectError:  # it listens no more: nothing was accepted
                    return
                except httpx.HTTPError as error:
                    self.broken.append(error)
                    return


def test_it_says_where_it_serves_and_what(tmp_path):
    """Address, variants and a line to try for each task; each line answers."""
    put(tmp_path, "qa", "dense")
    put(tmp_path, "topics", "dense", task="text-classification")
    with running(tmp_path) as server:
        assert server.process.stdout is not None
        lines = [server.process.stdout.readline() for _ in range(6)]
        tries = [line for line in lines if line.startswith("curl ")]
        assert len(tries) == 2
        for line in tries:
            body = json.loads(line[line.index("-d '") + 4 : -2])
            assert httpx.post(line.split()[1], json=body).status_code == 200


def test_a_stop_under_load_loses_nothing(tmp_path):
    """SIGTERM: not ready at once, still answering, then the rest is finished and the process ends with 0."""
    put(tmp_path, "qa", "dense")
    with running(tmp_path, "--drain-delay-s", "0.7", "--log-requests") as server:
        callers = Callers(server.address)
        until(lambda: len(callers.statuses) > 20)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.ready() == 503)
        during = len(callers.statuses)
        code, errors = server.ends()
        callers.stop()
        logged = [json.loads(line) for line in errors.splitlines()]
        answered = [line["status"] for line in logged if line.get("route") == "/qa"]
        assert code == 0
        assert len(callers.statuses) > during
        assert set(callers.statuses) <= {200, 503}
        assert sorted(answered) == sorted(callers.statuses)  # whatever reached the application reached its client


def test_a_reload_under_load_fails_no_request(tmp_path):
    """SIGHUP: the new variant answers, and nobody noticed; a damaged one changes nothing."""
    put(tmp_path, "qa", "dense")
    with running(tmp_path) as server:
        callers = Callers(server.address)
        put(tmp_path, "qa", "compact", seed=1)
        server.process.send_signal(signal.SIGHUP)
        until(lambda: httpx.post(f"{server.address}/qa", json=ASK).headers["x-model-variant"] == "compact")
        (tmp_path / "qa/compact/model.onnx").write_bytes(b"damaged")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: 'secateur_reloads_total{outcome="failed"} 1.0' in httpx.get(f"{server.address}/metrics").text)
        assert httpx.post(f"{server.address}/qa", json=ASK).headers["x-model-variant"] == "compact"
        callers.stop()
        assert set(callers.statuses) == {200}
        assert not callers.broken


def test_ctrl_c_ends_at_once(tmp_path):
    """SIGINT does not wait for a load balancer, and is no traceback."""
    put(tmp_path, "qa", "dense")
    with running(tmp_path, "--drain-delay-s", "60") as server:
        server.process.send_signal(signal.SIGINT)
        code, errors = server.ends()
        assert (code, errors) == (0, "")


def test_operations_have_a_port_of_their_own(tmp_path):
    """With an admin port, metrics and the reload are there and not where requests go."""
    put(tmp_path, "qa", "dense")
    with running(tmp_path, "--admin-port", "0") as server:
        assert httpx.get(f"{server.address}/metrics").status_code == 404
        assert httpx.get(f"{server.address}/v2/health/live").status_code == 200


class Open:
    """A task's model that never comes to an end of its own."""

    batches = False


def test_what_takes_too_long_is_ended_before_its_connection_is_cut(tmp_path):
    """After the time for what is in flight there is some left to say that it was not enough."""
    put(tmp_path, "qa", "dense")
    settings = Settings(models=tmp_path, drain_s=0.01, drain_delay_s=0)
    app = create_app(settings)
    server = _Server(app, settings)
    job = Job(Open(), Request(), 1, time.monotonic() + PATIENCE, lambda _: None)
    app.state.serving.scheduler.submit(job)
    asyncio.run(_Life(app.state.serving, [server], settings)._stop(0))
    assert isinstance(job.error, StoppedError)
    assert server.should_exit
    assert server.config.timeout_graceful_shutdown > settings.drain_s


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "99999"], "--port is '99999'"),
        (["--weights", "{"], "--weights is '{'"),
        (["--variants", "nothing"], "no artifact is called nothing"),
        (["--api-keys", "missing"], "the file of API keys cannot be read"),
        (["--host", "256.0.0.1"], "cannot listen on 256.0.0.1"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path, flags: list[str], said: str):
    """A wrong flag ends with exit code 2 and says what to do, before anything listens."""
    put(tmp_path, "qa", "dense")
    command = [sys.executable, "-m", "service", "--models", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""
