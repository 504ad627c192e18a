"""`secateur-serve`: results on stdout, one line on stderr and exit code 2 for bad input."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import service.cli
from service.cli import main
from service.model import Model


def _run(*arguments: str | Path, models: Path, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin, env={"SECATEUR_MODELS": str(models)})


def _one_line(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def models(qa_folder, classify_folder) -> Path:
    """A models folder with both artifacts."""
    return qa_folder.parent.parent


def test_check_prints_one_line_per_artifact(models):
    """Without a folder, all artifacts of the models folder are checked."""
    result = _run("check", models=models)
    assert result.exit_code == 0
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["qa/dense", "sentiment/dense"]


def test_check_says_what_the_artifact_is(models):
    """For machines, each line is an object."""
    result = _run("check", "qa/dense", "--json", models=models)
    summary = json.loads(result.stdout)
    assert (summary["artifact"], summary["task"]) == ("qa/dense", "question-answering")
    assert summary["size_bytes"] == sum(path.stat().st_size for path in (models / "qa/dense").iterdir() if path.name != "manifest.json")


def test_check_goes_on_after_a_bad_artifact(models):
    """A bad artifact is one line on stderr; the others are still checked, and the exit code is 2."""
    (models / "qa/dense/tokenizer.json").unlink()
    result = _run("check", models=models)
    assert result.exit_code == 2
    assert "tokenizer.json is missing" in result.stderr
    assert result.stderr.count("\n") == 1
    assert "sentiment/dense" in result.stdout


def test_answer_to_a_question(models):
    """A question is answered from its context."""
    context = "Ada wrote it."
    result = _run("answer", models / "qa/dense", "--question", "Who?", "--context", context, "--json", models=models)
    answer = json.loads(result.stdout)["answers"][0]
    assert result.exit_code == 0
    assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_label_of_a_text_and_of_a_pair(models):
    """A text and a pair are labelled, best first."""
    single = _run("answer", "sentiment/dense", "--text", "ada", models=models)
    pair = _run("answer", "sentiment/dense", "--text", "ada", "--text-pair", "wrote", models=models)
    assert single.exit_code == pair.exit_code == 0
    assert single.stdout != pair.stdout
    assert "positive" in single.stdout


@pytest.mark.parametrize("from_stdin", [True, False])
def test_lines_are_answered_in_order_as_predict_does(models, tmp_path, from_stdin):
    """JSON lines, from a file or from standard input, give one line each; blank lines are passed over."""
    texts = ["ada", "wrote 🙂", "it"]
    lines = "\n\n".join(json.dumps({"text": text, "top_k": 1}) for text in texts) + "\n"
    path = tmp_path / "input.jsonl"
    path.write_text(lines, encoding="utf-8")
    source = ["-"] if from_stdin else [path]
    result = _run("answer", "sentiment/dense", "--json", "--input", *source, models=models, stdin=lines)
    model = Model.load(models / "sentiment/dense")
    requests = [model.task.request_type(text=text, top_k=1) for text in texts]
    assert [json.loads(line) for line in result.stdout.splitlines()] == [response.model_dump() for response in model.predict(requests)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("answer nowhere --text a", "no artifact there"),
        ("answer qa/dense --text a", "question: Field required"),
        ("answer qa/dense --question ' ' --context a", "question is empty"),
        ("answer sentiment/dense --text ''", "text is empty"),
        ("check nowhere", "no artifact there"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(models, arguments, message):
    """What is wrong is said in one line, without a traceback."""
    assert message in _one_line(_run(*shlex.split(arguments), models=models))


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"text": ', "line 2: not valid JSON"), ('{"txt": "a"}', "line 2: text: Field required"), ("[1]", "line 2: request: ")],
)
def test_bad_line_is_named_before_anything_is_answered(models, line, message):
    """A bad line is found before the first answer is printed, and its number is said."""
    result = _run("answer", "sentiment/dense", "--input", "-", models=models, stdin='{"text": "a"}\n' + line)
    assert message in _one_line(result)


def test_input_that_is_not_utf8_is_refused(models, tmp_path):
    """Bytes that are not text are one line."""
    path = tmp_path / "input.jsonl"
    path.write_bytes(b'{"text": "\xff"}\n')
    assert "not UTF-8" in _one_line(_run("answer", "sentiment/dense", "--input", path, models=models))


@pytest.mark.parametrize("arguments", [["--text", "a", "--input", "-"], []])
def test_options_and_input_exclude_each_other(models, arguments):
    """There is one request by options or many by file, never both or none."""
    result = _run("answer", "sentiment/dense", *arguments, models=models)
    assert result.exit_code == 2
    assert "give one request by options, or many by --input" in result.stderr


def test_empty_models_folder_is_said(tmp_path):
    """Checking nothing is not a success."""
    assert "set SECATEUR_MODELS" in _one_line(_run("check", models=tmp_path))


def test_wrong_setting_is_one_line(models):
    """A setting that cannot be used stops every verb."""
    result = CliRunner().invoke(main, ["check"], env={"SECATEUR_MODELS": str(models), "SECATEUR_THREADS": "none"})
    assert "SECATEUR_THREADS" in _one_line(result)


def test_interrupt_is_one_line(models, monkeypatch):
    """Ctrl-C says in one line that the same command goes on."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(service.cli, "load_model", interrupted)
    result = _run("check", models=models)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize("verb", ["check", "answer"])
def test_help_has_an_example(models, verb):
    """Each verb's help shows how it is used."""
    assert f"secateur-serve {verb}" in _run(verb, "--help", models=models).stdout


def test_copied_artifact_is_still_checked(models, tmp_path):
    """A folder outside the models folder is checked by its path."""
    shutil.copytree(models / "qa/dense", tmp_path / "copy")
    assert _run("check", tmp_path / "copy", models=models).exit_code == 0
