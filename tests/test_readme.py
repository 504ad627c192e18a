"""What README shows is what a reader gets: answers of the models that ship, and a model of one's own pruned by its commands."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient
from transformers import BertConfig, BertForSequenceClassification

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


@pytest.mark.slow
def test_a_model_of_ones_own_is_pruned_by_the_commands_shown(tmp_path, monkeypatch):
    """On a tiny model and a few texts, each command ends well, and the two artifacts that are named next can be served together."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 128}
    model = BertForSequenceClassification(BertConfig(vocab_size=helpers.VOCABULARY, **sizes)).eval()
    checkpoint.save(model, helpers.tiny_tokenizer(), tmp_path / "my-bert")
    rows = "".join(f"good a,{number % 2}\n" for number in range(16))
    for name in ("train.csv", "held-out.csv"):
        Path(name).write_text(f"sentence,label\n{rows}")
    for name, *words in own_commands():
        done = CliRunner().invoke(PROGRAMS[name], words)
        assert done.exit_code == 0, done.output
    with TestClient(create_app(Settings(models=Path("runs/mine/artifacts"), variants=own_variants()))) as client:
        assert {row["variant"] for row in client.get("/v1/variants").json()} == {"dense", "compact-int8"}
