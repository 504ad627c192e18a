"""The load generator as other processes see it: a child that is told what to send, and whose log says what came of it."""

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loadtests.arrivals import Load, Spacing
from loadtests.client import Prepared
from loadtests.errors import MeasurementError
from loadtests.request_log import RequestLog, load_log


@dataclass(frozen=True)
class Made:
    """What one load came to.

    Attributes:
        log: of every request.
        seconds: how long it took, waiting for the last answers included.
        cpu_seconds: the generator's own processor time.
    """

    log: RequestLog
    seconds: float
    cpu_seconds: float


class LoadGenerator:
    """The child process. One load at a time."""

    def __init__(self, *, metrics_port: int | None = None, metrics_address: str = "127.0.0.1") -> None:
        """Start it; with a port, Prometheus may watch."""
        metrics = [] if metrics_port is None else ["--metrics-port", str(metrics_port), "--metrics-address", metrics_address]
        self._folder = TemporaryDirectory(prefix="secateur-loadtest-")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.generator", *metrics],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends this
        )

    def __enter__(self) -> "LoadGenerator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._process.pid

    def open(self, url: str, requests: Sequence[Prepared], load: Load, *, spacing: Spacing, seed: int) -> Made:
        """Send at the times of a schedule, whatever the service does."""
        options = {"kind": "open", "load": [asdict(phase) for phase in load], "spacing": spacing, "seed": seed}
        return self._do(url, requests, options)

    def closed(self, url: str, requests: Sequence[Prepared], *, connections: int, seconds: float) -> Made:
        """Keep so many connections busy."""
        return self._do(url, requests, {"kind": "closed", "connections": connections, "seconds": seconds})

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()
        self._folder.cleanup()

    def _do(self, url: str, requests: Sequence[Prepared], options: dict[str, object]) -> Made:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        log = Path(self._folder.name) / "log.npz"
        command = {"url": url, "requests": [asdict(each) for each in requests], "options": options, "log": str(log)}
        with suppress(BrokenPipeError):  # then it says nothing, either
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        reply = json.loads(line) if line else {"error": "it ended unexpectedly"}
        if "error" in reply:
            raise MeasurementError(f"the load generator failed: {reply['error']}")
        return Made(load_log(log), **reply)
