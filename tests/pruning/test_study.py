"""A study: its runs are done once, and their shapes are timed once."""

import json
from pathlib import Path

import pytest
import yaml

from pruning import checkpoint, study, study_speeds
from pruning.cli import main
from pruning.config import RECIPES
from pruning.errors import ConfigError
from pruning.ledger import Ledger, as_table
from pruning.study import load_study, run_study
from pruning.study_speeds import measure
from pruning.timing import Ratio
from tests.pruning import helpers
from tests.pruning.test_ledger import entry

TEXTS = [("the good a b c", 1), ("bad the d e", 0), ("good good f", 1), ("the bad bad", 0)] * 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A study of a dense model and two pruned ones."""
    lines = [json.dumps({"text": text, "label": label}) for text, label in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    model = helpers.tiny_model("bert", "text-classification", intermediate=48, layers=2)
    checkpoint.save(model, helpers.tiny_tokenizer(), tmp_path / "model")
    source = [{"path": str(tmp_path / "texts.jsonl"), "name": "tiny"}]
    training = {"epochs": 4, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
    recipe = {
        "name": "tiny",
        "task": "text-classification",
        "model": str(tmp_path / "model"),
        "labels": ["NO", "YES"],
        "max_length": 24,
        "data": {"train": source, "validation": source},
        "train": [training],
        "fine_prune": {
            "method": {"name": "movement"},
            "granularity": {"attention": "element", "feed_forward": "element"},
            "density": 0.5,
            "start": "pretrained",
            "train": training,
        },
    }
    runs = [
        {"name": "dense", "set": ["fine_prune=null"]},
        {"name": "a half", "claims": ["a"]},
        {"name": "a tenth", "claims": ["b"], "set": ["fine_prune.density=0.1"]},
    ]
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({"recipe": recipe, "runs": runs}))
    return path


def test_runs_are_done_once(file, tmp_path, monkeypatch):
    """Each is in the ledger with its density; a second time nothing is run, and after a change only what changed."""
    ledger = run_study(load_study(file), tmp_path / "runs", tmp_path / "ledger.json")
    assert [each.density for each in ledger.entries] == [1.0, 0.5, pytest.approx(0.1, abs=0.01)]
    assert all(each.per_example.examples == len(TEXTS) for each in ledger.entries)
    done = []
    monkeypatch.setattr(study, "_entry", lambda run, *_: done.append(run.name) or ledger.find(run.name))
    run_study(load_study(file), tmp_path / "runs", tmp_path / "ledger.json")
    assert done == []
    content = yaml.safe_load(file.read_text())
    content["runs"][2]["set"] = ["fine_prune.density=0.2"]
    file.write_text(yaml.safe_dump(content))
    run_study(load_study(file), tmp_path / "runs", tmp_path / "ledger.json")
    assert done == ["a tenth"]
    texts = Path(content["recipe"]["data"]["train"][0]["path"])
    texts.write_text(texts.read_text().replace("good a b c", "good a b"))
    run_study(load_study(file), tmp_path / "runs", tmp_path / "ledger.json")
    assert done == ["a tenth", *(run["name"] for run in content["runs"])]


def test_processes_share_a_ledger(file, tmp_path, monkeypatch):
    """What another one wrote during a run stays, and runs stand in the study's order."""
    path = tmp_path / "ledger.json"

    def meanwhile(run, *_):
        Ledger.load(path).having(entry("a tenth", [True])).having(entry("elsewhere", [True])).save(path)
        return entry(run.name, [False])

    monkeypatch.setattr(study, "_entry", meanwhile)
    ledger = run_study(load_study(file), tmp_path / "runs", path, only=["a half"])
    assert [each.name for each in ledger.entries] == ["a half", "a tenth", "elsewhere"]
    assert Ledger.load(path) == ledger


def test_a_filled_model_is_listed_with_all_its_weights(file, tmp_path):
    """Zeros that were revived count; without filling they do not."""
    content = yaml.safe_load(file.read_text())
    blocks = {"rows": 4, "columns": 4}
    content["recipe"]["fine_prune"] |= {"granularity": {"attention": blocks, "feed_forward": "neuron"}}
    recover = "{epochs: 1, batch_size: 4, precision: fp32%s}"
    content["runs"] = [{"name": name, "set": [f"recover={recover % more}"]} for name, more in (("held", ""), ("filled", ", fill: true"))]
    file.write_text(yaml.safe_dump(content))
    held, filled = run_study(load_study(file), tmp_path / "runs", tmp_path / "ledger.json").entries
    assert held.layers == filled.layers
    assert held.density == pytest.approx(0.5, abs=0.01)
    assert filled.density > held.density + 0.1


def test_only_what_is_asked_for_is_run(file, tmp_path, invoke):
    """By name or by claim; the table has what the ledger has."""
    arguments = ["study", str(file), "--output", str(tmp_path / "runs"), "--ledger", str(tmp_path / "ledger.json")]
    found = invoke(main, [*arguments, "--only", "dense", "--only", "b"])
    assert found.exit_code == 0, found.stderr
    assert [line.split(" | ")[0] for line in found.stdout.splitlines()[2:]] == ["| dense", "| a tenth"]


def test_a_ledger_is_read_without_running_anything(file, tmp_path, invoke):
    """Without a folder for runs: not even the data is needed, and any run can be what the others are compared with."""
    path = tmp_path / "ledger.json"
    Ledger().having(entry("dense", [1.0, 1.0])).having(entry("a half", [1.0, 0.5])).having(entry("a tenth", [1.0, 0.0])).save(path)
    (tmp_path / "texts.jsonl").unlink()
    before = path.read_bytes()
    found = invoke(main, ["study", str(file), "--ledger", str(path), "--against", "a half", "--pictures", str(tmp_path / "pictures")])
    assert found.exit_code == 0, found.stderr
    assert [line.split(" | ")[5].split(" (")[0] for line in found.stdout.splitlines()[2:]] == ["+25.00", "", "-25.00"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--output", "runs", "--only", "a thrid"], "no run and no claim 'a thrid' in the study: it has 'a', 'a half'"),
        (["--only", "a"], "--output is missing: say in which folder to do the runs"),
        (["--ledger", "nosuch.json"], "--output is missing: say in which folder to do the runs; there is no nosuch.json yet"),
        (["--against", "a third"], "--against 'a third': no such run, but 'dense'\n"),
        (["--against", "a third", "--output", "runs"], "--against 'a third': no such run, but 'dense', 'a half', 'a tenth'\n"),
    ],
)
def test_what_a_study_cannot_do_is_said_in_one_line(options, said, file, tmp_path, invoke, monkeypatch):
    """A run, a claim or a ledger that is not there."""
    monkeypatch.chdir(tmp_path)
    Ledger().having(entry("dense", [1.0])).save(Path("ledger.json"))
    found = invoke(main, ["study", str(file), "--ledger", "ledger.json", *options])
    assert found.exit_code == 2
    assert said in found.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("runs: [", "not a readable study"),
        ("{recipe: {}, runs: []}", "runs"),
        ("{recipe: {}, runs: [{name: a}, {name: a}]}", "same name"),
        ("{recipe: {}, runs: [{name: a}]}", "run 'a'"),
    ],
)
def test_what_is_no_study_is_said_in_one_line(text, said, tmp_path):
    """The file, and what is wrong with it."""
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_study(tmp_path / "study.yaml")


def test_a_study_that_is_not_there_names_those_that_are():
    """As for recipes: what to give instead."""
    with pytest.raises(ConfigError, match="no study 'nosuch': give a YAML file, or one of: qa, sst2"):
        load_study(Path("nosuch"))


@pytest.mark.parametrize("path", sorted((RECIPES / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_studies_that_ship_load(path):
    """Every run's recipe is valid, and there is a dense one to compare with."""
    assert load_study(path).runs[0].name == "dense"
    assert load_study(Path(path.stem)) == load_study(path)


def replace_bench(monkeypatch, speedup):
    """Put a bench in the place of the real one that asks `speedup` and times nothing."""

    class Bench:
        """The stand-in."""

        def __init__(self, *_: object) -> None:
            """Take what the real one takes."""

        def speedup(self, layers: tuple) -> Ratio:
            """What was given."""
            return speedup(layers)

    monkeypatch.setattr(study_speeds, "StructuralBench", Bench)


def test_shapes_are_timed_once(file, tmp_path, monkeypatch):
    """What was measured already is not measured again; the table shows it in the place of the prediction."""
    timed, path = [], tmp_path / "ledger.json"
    replace_bench(monkeypatch, lambda layers: timed.append(layers) or Ratio(2.0, 1.9, 2.1))
    ledger = Ledger().having(entry("dense", [1.0])).having(entry("pruned", [0.5], speedup=1.8))
    ledger.save(path)
    once = measure(path, load_study(file))
    assert measure(path, load_study(file)) == once == Ledger.load(path)
    assert len(timed) == 2
    assert "1.80x predicted" in as_table(ledger)
    assert "2.00x (1.90 to 2.10)" in as_table(once)


def test_what_others_write_while_shapes_are_timed_stays(file, tmp_path, monkeypatch):
    """A run that is added, and one that is done anew, whose old shapes' speed is not written; an interruption keeps what was timed."""
    path = tmp_path / "ledger.json"
    calls = []

    def meanwhile(_):
        calls.append(1)
        if len(calls) == 1:
            Ledger.add(path, entry("elsewhere", [1.0]), [])
        if len(calls) == 2:
            Ledger.add(path, entry("again", [0.0]), [])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Ratio(2.0, 1.9, 2.1)

    replace_bench(monkeypatch, meanwhile)
    Ledger(entries=(entry("first", [1.0]), entry("again", [1.0]), entry("last", [1.0]))).save(path)
    with pytest.raises(KeyboardInterrupt):
        measure(path, load_study(file))
    entries = {each.name: each for each in Ledger.load(path).entries}
    assert list(entries) == ["first", "again", "last", "elsewhere"]
    assert [name for name, each in entries.items() if each.measured is not None] == ["first"]
    assert entries["again"] == entry("again", [0.0])
