"""Peers are started when they are installed, and otherwise named with what to install."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from service.bench import peers
from service.bench.peers import PEERS, Peer, missing_peers, running_peers
from service.bench.subjects import Subject

ROOT = Path(__file__).parents[3]
HERE = Peer(name="here", module="tests.service.bench.stub", packages=("numpy",), variants=("dense",), layouts=("default", "workers"))


@pytest.fixture
def subject(qa_model, models) -> Subject:
    """The tiny model."""
    return Subject(models / "qa/dense", "dense", "onnxruntime", qa_model)


class FakePeer:
    """Starts the stub whatever it is asked for; one layout is broken."""

    name, variants, layouts = "fake", ("dense",), ("default", "workers")

    def missing(self) -> None:
        """Nothing."""

    def start(self, subject: Subject, layout: str, *, cores: int) -> peers.Server:
        """The stub, or one that ends at once."""
        options = ["--broken"] if layout == "workers" else []
        arguments = ["tests.service.bench.stub", *options]
        return peers.Server(f"fake ({layout})", arguments, ready_path="/health", environment={"PYTHONPATH": str(ROOT)})


def test_every_peer_is_a_module_of_the_source_tree():
    """A renamed script is noticed."""
    assert all(find_spec(peer.module) is not None for peer in PEERS)


def test_a_missing_package_is_named_with_its_command():
    """The peer is left out, not an error."""
    peer = Peer(name="x", module="m", packages=("numpy", "no-such-thing"), variants=(), layouts=())
    assert peer.missing() == "x: not installed: pip install no-such-thing"
    assert HERE.missing() is None


def test_without_the_source_tree_no_peer_can_be_started(monkeypatch):
    """An installed service has no load tests beside it."""
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    assert all("source tree" in line for line in missing_peers())
    assert len(missing_peers()) == len(PEERS)


@pytest.mark.parametrize(("layout", "tuned"), [("default", []), ("workers", ["--tuned", "workers"])])
def test_a_peer_is_told_artifact_task_and_layout(subject, monkeypatch, layout, tuned):
    """What its command line says."""
    seen = []
    monkeypatch.setattr(peers, "Server", lambda name, arguments, ready_path: seen.append((name, arguments)))
    HERE.start(subject, layout, cores=3)
    ((name, arguments),) = seen
    assert name == f"here ({layout})"
    task = ["--artifact", str(subject.folder), "--task", "question-answering", "--cores", "3"]
    assert arguments == ["tests.service.bench.stub", *task, *tuned]


def test_peers_that_cannot_start_are_noted_and_the_others_run(subject, monkeypatch):
    """One broken set-up does not cost the run."""
    monkeypatch.setattr(peers, "PEERS", (FakePeer(),))
    monkeypatch.setattr("service.bench.servers.CALM_SECONDS", 0.02)
    notes = []
    with running_peers([subject], ("default", "workers"), cores=2, note=notes.append) as running:
        assert [each.layer for each in running] == ["fake (default)"]
    assert notes == ["fake (workers) ended instead of starting: no model here"]


@pytest.mark.parametrize(("layouts", "variant"), [((), "dense"), (("default",), "compact")])
def test_nothing_is_started_that_is_not_wanted(subject, monkeypatch, layouts, variant):
    """Neither without a layout, nor for a variant that the peer cannot serve."""
    monkeypatch.setattr(peers, "PEERS", (FakePeer(),))
    other = Subject(subject.folder, variant, subject.runtime, subject.model)
    with running_peers([other], layouts, cores=2, note=pytest.fail) as running:
        assert running == []
