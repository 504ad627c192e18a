"""Servers under test: child processes, each in a session of its own, that are asleep (stopped) while another one is measured.

A server that only waits may still use the processor; a stopped one cannot. Each is ended with all that it has started.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from service.bench.processes import cpu_seconds, members
from service.errors import BenchError

HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 10.0
REST_SECONDS = 60.0
NOT_INHERITED = frozenset({"SECATEUR_API_KEYS", "SECATEUR_TOKENS_PER_MINUTE", "SECATEUR_ADMIN_PORT"})
CALM_SECONDS = 0.5
IDLE_SHARE = 0.1

_POLL_SECONDS = 0.1


class Server:
    """A server in a child process and in the children that it starts.

    Attributes:
        name: for messages.
        port: where it answers.
        pids: its processes, once it is ready.
    """

    def __init__(self, name: str, arguments: Sequence[str], *, ready_path: str, environment: Mapping[str, str] | None = None) -> None:
        """Start `python -m <arguments> --port <a free one>`; `wait` until it is ready."""
        self.name, self.port = name, free_port()
        self.pids: list[int] = []
        self._ready_path = ready_path
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the server
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments, "--port", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env=child_environment(os.environ, environment or {}),
        )

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Until it says that it is ready; `BenchError` with its last words when it never does."""
        until = time.monotonic() + seconds
        while not self._is_ready():
            if self._process.poll() is not None:
                raise BenchError(f"{self.name} ended instead of starting: {self.last_words()}")
            if time.monotonic() > until:
                raise BenchError(f"{self.name} was not ready in {seconds:g} s: {self.last_words()}")
            time.sleep(_POLL_SECONDS)
        self._rest()
        self.pids = members(self._process.pid)

    def sleep(self) -> None:
        """Stop all its processes where they are."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it: asked first, then made to."""
        self.wake()
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def last_words(self) -> str:
        """The last line that it wrote."""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def _rest(self) -> None:
        """Until its processes do next to nothing: one worker may answer while another is still loading."""
        until, before = time.monotonic() + REST_SECONDS, -1.0
        used = cpu_seconds(members(self._process.pid))
        while used - before > IDLE_SHARE * CALM_SECONDS and time.monotonic() < until:
            time.sleep(CALM_SECONDS)
            before, used = used, cpu_seconds(members(self._process.pid))

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5.0)
        try:
            connection.request("GET", self._ready_path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def started(server: Server) -> Iterator[Server]:
    """The server, until the block ends."""
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def awake(server: Server) -> Iterator[Server]:
    """The server, awake for this block and asleep after it."""
    server.wake()
    try:
        yield server
    finally:
        server.sleep()


def our_server(models: Path, *, variants: Sequence[str] = (), runtimes: Mapping[str, str] | None = None) -> Server:
    """The service as a user starts it.

    Args:
        models: folder of the artifacts.
        variants: load only these; all without it.
        runtimes: by `<name>/<variant>`, where it is not ONNX Runtime.
    """
    environment = {"SECATEUR_RUNTIME": json.dumps(dict(runtimes or {})), "SECATEUR_VARIANTS": json.dumps(list(variants))}
    arguments = ["service", "--models", str(models), "--host", HOST]
    return Server("the service", arguments, ready_path="/v2/health/ready", environment={**environment, "SECATEUR_DRAIN_DELAY_S": "0"})


def child_environment(inherited: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """What a child sees: what this process does, but for settings that would lock the benchmark out or take a port twice."""
    return {**{name: value for name, value in inherited.items() if name not in NOT_INHERITED}, **changes}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
