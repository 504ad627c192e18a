"""Which service is measured, and for which tasks."""

import json
import os
from dataclasses import replace

import psutil
import pytest

from loadtests.errors import ServiceError
from loadtests.machine import Cores, available_cores
from loadtests.plan import parse_subjects
from loadtests.targets import Target, artifacts_of, pids_of, servers_of, shared_cores, tasks_of
from loadtests.texts import TASKS

CORES = Cores((0,), (1,), pinned=True)


def test_tasks_are_those_that_there_is_a_model_for(fake, tmp_path):
    """As the service says, or the folder of models; one line where there is none."""
    assert tasks_of(Target(url=fake.url)) == ("qa", "classify")
    with pytest.raises(ServiceError, match="no model"):
        tasks_of(Target(models=tmp_path))
    (tmp_path / "news" / "dense").mkdir(parents=True)
    (tmp_path / "news" / "dense" / "manifest.json").write_text(json.dumps({"task": "summarization"}))
    assert tasks_of(Target(models=tmp_path)) == ("summarize",)


def test_a_service_that_runs_serves_all_subjects(fake):
    """Nothing is started, and its cores are left alone."""
    target, subjects = Target(url=fake.url), parse_subjects("dense,compact-int8")
    with artifacts_of(target, TASKS["qa"], subjects) as artifacts, servers_of(target, artifacts, subjects, CORES) as servers:
        assert artifacts is None
        assert {label: (server.url, server.pid) for label, server in servers.items()} == dict.fromkeys(
            ("dense", "compact-int8"), (fake.url, None)
        )
    assert "where it was" in target.where(CORES)


@pytest.mark.parametrize(("later", "found"), [(None, False), (0.0, True), (60.0, False)])
def test_who_listens_is_the_service_if_it_began_when_that_says(fake, later, found):
    """Otherwise it is the proxy of a container, or cannot be told apart."""
    fake.behaviour.began = None if later is None else psutil.Process().create_time() + later
    assert pids_of(Target(url=fake.url)) == ((psutil.Process().pid,) if found else None)


def test_an_address_may_end_with_a_slash(fake):
    """Paths begin behind it."""
    assert Target(url=f"{fake.url}/").url == fake.url
    assert tasks_of(Target(url=f"{fake.url}/")) == ("qa", "classify")


def test_a_service_that_shares_the_core_of_the_generator_is_noted():
    """Where its cores are not known, too; nothing is said of a service of its own cores, of many cores, or that is started here."""
    target, here = Target(url="http://somewhere"), available_cores()
    shared, apart = (Cores((7,), cores, pinned=True) for cores in (here[:1], (max(here) + 1,)))
    (note,) = shared_cores(target, [os.getpid()], shared)
    assert "taskset --cpu-list 7" in note
    assert f"SERVICE_CPUSET=7 LOADTEST_CPUSET={here[0]}" in note
    assert ["not known" in note for note in shared_cores(target, None, shared)] == [True]
    assert list(shared_cores(target, [os.getpid()], apart)) == []
    assert list(shared_cores(target, None, replace(shared, pinned=False))) == list(shared_cores(Target(), (), shared)) == []
