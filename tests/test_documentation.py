"""What the documentation says is so: its commands parse, its paths exist, and every field and setting is described."""

import importlib.util
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

import loadtests.cli
import pruning.cli
import service.cli
from pruning.config import RECIPES, RunConfig, load_recipe
from service.artifact import Manifest
from service.routes import ENDPOINTS
from service.settings import Settings
from tests.fields import SERVICE_README, models_in, with_settings, with_tables

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    RECIPES / "README.md",
    SERVICE_README,
    *(ROOT / folder / "README.md" for folder in ("loadtests", "docker")),
]
PROGRAMS = {"secateur-prune": pruning.cli.main, "secateur-serve": service.cli.main, "secateur-loadtest": loadtests.cli.main}
VARIABLES = {f"SECATEUR_{name.upper()}" for name in Settings.model_fields} | {"SECATEUR_DATA", "SECATEUR_CACHE"}


def shell_lines(document: Path) -> list[str]:
    """Every command of the document's `sh` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


def help_lines() -> list[str]:
    """Every example in the help of all programs."""
    commands = [command for program in PROGRAMS.values() for command in (program, *program.commands.values())]
    lines = [line.strip() for command in commands for line in (command.help or "").splitlines()]
    return [line for line in lines if line.split(" ")[0] in PROGRAMS]


def makefile_names() -> tuple[set[str], set[str]]:
    """Targets and variables of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE)), set(re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE))


def headings(document: Path) -> set[str]:
    """What links to the document's headings say behind the #."""
    found = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in found}


def check_make(words: list[str]) -> None:
    """The targets exist, and the variables are ones that the Makefile reads."""
    targets, variables = makefile_names()
    for word in words:
        known = word.partition("=")[0] in variables if "=" in word else word in targets
        assert known, f"make knows no {word!r}"


def check_program(program: click.Group, words: list[str]) -> None:
    """The command parses with its options, and the recipe that it names loads with its overrides; nothing is run."""
    for word in words:
        make_up(Path(word))
    with program.make_context("secateur", words) as context:
        if program.invoke_without_command and not context._protected_args:
            return
        _, command, rest = program.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        with command.make_context(command.name, rest, parent=context) as inner:
            if inner.params.get("recipe"):
                load_recipe(inner.params["recipe"], inner.params.get("overrides", ()))


def check_curl(address: str, *options: str) -> None:
    """The address is a route of the service, and the body one that it takes."""
    bodies = {f"localhost:8000{endpoint.path}": endpoint.body for endpoint in ENDPOINTS}
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert address in bodies, f"the service has no {address!r}"
    assert given["-H"] == "Content-Type: application/json"
    bodies[address].model_validate_json(given["-d"])


def make_up(path: Path) -> None:
    """An empty file or folder of that name, for options that want one that exists."""
    if path.suffix in (".csv", ".json", ".jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    elif re.fullmatch(r"[a-z][a-z0-9./-]*", str(path)):
        path.mkdir(parents=True, exist_ok=True)


def check_command(line: str) -> None:
    """The line is a command that this project has, or one of the few that any shell has."""
    name, *words = shlex.split(line.partition(" >> ")[0], comments=True)
    if name == "make":
        check_make(words)
    elif name in PROGRAMS:
        check_program(PROGRAMS[name], words)
    elif name.endswith("python") and "-m" in words:
        assert importlib.util.find_spec(words[words.index("-m") + 1]), line
    elif name.endswith("python"):
        assert (ROOT / words[0]).is_file(), line
    elif name == "curl":
        check_curl(*words)
    else:
        assert name in ("git", "cd", "source", "docker"), f"a command that no test checks: {line}"


@pytest.mark.parametrize("line", [line for document in DOCUMENTS for line in shell_lines(document)])
def test_command_in_the_documentation_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A command that a reader is told to type is accepted."""
    monkeypatch.chdir(tmp_path)
    check_command(line)


@pytest.mark.parametrize("line", help_lines())
def test_example_in_help_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A command that `--help` shows as an example is accepted."""
    monkeypatch.chdir(tmp_path)
    check_command(line)


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_command_has_an_example(program: click.Group):
    """The help of every command shows how to call it."""
    lacking = [name for name, command in program.commands.items() if not re.search(rf"secateur-\w+ {name}\b", command.help or "")]
    assert lacking == []


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_option_is_described(program: click.Group):
    """Every option of every command says what it does."""
    options = [(name, p) for name, command in program.commands.items() for p in command.params if isinstance(p, click.Option)]
    assert [(name, option.name) for name, option in options if not option.help] == []


@pytest.mark.parametrize(
    "line", ["make demoo", "make demo INDEX=x", "secateur-prune run sst2 --out x", "secateur-prune fly", "curl x", "wget x"]
)
def test_a_wrong_command_is_noticed(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The check that the tests above rely on refuses a target, a variable, an option or a command that does not exist."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, click.UsageError)):
        check_command(line)


def test_load_tests_install_what_makes_the_variants_that_they_compare(tmp_path: Path):
    """From an empty clone: dense-int8 does not ship, and without it nobody can tell what 8 bits won from what pruning did."""
    command = ["make", "--dry-run", "loadtest", f"VENV={tmp_path / 'venv'}"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f".[{extras}]" in printed for extras in ("pruning", "openvino,loadtests"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path):
    """Every relative link of the document is to a file, a folder or a heading that exists."""
    links = [link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")) if "://" not in link]
    targets = [(document.parent / path if path else document, heading) for path, _, heading in links]
    assert [str(path) for path, _ in targets if not path.exists()] == []
    assert [heading for path, heading in targets if heading and heading not in headings(path)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_exist(document: Path):
    """Every path that the text puts in code, from the root of the project and without a placeholder, exists; `runs/` is the user's."""
    code = re.findall(r"`([a-z_./-]+/[a-zA-Z0-9_./-]+)`", document.read_text(encoding="utf-8"))
    own = [path for path in code if not path.startswith(("/", "runs/")) and Path(path).stem != "x"]
    inside = [path for path in own if (ROOT / path.split("/")[0]).exists()]
    assert [path for path in inside if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("model", [*models_in(RunConfig), *models_in(Manifest), Settings], ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BaseModel]):
    """Every field of a recipe, of the manifest and of the settings has a description, and every model says what it is."""
    lacking = [name for name, field in model.model_fields.items() if not (field.description or "").strip()]
    assert lacking == []
    assert (model.__doc__ or "").strip()


def test_recipe_fields_are_listed():
    """The recipes' README lists every field as it is in the code; `python -m tests.fields` writes the list again."""
    readme = (RECIPES / "README.md").read_text(encoding="utf-8")
    assert readme == with_tables(readme)


def test_settings_and_errors_are_listed():
    """The service's README lists every setting and every kind of error as the code has them."""
    readme = SERVICE_README.read_text(encoding="utf-8")
    assert readme == with_settings(readme)


def test_every_recipe_is_listed():
    """The recipes' README has a row for every recipe that ships."""
    listed = set(re.findall(r"^\| \[([a-z0-9_-]+)\]\(", (RECIPES / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert listed == {path.stem for path in RECIPES.glob("*.yaml")}


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_every_setting_is_in_the_readme(variable: str):
    """A README names every environment variable that is read."""
    assert any(f"`{variable}`" in document.read_text(encoding="utf-8") for document in (RECIPES / "README.md", SERVICE_README))


def test_every_variable_that_is_read_is_a_setting():
    """No file reads a variable of ours that the test above does not know."""
    sources = [path.read_text(encoding="utf-8") for package in ("service", "pruning") for path in (ROOT / package).rglob("*.py")]
    assert {name for source in sources for name in re.findall(r"SECATEUR_[A-Z_]*[A-Z]", source)} <= VARIABLES
