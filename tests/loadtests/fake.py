"""A service of a few lines with known service times, in this process or in one of its own: `python -m tests.loadtests.fake --port N`.

It serves `/qa`, `/classify` and, where asked to, `/summarize` in variants that differ in how long they take, one request at a time, and
refuses what would wait too long.
"""

import argparse
import json
import os
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = {"qa": "question-answering", "sentiment": "text-classification", "news": "summarization"}
PATHS = {"/qa": "qa", "/classify": "sentiment", "/summarize": "news"}
GENERATED = 7


@dataclass
class Behaviour:
    """What it does.

    Attributes:
        seconds: of one request, by variant.
        most_waiting: requests that wait; one more is refused.
        wrong_every: every so many answers is wrong; 0 is none.
        silent: it never answers.
        refuses: a path whose requests it refuses once there is more than one at a time.
        models: names of those that it serves.
        variants: by model, where not all are served.
        runtimes: what a variant runs in, where it says so.
        began: when it says that its process began; None where it does not.
        tokens: of the longest source of a summary; more are cut.
        dies_after: answers, after which its process ends; 0 is never.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"dense": 0.02, "compact-int8": 0.005})
    most_waiting: int = 50
    wrong_every: int = 0
    silent: bool = False
    refuses: str = ""
    models: tuple[str, ...] = ("qa", "sentiment")
    variants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    runtimes: dict[str, str] = field(default_factory=dict)
    began: float | None = None
    tokens: int = 1000
    dies_after: int = 0


class Fake(ThreadingHTTPServer):
    """Answers in threads of its own while it is open."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behaviour: Behaviour | None = None, port: int = 0) -> None:
        """Choose a port; 0 is any."""
        super().__init__(("127.0.0.1", port), _Handler)
        self.behaviour = behaviour or Behaviour()
        self.answers = 0
        self.waiting = 0
        self.crowded = False
        self.turn = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Fake":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def variants(self) -> list[dict]:
        """As /v1/variants says it."""
        return [
            {"model": model, "variant": variant, "task": task, "metrics": [{"name": "f1", "value": 80.0}]}
            for model, task in MODELS.items()
            if model in self.behaviour.models
            for variant in self.behaviour.variants.get(model, tuple(self.behaviour.seconds))
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Fake

    def do_GET(self) -> None:
        """Health, the list of variants and what is known of one, and metrics."""
        behaviour = self.server.behaviour
        if self.path == "/metrics" and behaviour.began is not None:
            return self._send(200, f"process_start_time_seconds {behaviour.began}".encode())
        if self.path == "/v1/variants":
            return self._send(200, self.server.variants())
        runtime = behaviour.runtimes.get(self.path.rpartition("/")[2])
        return self._send(200, {"ready": True, "parameters": {"runtime": runtime} if runtime else {}})

    def do_POST(self) -> None:
        """An answer, in its turn."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        behaviour = self.server.behaviour
        if behaviour.silent:
            threading.Event().wait(60.0)
        model, variant = PATHS.get(self.path, ""), body.get("variant", "dense")
        if model not in behaviour.models or variant not in behaviour.variants.get(model, tuple(behaviour.seconds)):
            return self._send(404, {"error": "not found"})
        self.server.crowded = self.server.crowded or self.server.waiting > 0
        if self.server.waiting >= behaviour.most_waiting or (self.server.crowded and self.path == behaviour.refuses):
            return self._send(503, {"error": "overloaded"}, {"retry-after": "1"})
        self.server.waiting += 1
        with self.server.turn:
            time.sleep(behaviour.seconds[variant])
            self.server.waiting -= 1
            self.server.answers += 1
            if behaviour.dies_after and self.server.answers > behaviour.dies_after:
                os._exit(1)
            wrong = behaviour.wrong_every and self.server.answers % behaviour.wrong_every == 0
        text = body["inputs"] if isinstance(body["inputs"], str) else " ".join(body["inputs"].values())
        words = len(text.split())
        headers = {"x-model-variant": variant, "x-compute-tokens": str(words), "x-total-time": "1.5"}
        answer = {"answer": "wrong" if wrong else text.split()[-1], "score": 0.5}
        if model == "news":
            headers |= {"x-compute-tokens": str(words + GENERATED), "x-truncated": str(words > behaviour.tokens).lower()}
            usage = {"usage": {"input_tokens": min(words, behaviour.tokens)}}
            answer |= {"details": usage} if body.get("parameters", {}).get("details") else {}
        return self._send(200, [answer], headers)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _send(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response_only(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--behaviour", type=json.loads, default={}, help="Attributes of Behaviour, as JSON.")
    given = parser.parse_args()
    with Fake(Behaviour(**given.behaviour), port=given.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
