"""What lies below HTTP has an end, and what disturbed it is said."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.artifacts import Artifacts
from loadtests.below import SEVERAL_GRAPHS, Below, below
from loadtests.deadline import Deadline
from loadtests.machine import Conditions, available_cores, share_cores
from loadtests.plan import Plan, parse_subjects
from loadtests.run import with_below
from loadtests.texts import TASKS
from tests.loadtests.report_cases import task_of

PLAN = Plan(("qa",), parse_subjects("dense,compact"), quick=True)


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """Of one graph, and of none that can be loaded."""
    for variant in ("dense", "compact"):
        (tmp_path / "qa" / variant).mkdir(parents=True)
        (tmp_path / "qa" / variant / "model.onnx").touch()
        (tmp_path / "qa" / variant / "manifest.json").write_text(json.dumps({}))
    manifests = {variant: {"precision": "fp32", "max_length": 384} for variant in ("dense", "compact")}
    return Artifacts(tmp_path, "qa", manifests, ())


def test_it_is_left_out_when_loads_took_all_the_time(artifacts):
    """With a note for each part; nothing is started."""
    deadline = Deadline(time.monotonic(), 1.0)
    told: list[str] = []
    cores = share_cores(available_cores())
    found = below(PLAN, TASKS["qa"], artifacts, tokens=32, deadline=deadline, cores=cores, progress=told.append)
    assert len(found.raw.notes) == len(told) == 2
    assert all("loads took all the time" in note for note in found.raw.notes)
    assert found.conditions is not None


def test_a_model_of_several_graphs_has_nothing_below_http(artifacts):
    """The report's note says what is left out; nothing is started."""
    (artifacts.path("dense") / "model.onnx").unlink()
    told: list[str] = []
    deadline, cores = Deadline(time.monotonic(), 1.0), share_cores(available_cores())
    found = below(PLAN, TASKS["qa"], artifacts, tokens=32, deadline=deadline, cores=cores, progress=told.append)
    assert with_below(task_of(), found, ()).notes[-1] == SEVERAL_GRAPHS
    assert (found.layers, told) == ((), [])


def test_others_make_it_void_as_they_do_loads():
    """The reason says where."""
    quiet = Conditions(float("nan"), 0.01, 0.0, float("nan"))
    assert with_below(task_of(), Below(conditions=quiet), ()).void == ()
    busy, stolen = with_below(task_of(), Below(conditions=replace(quiet, others_share=0.4, stolen_share=0.1)), ()).void
    assert busy.startswith("below HTTP, other processes took 40.0%")
    assert "steal" in stolen
    assert with_below(task_of(), Below(), ()).void == ()
