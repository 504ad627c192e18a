"""How `make demo` ends: a short load test, and then the service, which goes on when the demo is over.

What runs is written down beside the demo's results, so that another demo replaces it, and `make stop` ends it.
"""

import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import psutil

from loadtests.children import start, stop
from loadtests.cli import main as loadtest
from loadtests.command_line import VOID, CommandGroup, output_or
from loadtests.errors import LoadTestError
from loadtests.servers import HOST, free_port, service_command, wait_until_ready

PORT = 8000
MINUTES = 1.6
NOTE, LOG = "service.json", "service.log"
OUTCOMES = {
    VOID: "its figures do not count, because the machine was not left alone, or is too slow for so short a test.",
}

_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.1
_CLOCK_SECONDS = 2.0


@dataclass(frozen=True)
class Running:
    """A service that was left running; `began` tells it from a later process with the same number."""

    pid: int
    began: float
    url: str


@click.group(cls=CommandGroup)
def main() -> None:
    """The end of `make demo`."""


@main.command("start")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--models", default="models", show_default=True, type=click.Path(path_type=Path), help="What is measured and served.")
@click.option("--minutes", default=MINUTES, show_default=True, type=click.FloatRange(min=0.05), help="About how long loads take.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(1, 65535), help="Of the service; another if it is in use.")
def start_command(folder: Path, models: Path, minutes: float, port: int) -> None:
    """Load dense and compact a little, start the service, and say where everything is; FOLDER holds the demo's results.

    \b
    Example:
      python -m loadtests.demo start runs/demo
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop_service(folder)
    output = folder / output_or(None, "loadtest").name
    code = load_test(models, output, minutes=minutes)
    service = start_service(service_command(models), folder=folder, port=port)
    if not service.url.endswith(f":{port}"):
        click.echo(f"port {port} is in use, so the service took another: {service.url}", err=True)
    click.echo("\n".join(summary(folder, output, service, code)))


@main.command("stop")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def stop_command(folder: Path) -> None:
    """Stop the service of the demo whose results are in FOLDER.

    \b
    Example:
      python -m loadtests.demo stop runs/demo
    """
    found = stop_service(folder)
    click.echo(f"Stopped {found.url}" if found else f"No service of {folder} is running.")


def load_test(models: Path, output: Path, *, minutes: float) -> int:
    """Compare what /classify does with the dense and the compact model; the exit code of a comparison that came to an end."""
    options = ["--quick", "--no-below", "--task", "classify", "--variants", "dense,compact-int8"]
    given = ["--models", str(models), "--output", str(output), "--minutes", str(minutes)]
    return loadtest.main(["compare", *options, *given], prog_name="secateur-loadtest", standalone_mode=False) or 0


def start_service(command: Sequence[str], *, folder: Path, port: int) -> Running:
    """Start a service that goes on after this process, in place of the one that `folder` knows of; it is ready when this returns.

    Args:
        command: what starts it; ` --port <port>` is added.
        folder: where it is written down, and logs.
        port: to listen on; if it is in use, any other.
    """
    stopped = stop_service(folder)
    chosen = port if is_free(port, within=_STOP_SECONDS if stopped else 0.0) else free_port()
    url = f"http://{HOST}:{chosen}"
    with (folder / LOG).open("w+b") as log:
        process = start([*command, "--port", str(chosen)], output=log, log=log, environment={"SECATEUR_DRAIN_DELAY_S": "0"})
        try:
            wait_until_ready(process, url, log)
            service = Running(process.pid, psutil.Process(process.pid).create_time(), url)
            (folder / NOTE).write_text(json.dumps(asdict(service)), encoding="utf-8")
        except BaseException:
            stop(process)
            raise
    return service


def stop_service(folder: Path) -> Running | None:
    """Stop the service that `folder` knows of, and return it; None when none is running."""
    service = read_note(folder)
    (folder / NOTE).unlink(missing_ok=True)
    process = None if service is None else process_of(service)
    if service is None or process is None:
        return None
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        while process_of(service) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        process.kill()
    return service


def read_note(folder: Path) -> Running | None:
    """What is written down of a service; None for nothing. `LoadTestError` for what is no such note."""
    note = folder / NOTE
    try:
        return Running(**json.loads(note.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise LoadTestError(f"{note} does not say which service runs; stop it by hand, and delete the file") from error


def process_of(service: Running) -> psutil.Process | None:
    """Its process; None when it has ended, whoever has its number now."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(service.pid)
        is_same = abs(process.create_time() - service.began) < _CLOCK_SECONDS
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    return None


def is_free(port: int, *, within: float = 0.0) -> bool:
    """Whether one can listen there, now or within so many seconds: what has just ended may hold it for a moment."""
    until = time.monotonic() + within
    while not _can_listen(port):
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def summary(folder: Path, output: Path, service: Running, code: int) -> list[str]:
    """Where everything is; `code` is the exit code of the load test."""
    return [
        "",
        *([f"The load test ran, but {OUTCOMES[code]}"] if code in OUTCOMES else []),
        f"What pruning cost and won:  {folder / 'report' / 'report.html'}",
        f"Dense against compact:      {output / 'report.html'}",
        f"The service is running:     {service.url} (try it at {service.url}/docs; its log is {folder / LOG})",
        "To stop it:                 make stop",
    ]


if __name__ == "__main__":
    main(prog_name="python -m loadtests.demo")
