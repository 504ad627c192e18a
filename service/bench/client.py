"""The load generator as this process sees it: a child that is told what to send, and says what came back."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bench.statistics import FloatArray
from service.bench.visit import Visit, visit_of
from service.errors import BenchError

OK = 200

Message = tuple[str, str]
Judge = Callable[[int, str], bool]


@dataclass(frozen=True)
class Traffic:
    """What came back from a server; times are seconds of one clock.

    Attributes:
        intended: when each request was due, [requests]. In a closed loop, when it was sent.
        sent, ended: when it was sent and answered, [requests].
        status: of the answer, [requests]; 0 where the connection was lost.
        opened, shut: the window in which processor time was taken.
        generator_seconds, server_seconds: processor time in the window.
        bodies: index of the request and body, of every different answer with status 200.
        problem: body of the first other one.
    """

    intended: FloatArray
    sent: FloatArray
    ended: FloatArray
    status: NDArray[np.int64]
    opened: float
    shut: float
    generator_seconds: float
    server_seconds: float
    bodies: tuple[tuple[int, str], ...]
    problem: str

    def visit(self, judge: Judge) -> Visit:
        """What a cell's visit saw; `judge` says whether an answer to the request of that index is the expected one."""
        failed = int((self.status != OK).sum())
        unexpected = [body for index, body in self.bodies if not judge(index, body)]
        seen = visit_of(
            zip(self.sent, self.ended, (self.status == OK).astype(np.float64), strict=True),
            opened=self.opened,
            shut=self.shut,
            cpu_seconds=self.server_seconds,
            generator_seconds=self.generator_seconds,
        )
        problem = self.problem or (f"{failed} connections were lost" if failed else next(iter(unexpected), ""))
        return replace(seen, failed=failed, unexpected=len(unexpected), problem=problem[:300])


class Generator:
    """The child process. One command at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "service.bench.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which then stops this
        )

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def closed(self, port: int, messages: Sequence[Message], *, connections: int, seconds: float, pids: Sequence[int]) -> Traffic:
        """Keep so many connections busy.

        Args:
            port: of a server on this machine.
            messages: path and body of each request, in the order in which they are sent, again and again.
            connections: each waits for its answer before it sends again.
            seconds: length of the window.
            pids: processes whose processor time is the server's.
        """
        return self._do("closed", port, messages, connections=connections, seconds=seconds, pids=list(pids))

    def open(
        self, port: int, messages: Sequence[Message], *, phases: Sequence[tuple[float, float]], connections: int, seed: int = 0
    ) -> Traffic:
        """Send at the times of a Poisson process, whatever the server does; `phases` are seconds and requests per second."""
        return self._do("open", port, messages, phases=list(phases), connections=connections, seed=seed, pids=[])

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.communicate()

    def _do(self, kind: str, port: int, messages: Sequence[Message], **options: object) -> Traffic:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        command = {"kind": kind, "port": port, "requests": list(messages), "options": options}
        with suppress(BrokenPipeError):  # then it says nothing, either
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        result = json.loads(line) if line else {"error": "it ended unexpectedly"}
        if "error" in result:
            raise BenchError(f"the load generator stopped ({result['error']}); is the server still running?")
        return _traffic(result)


def _traffic(result: dict[str, Any]) -> Traffic:
    opened, shut = result["opened"], result["shut"]
    return Traffic(
        intended=np.array(result["intended"], dtype=np.float64),
        sent=np.array(result["sent"], dtype=np.float64),
        ended=np.array(result["ended"], dtype=np.float64),
        status=np.array(result["status"], dtype=np.int64),
        opened=opened["clock"],
        shut=shut["clock"],
        generator_seconds=shut["generator"] - opened["generator"],
        server_seconds=shut["server"] - opened["server"],
        bodies=tuple((index, body) for index, body in result["bodies"]),
        problem=result["problem"],
    )
