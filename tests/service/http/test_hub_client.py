"""Hugging Face's own client works unchanged: the one of the full environment, and the newest one beside the service alone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.http import hub_calls
from tests.service.http.support import same

REPOSITORY = Path(__file__).parents[3]
PACKAGE = ("pyproject.toml", "README.md", "LICENSE", "service")


def check(results, client):
    """The client's results are what the service answers, and its errors say what the service said."""

    def post(path, **body):
        return client.post(path, json=body).json()

    asked = {"question": hub_calls.QUESTION, "context": hub_calls.CONTEXT}
    many = {"align_to_words": True, "doc_stride": 4, "handle_impossible_answer": False, "max_answer_len": 5, "max_question_len": 10}
    answers = post("/qa", inputs=asked, parameters={"top_k": 3, "max_seq_len": 20, **many})
    two = post("/classify", inputs=hub_calls.TEXT, parameters={"top_k": 2, "function_to_apply": "none"})
    one = results["answer"][0] if isinstance(results["answer"], list) else results["answer"]
    assert same([one], post("/qa", inputs=asked))
    assert same(results["answers"], answers)
    assert len(answers) == 3
    assert same([results["labels"]], post("/classify", inputs=hub_calls.TEXT))
    assert same([results["two logits"]], two)
    beams = {"clean_up_tokenization_spaces": False, "generate_parameters": hub_calls.BEAMS}
    assert [results["summary"]] == post("/summarize", inputs=hub_calls.CONTEXT)
    assert [results["summary by beams"]] == post("/summarize", inputs=hub_calls.CONTEXT, parameters=beams)
    wrong = ("empty context", "wrong stride", "wrong address", "too many beams")
    assert [results[name]["status"] for name in wrong] == [422, 422, 404, 422]
    assert "at most 8 are given" in results["too many beams"]["message"]
    assert "context is empty" in results["empty context"]["message"]
    assert "choose a stride below" in results["wrong stride"]["message"]


def results_of(python, address):
    """What the client of an environment gets; it is told that it is not offline, or it would not even call this machine."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    found = subprocess.run([python, hub_calls.__file__, address], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_client_of_the_full_environment(server, client):
    """Questions, texts and documents, with and without parameters, and errors with their reasons."""
    check(results_of(sys.executable, server.address), client)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """A virtual environment with the service's own dependencies and the newest client; nothing of the pruning side."""
    folder = tmp_path_factory.mktemp("hub")
    for name in PACKAGE:
        source, copy = REPOSITORY / name, folder / "package" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    install = [folder / "venv/bin/pip", "install", "--quiet", "--upgrade", f"{folder / 'package'}[service]", "huggingface_hub"]
    subprocess.run(install, check=True)
    return folder / "venv"


@contextmanager
def served_by(environment: Path, models: Path) -> Iterator[str]:
    """The address of a server that runs in that environment."""
    command = [environment / "bin/secateur-serve", "--models", models, "--port", "0", "--prefer", "dense", "--drain-delay-s", "0"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=models) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()
            process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.network
@pytest.mark.slow
def test_newest_client_beside_the_service_alone(environment, models, client):
    """The same with the newest client, in an environment without torch, against a server of that environment."""
    with served_by(environment, models) as address:
        check(results_of(environment / "bin/python", address), client)
    heavy = subprocess.run([environment / "bin/python", "-c", "import torch"], capture_output=True, check=False)
    assert heavy.returncode != 0
