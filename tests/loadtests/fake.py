"""A service of a few lines with known service times, in this process or in one of its own: `python -m tests.loadtests.fake --port N`.

It serves `/qa`, `/classify` and, where asked to, `/summarize` in variants that differ in how long they take, one request at a time, and
refuses what would wait too long.
"""

import argparse
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODELS = {"qa": "question-answering", "sentiment": "text-classification", "news": "summarization"}
PATHS = {"/qa": "qa", "/classify": "sentiment", "/summarize": "news"}


@dataclass
class Behaviour:
    """What it does.

    Attributes:
        seconds: of one request, by variant.
        most_waiting: requests that wait; one more is refused.
        wrong_every: every so many answers is wrong; 0 is none.
        silent: it never answers.
        models: names of those that it serves.
    """

    seconds: dict[str, float] = field(default_factory=lambda: {"dense": 0.02, "compact-int8": 0.005})
    most_waiting: int = 50
    wrong_every: int = 0
    silent: bool = False
    models: tuple[str, ...] = ("qa", "sentiment")


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
        names = self.behaviour.seconds
        return [
            {"model": model, "variant": variant, "task": task, "metrics": [{"name": "f1", "value": 80.0}]}
            for model, task in MODELS.items()
            if model in self.behaviour.models
            for variant in names
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Fake

    def do_GET(self) -> None:
        """Health, and the list of variants."""
        self._send(200, self.server.variants() if self.path == "/v1/variants" else {"ready": True})

    def do_POST(self) -> None:
        """An answer, in its turn."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        behaviour = self.server.behaviour
        if behaviour.silent:
            threading.Event().wait(60.0)
        if PATHS.get(self.path) not in behaviour.models or (variant := body.get("variant", "dense")) not in behaviour.seconds:
            return self._send(404, {"error": "not found"})
        if self.server.waiting >= behaviour.most_waiting:
            return self._send(503, {"error": "overloaded"}, {"retry-after": "1"})
        self.server.waiting += 1
        with self.server.turn:
            time.sleep(behaviour.seconds[variant])
            self.server.waiting -= 1
            self.server.answers += 1
            wrong = behaviour.wrong_every and self.server.answers % behaviour.wrong_every == 0
        text = body["inputs"] if isinstance(body["inputs"], str) else " ".join(body["inputs"].values())
        headers = {"x-model-variant": variant, "x-compute-tokens": str(len(text.split())), "x-total-time": "1.5"}
        return self._send(200, [{"answer": "wrong" if wrong else text.split()[-1], "score": 0.5}], headers)

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _send(self, status: int, document: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response_only(status)
        for name, value in {**(headers or {}), "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    with Fake(port=parser.parse_args().port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
