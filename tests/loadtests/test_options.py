"""The command line that all peers share."""

import json
import os

import pytest

from loadtests.peers.options import VARIABLE, Options, inherited_options, read_options

BASE = ["peer", "--artifact", "models/qa/dense", "--task", "question-answering", "--port", "7000", "--cores", "3"]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that is put back."""
    for name in (VARIABLE, "TOKENIZERS_PARALLELISM", *THREADS):
        monkeypatch.setenv(name, "before")


def _read(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Options:
    monkeypatch.setattr("sys.argv", [*BASE, *arguments])
    return read_options()


@pytest.mark.parametrize(
    ("arguments", "layout", "workers"),
    [([], "default", 1), (["--tuned"], "workers", 3), (["--tuned", "threads"], "threads", 1), (["--tuned", "workers"], "workers", 3)],
)
def test_tuned_is_a_worker_for_each_core_or_a_thread_for_each_call(monkeypatch, arguments, layout, workers):
    """Without the flag nothing is tuned; with it alone there are as many processes as cores."""
    options = _read(monkeypatch, *arguments)
    assert (options.layout, options.workers, options.tuned) == (layout, workers, layout != "default")


def test_children_find_the_same_options(monkeypatch):
    """A worker that uvicorn starts is told by the environment."""
    options = _read(monkeypatch, "--tuned")
    assert inherited_options() == options


def test_libraries_are_told_their_threads_only_when_tuned(monkeypatch):
    """The default is whatever the library does by itself."""
    _read(monkeypatch)
    assert [os.environ[name] for name in THREADS] == ["before", "before"]
    _read(monkeypatch, "--tuned")
    assert [os.environ[name] for name in THREADS] == ["1", "1"]
    assert json.loads(os.environ[VARIABLE])["cores"] == 3


@pytest.mark.parametrize("arguments", [["--tuned", "wildly"], ["--task", "translation"]])
def test_what_no_peer_can_do_is_refused(monkeypatch, arguments):
    """A wrong option ends the peer before anything is loaded."""
    with pytest.raises(SystemExit):
        _read(monkeypatch, *arguments)
