"""What every image keeps to: pinned, small, not root, quick to stop, nothing secret."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.docker.files import DOCKER, DOCKERFILES, ROOT, final_stage, instructions

SERVING = [DOCKER / "service.Dockerfile", DOCKER / "service-gpu.Dockerfile"]

each_image = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
each_service = pytest.mark.parametrize("path", SERVING, ids=lambda path: path.stem)


def test_there_is_an_image_for_each_use():
    """Serving on CPU and GPU, pruning, and load tests."""
    assert {path.stem for path in DOCKERFILES} == {"service", "service-gpu", "pruning", "loadtest"}


@each_image
def test_base_is_pinned(path: Path):
    """Every base is a stage of the file or an image with a tag that says its version to the patch."""
    words = instructions(path)
    defaults = dict(rest.split("=", 1) for word, rest in words if word == "ARG" and "=" in rest)
    stages = {rest.partition(" AS ")[2] for word, rest in words if word == "FROM"}
    bases = {rest.partition(" AS ")[0] for word, rest in words if word == "FROM"} - stages
    named = [defaults[base[2:-1]] if base.startswith("${") else base for base in bases]
    assert all(re.search(r":\d+\.\d+\.\d+-[^:]*$", base) for base in named), named


@each_image
def test_it_does_not_run_as_root(path: Path):
    """The last user is a number, which Kubernetes can check, and not 0."""
    assert [rest for word, rest in final_stage(path) if word == "USER"][-1] == "10001:10001"


@each_image
def test_a_signal_reaches_the_process(path: Path):
    """What is run is a list, so no shell stands between."""
    started = [rest for word, rest in final_stage(path) if word in ("ENTRYPOINT", "CMD")]
    assert started
    assert all(rest.startswith('["') for rest in started)


@each_image
def test_versions_are_those_of_the_tests(path: Path):
    """Whatever is installed keeps to constraints.txt, or has nothing to choose."""
    installs = re.findall(r"pip install [^&]*", " && ".join(rest for word, rest in instructions(path) if word == "RUN"))
    assert installs
    assert all("-c constraints.txt" in each or "--no-deps ." in each for each in installs)


@each_image
def test_builders_stay_behind(path: Path):
    """The image begins with the base again, and packages of the system come without suggestions and lists."""
    assert len([1 for word, _ in instructions(path) if word == "FROM"]) >= 2
    system = [rest for word, rest in instructions(path) if word == "RUN" and "apt-get" in rest]
    assert all("--no-install-recommends" in rest and "rm -rf /var/lib/apt/lists/*" in rest for rest in system)


@each_image
def test_nothing_is_fetched_by_hand_and_nothing_is_secret(path: Path):
    """No ADD, no downloads but pip's and apt's, no keys or passwords."""
    text = path.read_text(encoding="utf-8")
    assert not [1 for word, _ in instructions(path) if word == "ADD"]
    assert not re.search(r"\b(curl|wget|sudo|ssh)\b|password|secret|token=", text, re.IGNORECASE)


@each_image
def test_what_is_copied_is_there(path: Path):
    """Every source of COPY exists and is let in by .dockerignore."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    sources = [source for word, rest in instructions(path) if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]]
    assert [source for source in sources if not (ROOT / source).exists() or source.split("/")[0] not in let_in] == []


@each_image
def test_the_runtime_sends_nothing_home(path: Path):
    """ONNX Runtime's telemetry is off."""
    assert any("ORT_DISABLE_TELEMETRY=1" in rest for word, rest in final_stage(path) if word == "ENV")


def test_the_report_is_drawn_with_a_root_that_cannot_be_written():
    """Matplotlib keeps its files where compose has memory."""
    words = " ".join(rest for word, rest in final_stage(DOCKER / "loadtest.Dockerfile") if word == "ENV")
    assert "MPLCONFIGDIR=/tmp/" in words


@each_service
def test_a_service_says_whether_it_is_ready(path: Path):
    """Its health check asks for readiness, and it listens beyond the container."""
    words = dict(final_stage(path))
    assert "/v2/health/ready" in words["HEALTHCHECK"]
    assert "SECATEUR_HOST=0.0.0.0" in words["ENV"]
    assert words["STOPSIGNAL"] == "SIGTERM"


def test_what_the_image_has_beside_its_base_is_its_environment():
    """And the models of the one that has them: its size is checked where the environment is."""
    added = [(word, rest) for word, rest in final_stage(DOCKER / "service.Dockerfile") if word in ("COPY", "ADD", "RUN")]
    assert added == [("COPY", "--from=build /opt/venv /opt/venv"), ("COPY", "models /models")]


@each_service
def test_a_service_holds_neither_torch_nor_pruning(path: Path):
    """Its sources are the service alone, with extras that need no torch."""
    copied = " ".join(rest for word, rest in instructions(path) if word == "COPY")
    assert "pruning" not in copied
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert not [each for each in extras["service"] if re.match(r"(torch|transformers|optimum)\b", each)]
