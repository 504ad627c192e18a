"""Locust's users of the service. Importing this patches the process for gevent, so only processes that make load do.

`ServiceUser.ask` sends one prepared request, checks its answer and notes it; the open-loop driver calls it at the times of a schedule,
and the users of `loadtests/locustfile.py` call it at their own pace.
"""

import math
import time
from collections.abc import Mapping
from typing import Any, ClassVar

from locust import FastHttpUser

from loadtests.answers import Judge
from loadtests.client import Prepared
from loadtests.exporter import Exporter, outcome
from loadtests.request_log import LOST, OK, Row

CONNECTIONS = 4096
TIMEOUT_SECONDS = 30.0

_JSON = {"Content-Type": "application/json"}
_TIMES = ("x-queue-time", "x-tokenization-time", "x-inference-time", "x-total-time")


class ServiceUser(FastHttpUser):
    """Sends prepared requests; as many at once as it is asked for, each on a connection of its own."""

    abstract = True
    concurrency = CONNECTIONS
    network_timeout = connection_timeout = TIMEOUT_SECONDS
    exporter: ClassVar[Exporter | None] = None

    def ask(self, prepared: Prepared, judge: Judge, *, text: int, intended_s: float | None = None) -> Row:
        """Send one request and wait for its answer.

        Args:
            prepared: what is sent.
            judge: of its answer.
            text: its number, for the log.
            intended_s: when it was due; without it, now.
        """
        if self.exporter is not None:
            self.exporter.begun(prepared.task, prepared.variant)
        sent = time.perf_counter()
        name = f"{prepared.path} {prepared.variant}".strip()
        with self.client.post(prepared.path, data=prepared.body, headers=_JSON, name=name, catch_response=True) as response:
            done = time.perf_counter()
            body: bytes = bytes(response.content or b"")
            right = response.status_code == OK and judge.right(body)
            row = row_of(response, body, right=right, text=text, times=(sent if intended_s is None else intended_s, sent, done))
            if right:
                response.success()
            else:
                response.failure(outcome(row))
        if self.exporter is not None:
            self.exporter.over(prepared.task, prepared.variant, row)
        return row


def row_of(response: Any, body: bytes, *, right: bool, text: int, times: tuple[float, float, float]) -> Row:  # noqa: ANN401 - Locust's
    """What the log keeps of an answer; `times` are those at which the request was due, sent and answered."""
    headers: Mapping[str, str] = response.headers or {}
    return Row(
        *times,
        int(response.status_code or LOST),
        len(body),
        right,
        text,
        headers.get("x-model-variant", ""),
        number(headers.get("retry-after")),
        *(number(headers.get(name)) for name in _TIMES),
    )


def number(text: str | None) -> float:
    """A header's number; NaN where there is none."""
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan
