"""A server of a few lines that answers by path, in this process or in one of its own: `python -m tests.service.bench.stub --port N`."""

import argparse
import signal
import socketserver
import sys
import threading
import time
from collections import Counter

SLOW_SECONDS = 0.05


class Stub(socketserver.ThreadingTCPServer):
    """Answers in threads of its own while it is open.

    `/echo` gives the request's body back, `/split` does so in two pieces, `/slow` later, `/busy` refuses, `/gone` hangs up, `/once`
    does so after its answer, and `/chunked` says no length. Anything else, as `GET /health`, is answered with `{}`.
    """

    allow_reuse_address = True
    request_queue_size = 100

    def __init__(self, port: int = 0) -> None:
        """Choose a port; 0 is any."""
        super().__init__(("127.0.0.1", port), _Talk)
        self.port: int = self.server_address[1]
        self.paths: Counter[str] = Counter()
        self.connections = 0
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "Stub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Talk(socketserver.StreamRequestHandler):
    """One connection."""

    server: Stub

    def handle(self) -> None:
        """Answer until the other side hangs up."""
        self.server.connections += 1
        try:
            while self._answer():
                pass
        except ConnectionError:
            pass

    def _answer(self) -> bool:
        head = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
        if not head:
            return False
        path = head[0].split(" ")[1]
        self.server.paths[path] += 1
        size = next((int(line.split(":")[1]) for line in head if line.lower().startswith("content-length:")), 0)
        body = self.rfile.read(size) if size else b"{}"
        if path == "/gone":
            return False
        if path == "/slow":
            time.sleep(SLOW_SECONDS)
        length = b"" if path == "/chunked" else b"content-length: %d\r\n" % len(body)
        answer = b"HTTP/1.1 %d Said\r\n%s\r\n%s" % (503 if path == "/busy" else 200, length, body)
        for part in (answer[:30], answer[30:]) if path == "/split" else (answer,):
            self.wfile.write(part)
        return path != "/once"


def main() -> None:
    """Serve, or end with a word."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--stubborn", action="store_true")
    options = parser.parse_args()
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.broken:
        sys.exit("a first line\nno model here")
    with Stub(options.port):
        threading.Event().wait()


if __name__ == "__main__":
    main()
