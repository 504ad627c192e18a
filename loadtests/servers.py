"""The service as this package starts it: a child process on cores of its own, ended with all that it has started."""

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

from loadtests.client import OK, Client
from loadtests.errors import ServiceError
from loadtests.machine import on_cores

HOST = "127.0.0.1"
READY_PATH = "/v2/health/ready"
START_SECONDS = 180.0
STOP_SECONDS = 10.0
NOT_INHERITED = frozenset({"SECATEUR_API_KEYS", "SECATEUR_TOKENS_PER_MINUTE", "SECATEUR_ADMIN_PORT", "SECATEUR_HOST", "SECATEUR_PORT"})

_POLL_SECONDS = 0.1


@contextmanager
def running(command: Sequence[str], *, environment: Mapping[str, str], cores: Sequence[int]) -> Iterator[str]:
    """A service, until the block ends.

    Args:
        command: what starts it; ` --port <a free one>` is added.
        environment: added to this process' own.
        cores: which it may use.

    Returns:
        its address, once it is ready; `ServiceError` with its last words when it never is.
    """
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    with tempfile.TemporaryFile() as log:
        with on_cores(cores):
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one
                env={**inherited, **environment},
            )
        try:
            url = f"http://{HOST}:{port}"
            _wait(process, url, log.fileno())
            yield url
        finally:
            _stop(process)


def service_command(models: Path) -> list[str]:
    """How this project's service is started."""
    return [sys.executable, "-m", "service", "--models", str(models), "--host", HOST]


def service_environment(variants: Sequence[str], *, runtime: str) -> dict[str, str]:
    """Settings of a service that loads these variants of every model, in one runtime, and stops without delay."""
    return {
        "SECATEUR_VARIANTS": json.dumps(list(variants)),
        "SECATEUR_RUNTIME": json.dumps({f"*/{variant}": runtime for variant in variants}),
        "SECATEUR_DRAIN_DELAY_S": "0",
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: int) -> None:
    until = time.monotonic() + START_SECONDS
    while not _is_ready(url):
        if process.poll() is not None:
            raise ServiceError(f"the service ended instead of starting: {_last_words(log)}")
        if time.monotonic() > until:
            raise ServiceError(f"the service was not ready in {START_SECONDS:g} s: {_last_words(log)}")
        time.sleep(_POLL_SECONDS)


def _is_ready(url: str) -> bool:
    try:
        return Client(url).request("GET", READY_PATH).status == OK
    except ServiceError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it first, then make all of its session; also when this process is told to hurry."""
    try:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _last_words(log: int) -> str:
    lines = os.pread(log, 1 << 20, 0).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"
