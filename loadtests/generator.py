"""The process that makes load: `python -m loadtests.generator`, told what to do by `loadtests.load`.

A command per line of JSON comes in on standard input; a line of JSON goes out when it is done, and the log of its requests into the
file that the command names. Metrics are answered throughout, between commands too.
"""

import argparse
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from loadtests.users import ServiceUser  # first: it patches the process for gevent

# isort: split
import gevent.fileobject
from locust.env import Environment

from loadtests.arrivals import Phase, arrivals
from loadtests.client import Prepared
from loadtests.driver import closed_loop, open_loop, with_judges
from loadtests.errors import LoadTestError
from loadtests.exporter import Exporter
from loadtests.request_log import RequestLog


class Generator:
    """Users by address of the service, so that connections are kept from one command to the next."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter
        self._users: dict[str, ServiceUser] = {}

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; see `loadtests.load`."""
        user = self._user(command["url"])
        asked = with_judges([Prepared(**each) for each in command["requests"]])
        cpu, wall = time.process_time(), time.perf_counter()
        log = self._loop(user, asked, **command["options"])
        spent = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
        log.save(Path(command["log"]))
        return spent

    def _loop(self, user: ServiceUser, asked: list[Any], kind: str, **options: Any) -> RequestLog:  # noqa: ANN401 - JSON
        if kind == "closed":
            return closed_loop(user, asked, **options)
        load = tuple(Phase(**phase) for phase in options["load"])
        return open_loop(user, asked, arrivals(load, spacing=options["spacing"], seed=options["seed"]))

    def _user(self, url: str) -> ServiceUser:
        if url not in self._users:
            kind = type("User", (ServiceUser,), {"host": url, "exporter": self._exporter, "abstract": False})
            self._users[url] = kind(Environment(user_classes=[kind]))
        return self._users[url]


def main() -> None:
    """Answer Prometheus, where asked to, and obey."""
    parser = argparse.ArgumentParser(description="Make load, as standard input says.")
    parser.add_argument("--metrics-port", type=int)
    parser.add_argument("--metrics-address", default="127.0.0.1")
    options = parser.parse_args()
    exporter = Exporter()
    try:
        if options.metrics_port is not None:
            exporter.serve(options.metrics_port, options.metrics_address)
    except LoadTestError as error:
        sys.stdout.write(json.dumps({"error": str(error)}) + "\n")
        return
    generator = Generator(exporter)
    with suppress(BrokenPipeError):  # whoever told us what to do has gone
        obey(generator)


def obey(generator: Generator) -> None:
    """Commands from standard input until it ends."""
    for line in gevent.fileobject.FileObject(sys.stdin.fileno(), "rb", closefd=False):
        try:
            reply = generator.do(json.loads(line))
        except (OSError, ValueError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
