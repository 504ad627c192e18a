"""What `make demo` leaves behind: one service that goes on, known by its folder, and the paths of everything."""

import json
import random
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from loadtests.client import Client
from loadtests.command_line import BAD_INPUT, VOID
from loadtests.demo import NOTE, Running, is_free, main, process_of, read_note, stop_service, summary
from loadtests.errors import ServiceError
from loadtests.servers import HOST, free_port
from loadtests.texts import TASKS

MODELS = Path(__file__).parents[2] / "models"
START = """
import sys
from pathlib import Path
from loadtests.demo import start_service
start_service([sys.executable, "-m", "tests.loadtests.fake"], folder=Path(sys.argv[1]), port=int(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path):
    """Of a demo; what runs there ends with the test."""
    yield tmp_path
    stop_service(tmp_path)


def quiet_port() -> int:
    """Free, and below the ports that the system lends to outgoing connections, so that it is still free after a restart."""
    return next(port for port in iter(lambda: random.randrange(20_000, 32_000), None) if is_free(port))


def start(folder: Path, port: int) -> Running:
    """As the demo does it: by a process that then ends."""
    subprocess.run([sys.executable, "-c", START, str(folder), str(port)], check=True)
    found = read_note(folder)
    assert found is not None
    return found


def test_the_service_outlives_the_demo_and_another_demo_replaces_it(folder):
    """One runs at a time, on the same port; stopped twice, it is stopped."""
    first = start(folder, quiet_port())
    port = int(first.url.rpartition(":")[2])
    second = start(folder, port)
    assert second.url == first.url
    assert process_of(first) is None
    assert Client(second.url).served(TASKS["classify"])
    assert stop_service(folder) == second
    with pytest.raises(ServiceError):
        Client(second.url).request("GET", "/v1/variants")
    assert stop_service(folder) is None


def test_a_port_that_is_in_use_is_left_alone(folder):
    """The service takes another one."""
    with socket.create_server((HOST, 0)) as taken:
        service = start(folder, taken.getsockname()[1])
        assert not service.url.endswith(f":{taken.getsockname()[1]}")
        assert Client(service.url).served(TASKS["classify"])


def test_a_service_that_does_not_start_leaves_nothing(folder):
    """Its last words are the error, and no note says that it runs."""
    code = START.replace("tests.loadtests.fake", "tests.loadtests.no_such_module")
    done = subprocess.run([sys.executable, "-c", code, str(folder), str(free_port())], capture_output=True, text=True)
    assert "No module named tests.loadtests.no_such_module" in done.stderr.splitlines()[-1]
    assert not (folder / NOTE).exists()


def test_a_process_that_got_the_number_of_an_old_service_is_left_alone(folder):
    """A note tells it by when it began."""
    this = Running(psutil.Process().pid, psutil.Process().create_time(), "http://nowhere")
    assert process_of(this) is not None
    (folder / NOTE).write_text(json.dumps(vars(replace(this, began=this.began - 60.0))))
    assert stop_service(folder) is None


def test_a_note_that_was_spoiled_is_one_line(folder):
    """Exit code 2, and what to do."""
    (folder / NOTE).write_text("{}")
    done = CliRunner().invoke(main, ["stop", str(folder)])
    (folder / NOTE).unlink()
    assert done.exit_code == BAD_INPUT
    assert "by hand" in done.stderr


@pytest.mark.parametrize(("code", "word"), [(0, None), (VOID, "do not count")])
def test_a_load_test_that_shows_nothing_is_said(code, word):
    """It does not fail the demo, whose last lines are where everything is."""
    lines = summary(Path("runs/demo"), Path("runs/demo/loadtest-1"), Running(1, 0.0, "http://127.0.0.1:8000"), code)
    assert any("loadtest-1/report.html" in line for line in lines)
    assert lines[-1].endswith("make stop")
    assert word is None or word in lines[1]


def test_a_load_test_of_nothing_is_an_error(tmp_path):
    """The demo ends there, in one line."""
    done = CliRunner().invoke(main, ["start", str(tmp_path / "demo"), "--models", str(tmp_path)])
    assert done.exit_code == BAD_INPUT
    assert len(done.stderr.strip().splitlines()[-1]) > 0
    assert "Traceback" not in done.output


@pytest.mark.slow
def test_the_end_of_the_demo(folder):
    """On the models that ship: a report of the load, and a service that answers."""
    command = [sys.executable, "-m", "loadtests.demo", "start", str(folder), "--minutes", "0.2", "--port", str(free_port())]
    done = subprocess.run([*command, "--models", str(MODELS)], capture_output=True, text=True, check=True)
    assert len(list(folder.glob("loadtest-*/report.html"))) == 1
    service = read_note(folder)
    assert service is not None
    assert service.url in done.stdout
    assert Client(service.url).served(TASKS["qa"])
