"""What README shows is what a reader gets: answers of the models that ship, and a model of one's own pruned by its commands."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient
from transformers import BertConfig, BertForSequenceClassification

from loadtests.client import OK, Client
from loadtests.command_line import VOID
from loadtests.errors import ServiceError
from loadtests.plan import LEAST_ROUNDS
from loadtests.servers import HOST, free_port
from pruning import checkpoint
from service.app import create_app
from service.settings import Settings
from tests.pruning import helpers
from tests.test_documentation import PROGRAMS, ROOT, shell_lines

README = ROOT / "README.md"
MODELS = ROOT / "models"
ASKED = re.compile(r"^```sh\n(curl [^`]*)```\n\n```json\n([^`]*)```", flags=re.MULTILINE)


def asked() -> list[tuple[str, str, str]]:
    """Route, body and answer of each `curl` that is followed by what it answers."""
    found = []
    for command, answer in ASKED.findall(README.read_text(encoding="utf-8")):
        words = shlex.split(command.replace("\\\n", " "))
        found.append((words[1].removeprefix("localhost:8000"), words[words.index("-d") + 1], answer))
    return found


def own_commands() -> list[list[str]]:
    """The commands that prune a model of one's own."""
    commands = [shlex.split(line) for line in shell_lines(README)]
    return [words for words in commands if words[0] == "secateur-prune" and any("runs/mine" in word for word in words)]


def own_variants() -> tuple[str, ...]:
    """What is served of them."""
    (line,) = (line for line in shell_lines(README) if line.startswith("secateur-serve") and "runs/mine" in line)
    return tuple(shlex.split(line)[-1].split(","))


def assert_alike(found: object, shown: object) -> None:
    """Equal, but for rounding that differs between processors."""
    if isinstance(shown, dict):
        assert isinstance(found, dict)
        assert found.keys() == shown.keys()
        for name, value in shown.items():
            assert_alike(found[name], value)
    elif isinstance(shown, list):
        assert isinstance(found, list)
        for one, other in zip(found, shown, strict=True):
            assert_alike(one, other)
    else:
        assert found == (pytest.approx(shown, abs=0.01) if isinstance(shown, float) else shown)


@pytest.fixture(scope="module")
def client():
    """Of a service over the models that ship: those of their variants that are asked."""
    if not MODELS.is_dir():
        pytest.skip("the models that ship are not in this tree")
    with TestClient(create_app(Settings(models=MODELS, variants=("dense", "compact-int8")))) as client:
        yield client


def test_every_curl_is_shown_with_its_answer():
    """None goes unchecked by the test below."""
    assert len(asked()) == len([line for line in shell_lines(README) if line.startswith("curl ")]) >= 2


@pytest.mark.parametrize(("route", "body", "answer"), asked())
def test_what_curl_answers_is_what_is_shown(client, route, body, answer):
    """The service over the models that ship answers the body of the command as the text says."""
    found = client.post(route, content=body, headers={"content-type": "application/json"})
    assert found.status_code == 200
    assert_alike(found.json(), json.loads(answer))


@pytest.fixture(scope="module")
def own_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a tiny model and a few texts have been pruned by the commands shown; each ended well."""
    folder = tmp_path_factory.mktemp("own")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128}
    model = BertForSequenceClassification(BertConfig(vocab_size=helpers.VOCABULARY, **sizes)).eval()
    checkpoint.save(model, helpers.tiny_tokenizer(), folder / "my-bert")
    rows = "".join(f"good a,{number % 2}\n" for number in range(16))
    for name in ("train.csv", "held-out.csv"):
        (folder / name).write_text(f"sentence,label\n{rows}")
    with chdir(folder):
        for name, *words in own_commands():
            done = CliRunner().invoke(PROGRAMS[name], words)
            assert done.exit_code == 0, done.output
    return folder


def lines_of(*beginnings: str) -> list[list[str]]:
    """Words of the commands that begin so."""
    return [shlex.split(line) for line in shell_lines(README) if line.startswith(beginnings)]


def typed(port: int) -> dict[str, str]:
    """The environment of a shell in which `.venv` is active and the service has a port that is free."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "SECATEUR_PORT": str(port)}


@contextmanager
def serving(words: list[str], folder: Path, port: int) -> Iterator[None]:
    """The service that these words start, from when it is ready; told to end, it ends well."""
    with (folder / "service.log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=typed(port), stdout=log, stderr=log)
    try:
        while not is_ready(port):
            assert process.poll() is None, (folder / "service.log").read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        assert process.wait(30.0) == 0


def is_ready(port: int) -> bool:
    """Whether requests may come."""
    try:
        return Client(f"http://{HOST}:{port}").request("GET", "/readyz").status == OK
    except ServiceError:
        return False


@pytest.mark.slow
def test_a_model_of_ones_own_is_pruned_by_the_commands_shown(own_run: Path):
    """The two artifacts that are named next can be served together."""
    with TestClient(create_app(Settings(models=own_run / "runs/mine/artifacts", variants=own_variants()))) as client:
        assert {row["variant"] for row in client.get("/v1/variants").json()} == {"dense", "compact-int8"}


@pytest.mark.slow
@pytest.mark.skipif(not MODELS.is_dir(), reason="the models that ship are not in this tree")
@pytest.mark.parametrize("words", lines_of("secateur-serve check", "secateur-serve answer"), ids=lambda words: words[1])
def test_a_command_without_a_server_ends_well(words: list[str]):
    """As it is typed, from the root of the project; it prints what it found."""
    done = subprocess.run(words, cwd=ROOT, env=typed(free_port()), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.slow
def test_ones_own_model_is_served_and_load_tested_by_the_commands_shown(own_run: Path):
    """As they are typed, but for the port and for less time than `--quick` takes; whether the machine was quiet is not asked here."""
    [serve] = lines_of("secateur-serve --models runs/mine")
    [compare] = lines_of("secateur-loadtest compare --url")
    port = free_port()
    words = [word.replace(":8000", f":{port}") for word in compare]
    with serving(serve, own_run, port):
        shorter = ["--minutes", "0.1", "--rounds", str(LEAST_ROUNDS), "--output", "compared"]
        done = subprocess.run([*words, *shorter], cwd=own_run, env=typed(port), capture_output=True, text=True)
    assert done.returncode in (0, VOID), done.stderr
    assert (own_run / "compared" / "report.html").is_file()
    [task] = json.loads((own_run / "compared" / "result.json").read_text())["tasks"]
    assert [subject["label"] for subject in task["subjects"]] == ["dense", "compact-int8"]
