"""Whether the service's container is confined and small, and whether stopping it under load loses a request that it took.

    docker compose up --detach --wait
    python docker/check_container.py

Clients ask until the service says that it is not ready, as a load balancer would have them. It goes on taking requests for its drain delay,
which is longer than clients need to see that: whatever they sent has to be answered, or refused because there was too much at once. Any
other 503, `stopping` too, is of a request that was taken and not finished.
The container is stopped by this, and not started again. Ends with 1 when something is not as it should be.
"""

import http.client
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import click

READY = "/v2/health/ready"
QUESTION = {"question": "Who wrote it?", "context": "Ada wrote it in 1843, in a note to a paper by Menabrea. " * 12}
REQUESTS = {
    "question-answering": ("/qa", json.dumps({"inputs": QUESTION})),
    "text-classification": ("/classify", json.dumps({"inputs": "It cuts cleanly and has never once jammed."})),
    "summarization": (
        "/summarize",
        json.dumps({"inputs": QUESTION["context"], "parameters": {"generate_parameters": {"num_beams": 1, "max_new_tokens": 32}}}),
    ),
}
OK, UNAVAILABLE = 200, 503
OVERLOADED = "urn:secateur:problem:overloaded"
Request = tuple[str, str]
POLL_SECONDS = 0.1
START_SECONDS = 120.0
SIZE, MOST_BYTES = "bytes beside the base", 450_000_000
LOOK = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def can_write(folder):
    try:
        open(os.path.join(folder, "probe"), "w").close()
        return True
    except OSError:
        return False
print(json.dumps({
    "user": os.getuid(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
    "may gain privileges": status["NoNewPrivs"].strip() == "0",
    "can write": [folder for folder in ("/", "/models", "/opt/venv", "/etc") if can_write(folder)],
    "bytes beside the base": sum(
        os.lstat(os.path.join(folder, name)).st_size for folder, _, names in os.walk("/opt/venv") for name in names
    ),
    "has torch": bool(__import__("importlib.util").util.find_spec("torch")),
}))
"""

_TIMEOUT_SECONDS = 30.0


@click.command()
@click.option("--engine", default="docker", show_default=True, help="docker, or podman.")
@click.option("--container", default="secateur-service-1", show_default=True, help="Its name.")
@click.option("--url", default="http://localhost:8000", show_default=True, help="Where it answers.")
@click.option("--clients", default=4, show_default=True, help="How many ask at once.")
@click.option("--seconds", default=5.0, show_default=True, help="How long they ask before it is stopped.")
def main(engine: str, container: str, url: str, clients: int, seconds: float) -> None:
    """Look into the container, then stop it while clients are asking."""
    try:
        wait_until_ready(url)
        found = look(engine, container)
        load = stopped_under_load([engine, "stop", container], url, clients=clients, seconds=seconds)
        code = int(output([engine, "inspect", "--format", "{{.State.ExitCode}}", container]))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"in the container: {json.dumps(found)}")
    click.echo(
        f"answers: {dict(load.statuses)}, {load.while_stopping} good ones after the stop began; lost: {len(load.lost)}; exit code {code}"
    )
    wrong = [*unconfined(found), *oversized(found), *load.lost, *([f"the process ended with {code}"] if code else [])]
    wrong += [f"{count} answers were {status}" for status, count in load.statuses.items() if status not in (OK, UNAVAILABLE)]
    wrong += [] if load.while_stopping else ["no request was answered after the stop began, so nothing was shown"]
    for line in wrong:
        click.echo(f"wrong: {line}", err=True)
    if wrong:
        raise click.exceptions.Exit(1)


@dataclass
class Load:
    """What became of `requests`: answers by status, how many good ones came after the stop began, and those that were lost."""

    requests: Sequence[Request]
    statuses: Counter[int] = field(default_factory=Counter)
    while_stopping: int = 0
    lost: list[str] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    leaving: threading.Event = field(default_factory=threading.Event)

    def ask(self, address: str, turn: int) -> None:
        """One client: requests one after another until the service wants no more."""
        while not self.leaving.is_set():
            path, body = self.requests[turn % len(self.requests)]
            turn += 1
            try:
                status, answer = fetched(address, "POST", path, body)
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{path}: {type(error).__name__}: {error}")
                return
            self.statuses[status] += 1
            self.while_stopping += status == OK and self.stopping.is_set()
            if status == UNAVAILABLE and problem_of(answer) != OVERLOADED:
                self.lost.append(f"{path}: {status}: {problem_of(answer)}")

    def watch(self, address: str) -> None:
        """Tell the clients when the service is not ready any more."""
        while ready(address):
            time.sleep(POLL_SECONDS)
        self.leaving.set()


def stopped_under_load(stop: Sequence[str], url: str, *, clients: int, seconds: float) -> Load:
    """What became of the requests of so many clients, when `stop` is called while they ask."""
    address = urlsplit(url).netloc
    load = Load(served(address))
    asking = [threading.Thread(target=load.ask, args=(address, number)) for number in range(clients)]
    for thread in (*asking, threading.Thread(target=load.watch, args=(address,), daemon=True)):
        thread.start()
    time.sleep(seconds)
    load.stopping.set()
    output(stop)
    load.leaving.set()
    for thread in asking:
        thread.join()
    return load


def problem_of(answer: bytes) -> str:
    """The type of the problem that an answer tells of, or its first words where it is no problem document."""
    try:
        return str(json.loads(answer)["type"])
    except (ValueError, KeyError, TypeError):
        return answer[:80].decode(errors="replace")


def served(address: str) -> list[Request]:
    """A request of each task that is served; `ValueError` for none."""
    tasks = {row["task"] for row in json.loads(fetched(address, "GET", "/v1/variants")[1])}
    found = [each for task, each in REQUESTS.items() if task in tasks]
    if not found:
        raise ValueError(f"{address} serves none of {', '.join(REQUESTS)}")
    return found


def wait_until_ready(url: str) -> None:
    """Wait; `ValueError` when it takes too long."""
    ends = time.monotonic() + START_SECONDS
    while not ready(urlsplit(url).netloc):
        if time.monotonic() > ends:
            raise ValueError(f"{url} was not ready in {START_SECONDS:g} s; start the stack, and look into its logs")
        time.sleep(POLL_SECONDS)


def ready(address: str) -> bool:
    """Whether the service says that requests should come."""
    try:
        return fetched(address, "GET", READY)[0] == OK
    except (OSError, http.client.HTTPException):
        return False


def look(engine: str, container: str) -> dict[str, Any]:
    """User, capabilities, what can be written and how much is there, as a process of the container finds them."""
    found: dict[str, Any] = json.loads(output([engine, "exec", container, "python", "-c", LOOK]))
    return found


def unconfined(found: dict[str, Any]) -> list[str]:
    """What the container may do that it should not."""
    return [
        *(["it runs as root"] if found["user"] == 0 else []),
        *(name for name, value in found.items() if name not in ("user", SIZE) and value),
    ]


def oversized(found: dict[str, Any]) -> list[str]:
    """That the image has more beside its base, without models, than it may."""
    return [f"{found[SIZE]} bytes beside the base image, at most {MOST_BYTES} may be"] if found[SIZE] > MOST_BYTES else []


def fetched(address: str, method: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    """Status and body of an answer that was read to its end."""
    connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def output(command: Sequence[str]) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
