"""What can be measured is known before the first load."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from loadtests import artifacts, cli, jobs
from loadtests.artifacts import Artifacts
from loadtests.cli import main
from loadtests.errors import ServiceError
from loadtests.jobs import jobs_of
from loadtests.machine import Cores
from loadtests.plan import DEFAULT_VARIANTS, MINUTES_PER_TASK, Plan, parse_subjects
from loadtests.targets import Target
from loadtests.texts import TASKS
from tests.loadtests.fake import Fake

COMPOSE = Path(__file__).parents[2] / "docker" / "compose.yaml"
EVERY = ("qa", "sentiment", "news")
PLAN = Plan(tuple(TASKS), parse_subjects(DEFAULT_VARIANTS), minutes=3 * MINUTES_PER_TASK)


@pytest.fixture(name="two_runtimes")
def of_two_runtimes(fake: Fake) -> Fake:
    """All tasks in three variants, of which only encoders run in a second runtime, and then in that alone."""
    fake.behaviour.models = EVERY
    fake.behaviour.variants = {"qa": ("compact-int8", "compact", "dense"), "sentiment": ("dense", "compact-int8"), "news": ("dense",)}
    fake.behaviour.runtimes = {"compact": "openvino 2026.4.1"}
    return fake


def labels(found: jobs.Jobs) -> dict[str, list[str]]:
    """Of the subjects, by task."""
    return {job.task.name: [subject.label for subject in job.plan.subjects] for job in found.tasks}


def test_a_default_that_a_task_cannot_have_is_left_out(two_runtimes):
    """Each task has the others, and notes say what was left out and why."""
    two_runtimes.behaviour.variants["news"] = ("dense", "compact-int8", "compact")
    two_runtimes.behaviour.runtimes = {}
    with jobs_of(PLAN, Target(url=two_runtimes.url)) as found:
        assert labels(found) == {
            "qa": ["dense", "compact-int8", "compact@openvino"],
            "classify": ["dense", "compact-int8"],
            "summarize": ["dense", "compact-int8", "compact@openvino"],
        }
        (note,) = found.all_notes
    assert "/classify: compact@openvino was left out" in note


def test_one_that_was_named_is_an_error_before_anything_is_measured(two_runtimes, tmp_path):
    """It names the task, the variant and what there is; no folder is made."""
    options = ["--variants", DEFAULT_VARIANTS, "--task", "qa", "--task", "classify", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, ["compare", "--url", two_runtimes.url, *options])
    assert done.exit_code == 2
    assert "compact@openvino cannot be measured for /classify" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_generates_runs_in_one_runtime(two_runtimes):
    """A service that says so is believed, and the other tasks keep theirs."""
    two_runtimes.behaviour.variants["news"] = ("dense", "compact-int8", "compact")
    two_runtimes.behaviour.runtimes = {"compact": "onnxruntime 1.31.1"}
    with jobs_of(Plan(("summarize",), PLAN.subjects), Target(url=two_runtimes.url)) as found:
        assert labels(found) == {"summarize": ["dense", "compact-int8"]}
        assert "runs compact in onnxruntime" in found.all_notes[0]


def test_a_service_that_runs_is_asked_what_it_has(two_runtimes):
    """Variants in their runtimes, the dense one first; a task with nothing to compare is left out with a note."""
    with jobs_of(Plan(tuple(TASKS)), Target(url=two_runtimes.url)) as found:
        assert labels(found) == {"qa": ["dense", "compact-int8", "compact@openvino"], "classify": ["dense", "compact-int8"]}
        assert "/summarize was left out" in found.notes[0]


def test_nothing_to_compare_is_one_line(two_runtimes):
    """With what was left out."""
    with pytest.raises(ServiceError, match="/summarize was left out"), jobs_of(Plan(("summarize",)), Target(url=two_runtimes.url)):
        pass


def test_the_comparison_of_the_stack_finds_its_variants(fake, tmp_path, monkeypatch):
    """As compose starts it, without options: what the service serves is compared."""
    shell = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]["compare"]["command"][-1]
    arguments = shlex.split(shell.replace("http://service:8000", f"{fake.url}/").replace("$$COMPARE", ""))
    seen: list[jobs.Jobs] = []

    def stopped(found: jobs.Jobs, **_: object) -> None:
        seen.append(found)
        raise ServiceError("far enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "run", stopped)
    done = CliRunner().invoke(main, arguments[arguments.index("compare") :])
    assert "far enough" in done.stderr
    assert labels(seen[0]) == {"qa": ["dense", "compact-int8"], "classify": ["dense", "compact-int8"]}


def test_each_variant_is_started_once_and_its_last_words_are_kept(tmp_path, monkeypatch):
    """One that cannot be made is not started at all."""
    monkeypatch.setattr(artifacts, "NEEDED_TO_QUANTIZE", ("no_such_module",))
    for variant in ("dense", "compact"):
        (tmp_path / "news" / variant).mkdir(parents=True)
        (tmp_path / "news" / variant / "manifest.json").write_text(json.dumps({"task": "summarization"}))
    with artifacts.gathered(tmp_path, TASKS["summarize"], ["dense", "dense-int8"]) as found:
        why = jobs.refusals(
            Target(models=tmp_path), TASKS["summarize"], found, parse_subjects("dense,dense-int8"), Cores((0,), (0,), pinned=False)
        )
    assert set(why) == {"dense", "dense-int8"}
    assert "pip install '.[pruning]'" in why["dense-int8"]


def test_what_generates_is_not_quantized_for_attribution(tmp_path, monkeypatch):
    """What lies below HTTP is not measured of it."""
    asked: list[tuple[str, ...]] = []
    empty = Artifacts(tmp_path, "news", {}, (), {"dense": "no", "compact-int8": "no", "compact": "no"})

    class Gathered:
        def __init__(self, *_: object, also: tuple[str, ...]) -> None:
            asked.append(also)

        def __enter__(self) -> Artifacts:
            return empty

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(jobs, "artifacts_of", Gathered)
    with pytest.raises(ServiceError), jobs_of(Plan(("qa", "summarize"), PLAN.subjects), Target(models=tmp_path)):
        pass
    assert [bool(also) for also in asked] == [True, False]


@pytest.mark.parametrize(
    ("options", "tasks", "connections"), [(["--quick"], ["qa"], 4), (["--quick", "--task", "classify"], ["classify"], 7)]
)
def test_options_come_to_jobs(options, tasks, connections, fake, tmp_path, monkeypatch):
    """`--quick` is of /qa unless a task is named, and connections are those that are given."""
    seen: list[jobs.Jobs] = []
    monkeypatch.setattr(cli, "run", lambda found, **_: seen.append(found))
    given = ["--connections", str(connections)] if connections != 4 else []
    CliRunner().invoke(main, ["compare", "--url", fake.url, "--output", str(tmp_path / "out"), *options, *given])
    assert [job.task.name for job in seen[0].tasks] == tasks
    assert [job.plan.connections for job in seen[0].tasks] == [connections]


def test_one_task_of_named_variants_is_not_started_twice():
    """Its own start comes before any load; with a second task, all are started first."""
    target, subjects = Target(("false",)), parse_subjects("dense,compact")
    with jobs_of(Plan(("qa",), subjects, named=True), target) as found:
        assert labels(found) == {"qa": ["dense", "compact"]}
    with pytest.raises(ServiceError, match="for /qa"), jobs_of(Plan(("qa", "classify"), subjects, named=True), target):
        pass
