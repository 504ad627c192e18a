"""Processes that are started here: each leads a session of its own, so that Ctrl-C reaches this process alone, which then ends them."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO

from loadtests.errors import MeasurementError

STOP_SECONDS = 10.0
NOT_INHERITED = frozenset(
    f"SECATEUR_{name}" for name in ("API_KEYS", "TOKENS_PER_MINUTE", "ADMIN_PORT", "HOST", "PORT", "WEIGHTS", "PREFER")
)


@dataclass(frozen=True)
class Done:
    """What a child that has ended said, and its exit code."""

    code: int
    output: str
    last_words: str


def run_child(command: Sequence[str], *, seconds: float, text: str = "", environment: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end, however this process is interrupted meanwhile.

    Args:
        command: what to run.
        seconds: that it may take; `MeasurementError` when it takes longer.
        text: for its standard input.
        environment: added to this process' own.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as log:
        given.write(text.encode())
        given.seek(0)
        process = start(command, given=given, output=output, log=log, environment=environment or {})
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise MeasurementError(f"{' '.join(command[1:4])} did not end in {seconds:g} s") from error
        finally:
            stop(process)
        output.seek(0)
        return Done(process.returncode, output.read().decode("utf-8", "replace"), last_words(log))


def start(
    command: Sequence[str],
    *,
    output: IO[bytes],
    log: IO[bytes],
    environment: Mapping[str, str],
    given: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command, without settings of ours that would lock us out, take a port twice, or name variants that it does not load."""
    inherited = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return subprocess.Popen(
        list(command),
        stdin=given or subprocess.DEVNULL,
        stdout=output,
        stderr=log,
        start_new_session=True,
        env={**inherited, **environment},
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it first, then make all of its session; also when this process is told to hurry."""
    try:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
    finally:
        _signal(process, signal.SIGKILL)
        process.wait()


def last_words(log: IO[bytes]) -> str:
    """The last line of a file that a child writes."""
    lines = os.pread(log.fileno(), 1 << 20, 0).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
