"""The service as this package starts it: a child process on cores of its own, ended with all that it has started."""

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loadtests.children import last_words, start, stop
from loadtests.client import OK, Client
from loadtests.errors import ServiceError
from loadtests.machine import is_running, on_cores

HOST = "127.0.0.1"
READY_PATH = "/v2/health/ready"
START_SECONDS = 180.0

_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Server:
    """A service that answers at `url`; `pid` and `log` are None where it was not started here."""

    url: str
    pid: int | None = None
    log: IO[bytes] | None = None

    @property
    def ended(self) -> str | None:
        """Its last words, where it was started here and has ended."""
        return last_words(self.log) if self.pid is not None and self.log is not None and not is_running(self.pid) else None


@contextmanager
def running(command: Sequence[str], *, environment: Mapping[str, str], cores: Sequence[int]) -> Iterator[Server]:
    """A service, until the block ends; `ServiceError` with its last words when it never is ready.

    Args:
        command: what starts it; ` --port <a free one>` is added.
        environment: added to this process' own.
        cores: which it may use.
    """
    port = free_port()
    with tempfile.TemporaryFile() as log:
        with on_cores(cores):
            process = start([*command, "--port", str(port)], output=log, log=log, environment=environment)
        try:
            url = f"http://{HOST}:{port}"
            wait_until_ready(process, url, log)
            yield Server(url, process.pid, log)
        finally:
            stop(process)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: IO[bytes]) -> None:
    """Until it says so; `ServiceError` with the last line of its log when it ends instead, or takes too long."""
    until = time.monotonic() + START_SECONDS
    while not _is_ready(url):
        if process.poll() is not None:
            raise ServiceError(f"the service ended instead of starting: {last_words(log)}")
        if time.monotonic() > until:
            raise ServiceError(f"the service was not ready in {START_SECONDS:g} s: {last_words(log)}")
        time.sleep(_POLL_SECONDS)


def service_command(models: Path) -> list[str]:
    """How this project's service is started."""
    return [sys.executable, "-m", "service", "--models", str(models), "--host", HOST]


def service_environment(variant: str, *, runtime: str) -> dict[str, str]:
    """Settings of a service that loads this variant of every model, in this runtime, and stops without delay."""
    return {
        "SECATEUR_VARIANTS": json.dumps([variant]),
        "SECATEUR_RUNTIME": json.dumps({"*": runtime}),
        "SECATEUR_DRAIN_DELAY_S": "0",
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str) -> bool:
    try:
        return Client(url).request("GET", READY_PATH).status == OK
    except ServiceError:
        return False
