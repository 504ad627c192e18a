"""A ledger keeps what each example scored, so that any two runs can be compared and drawn."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from pruning.errors import DataError
from pruning.ledger import Entry, Ledger, Measured, as_table, packed
from pruning.metrics import Scores, difference_interval
from pruning.study_plots import write_pictures


def entry(name: str, scores: list[float], **fields: object) -> Entry:
    """An entry of a ledger."""
    kept = packed(Scores(np.array(scores), np.ones(len(scores))))
    known = {"settings": "{}", "dataset": "d", "metric": "f1", "density": 1.0, "left": 1.0, "speedup": None, "layers": ()}
    return Entry(**{**known, "name": name, "scores": kept, "steps": 1, "seconds": 60.0, "peak_memory_bytes": 10**9, "cpu": "c", **fields})


def test_a_ledger_keeps_what_examples_scored(tmp_path):
    """To a ten-thousandth; differences are those of the scores themselves."""
    random = np.random.default_rng(0)
    first, second = random.random(500), random.random(500)
    ledger = Ledger().having(entry("dense", list(first))).having(entry("pruned", list(second)))
    ledger.save(tmp_path / "ledger.json")
    read = Ledger.load(tmp_path / "ledger.json")
    assert read == ledger
    assert read.entries[0].per_example.numerator == pytest.approx(first, abs=1e-4)
    expected = difference_interval(*(Scores(each, np.ones(500)) for each in (second, first)))
    found = read.entries[1].minus(read.entries[0])
    assert [found.value, found.low, found.high] == pytest.approx([expected.value, expected.low, expected.high], abs=0.01)
    assert "| pruned | 1.000 | 0, 0 |  | " in as_table(read)


def test_runs_scored_on_other_examples_are_not_compared():
    """One line names both."""
    with pytest.raises(DataError, match="was scored by f1 on d, b by f1 on other"):
        entry("a", [1.0]).minus(entry("b", [1.0], dataset="other"))


def test_a_run_takes_the_place_of_an_earlier_one():
    """A name is in the ledger once."""
    assert [each.density for each in Ledger().having(entry("a", [1.0])).having(entry("a", [1.0], density=0.5)).entries] == [0.5]


def test_what_is_no_ledger_is_not_overwritten(tmp_path):
    """One line, and the file stays."""
    (tmp_path / "ledger.json").write_text("[]")
    with pytest.raises(DataError, match="not a ledger"):
        Ledger.load(tmp_path / "ledger.json")


def test_a_ledger_is_drawn(tmp_path):
    """A picture for each claim and for what was measured, in which runs that differ in a share are one curve."""
    speed = Measured(value=2.0, low=1.9, high=2.1, precision="int8", tokens=32)
    runs = [
        entry("dense", [1.0, 0.5], claims=("a",)),
        entry("movement at 10 %", [0.5, 0.5], claims=("a", "b"), density=0.1, measured=speed),
        entry("movement at 3.5 %", [0.5, 0.0], claims=("a",), density=0.035),
        entry("blocks at 10 %", [0.5, 0.25], claims=("a",), density=0.1),
    ]
    paths = write_pictures(Ledger(entries=tuple(runs)), tmp_path)
    assert [path.name for path in paths] == ["a-density.svg", "a-speedup.svg", "b-density.svg", "b-speedup.svg"]
    texts = {element.text for element in ElementTree.parse(paths[0]).iter("{http://www.w3.org/2000/svg}text")}
    assert texts >= {"movement", "blocks", "dense"}
    assert "movement: 3.5% F1 25.0 %, 10% F1 50.0 %" in described(paths[0])
    assert paths == write_pictures(Ledger(entries=tuple(runs)), tmp_path)


def described(path: Path) -> str:
    """What a picture says to those who do not see it."""
    found = ElementTree.parse(path).find("{http://www.w3.org/2000/svg}desc")
    assert found is not None
    return str(found.text)
