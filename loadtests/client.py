"""The service as one careful client sees it, one request at a time: what it serves, what it answers unloaded, how long texts are.

This is for before a load. The load itself comes from `loadtests.generator`.
"""

import http.client
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from loadtests.errors import ServiceError
from loadtests.texts import CUT, Count, Inputs, Task, estimated_tokens

OK = 200
TOKENS_HEADER, CUT_HEADER = "x-compute-tokens", "x-truncated"

_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """Status, headers (names in lower case) and body of an answer."""

    status: int
    headers: dict[str, str]
    body: str

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """The body, parsed; `ServiceError` when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ServiceError(f"an answer that is not JSON: {self.body[:120]!r}") from error


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be sent, and what the unloaded service answers to it."""

    task: str
    variant: str
    path: str
    body: str
    golden: str


@dataclass(frozen=True)
class Client:
    """Requests to one service; `url` is where its paths begin."""

    url: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServiceError(f"{self.url!r} is no address of a service; expected one like http://localhost:8000")

    def request(self, method: str, path: str, body: str | None = None) -> Reply:
        """Whatever comes back; `ServiceError` when nothing does."""
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, f"{parts.path.rstrip('/')}{path}", body, {"Content-Type": "application/json"} if body else {})
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode())
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            raise ServiceError(f"{self.url}{path} does not answer ({type(error).__name__}: {error})") from error
        finally:
            connection.close()

    def post(self, path: str, body: str) -> Reply:
        """An answer with status 200; `ServiceError` for any other."""
        reply = self.request("POST", path, body)
        if reply.status != OK:
            raise ServiceError(f"{self.url}{path} answers {reply.status}: {' '.join(reply.body.split())[:200]}")
        return reply

    def served(self, task: Task) -> list[dict[str, Any]]:
        """What the service says of each variant that it serves for a task, the default one first; empty for none."""
        reply = self.request("GET", "/v1/variants")
        rows = reply.json() if reply.status == OK else None
        if not isinstance(rows, list):
            raise ServiceError(f"{self.url}/v1/variants answers {reply.status}, not a list of variants; is this Secateur's service?")
        models = [row["model"] for row in rows if row.get("task") == task.served_as]
        return [row for row in rows if models and row["model"] == models[0]]

    def counter(self, task: Task, which: dict[str, str], *, whole: bool = False) -> Count:
        """How many tokens a text takes, by the answers of this service; estimated when they do not say.

        Args:
            task: what is asked.
            which: model and variant.
            whole: whether a text that the model would cut is too long for any length (`CUT`).
        """
        parameters = {**task.parameters, **task.counting}

        def count(inputs: Inputs) -> int:
            reply = self.post(task.path, _body(inputs, parameters, which))
            if whole and reply.headers.get(CUT_HEADER) == "true":
                return CUT
            return tokens_of(reply, task) or estimated_tokens(inputs)

        return count

    def prepare(self, task: Task, inputs: Sequence[Inputs], *, model: str, variant: str) -> list[Prepared]:
        """A request for each of the inputs, with the answer that this variant gives while nothing else is asked."""
        bodies = [body_of(task, each, {"model": model, "variant": variant}) for each in inputs]
        return [Prepared(task.name, variant, task.path, body, self.post(task.path, body).body) for body in bodies]


def body_of(task: Task, inputs: Inputs, which: dict[str, str]) -> str:
    """The body of a request; `which` names model and variant, where they matter."""
    return _body(inputs, task.parameters, which)


def tokens_of(reply: Reply, task: Task) -> int | None:
    """Tokens of the text that was sent, without those that were generated; None where the answer does not say."""
    if task.generates:
        with suppress(LookupError, TypeError):
            return int(reply.json()[0]["details"]["usage"]["input_tokens"])
        return None
    said = reply.headers.get(TOKENS_HEADER, "")
    return int(said) if said.isdigit() else None


def _body(inputs: Inputs, parameters: Mapping[str, Any], which: dict[str, str]) -> str:
    return json.dumps({"inputs": inputs, **({"parameters": parameters} if parameters else {}), **which})
