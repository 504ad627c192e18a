"""A whole run with fine-pruning on a tiny model: its stages, filling, rewinding, targets of every kind, and the commands."""

import json
from pathlib import Path

import pytest
import yaml

from pruning import checkpoint
from pruning.checkpoint_manifest import read_checkpoint_manifest
from pruning.cli import main
from pruning.config import DensityTarget, RunConfig, SpeedupTarget, parse_config, with_speedups
from pruning.errors import CheckpointError, ConfigError, UnreachableTargetError
from pruning.pipeline import run
from pruning.results import FinishedTarget, missed_notes, slower_notes
from pruning.stages.store import StageRecord
from service.artifact import read_manifest
from tests.pruning import helpers
from tests.pruning.report_cases import latency_of

TEXTS = [("the good a b c", 1), ("bad the d e", 0), ("good good f", 1), ("the bad bad", 0)] * 3


@pytest.fixture
def content(tmp_path: Path) -> dict:
    """A recipe over a fine-tuned tiny classifier."""
    lines = [json.dumps({"text": text, "label": label}) for text, label in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    model = helpers.tiny_model("bert", "text-classification", intermediate=48, layers=2)
    checkpoint.save(model, helpers.tiny_tokenizer(), tmp_path / "model")
    source = [{"path": str(tmp_path / "texts.jsonl"), "name": "tiny"}]
    settings = {"epochs": 8, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32"}
    return {
        "name": "tiny",
        "task": "text-classification",
        "model": str(tmp_path / "model"),
        "labels": ["NO", "YES"],
        "max_length": 24,
        "stride": 4,
        "data": {"train": source, "validation": source},
        "fine_prune": {
            "method": {"name": "movement"},
            "granularity": {"attention": {"rows": 4, "columns": 4}, "feed_forward": "neuron"},
            "targets": [{"density": 0.4}],
            "score_learning_rate": 0.3,
            "train": {**settings, "distillation": {"teacher": "dense"}},
        },
        "recover": {**settings, "epochs": 1},
        "evaluate": {"sequence_lengths": [8], "seconds": 0.1},
    }


def config_from(content: dict, **fine_prune: object) -> RunConfig:
    """The recipe with changes of its fine-pruning."""
    return parse_config({**content, "fine_prune": {**content["fine_prune"], **fine_prune}}, origin="test")


def zeros_of(folder: Path) -> int:
    """Zero weights in a checkpoint's linears."""
    model = checkpoint.load(folder)
    return sum(int((parameter == 0).sum()) for name, parameter in model.named_parameters() if "layer" in name and parameter.dim() == 2)


def test_a_run_ends_in_artifacts_and_a_report(content, tmp_path):
    """The density is met, the compact model has zeros inside its heads that recovery holds, and a second run makes nothing again."""
    report = run(config_from(content), tmp_path / "run")
    target = report.targets[0]
    details = json.loads((tmp_path / "run" / ".stages" / "checkpoints__density-0.4__masked.json").read_text())["details"]
    assert details["left"] == pytest.approx(0.4, abs=0.02)
    assert target.density >= details["left"]
    assert target.masks is not None
    assert target.masks.trace[-1].left == details["left"]
    assert "The masks" in (tmp_path / "run" / "report" / "report.html").read_text()
    folders = tmp_path / "run" / "checkpoints" / "density-0.4"
    assert zeros_of(folders / "compact") == zeros_of(folders / "recovered") > 0
    assert read_manifest(tmp_path / "run" / "artifacts" / "density-0.4" / "compact-int8").variant == "compact-int8"
    assert all(stage.reused for stage in run(config_from(content), tmp_path / "run").stages)


def test_tensorboard_shows_each_training_of_a_run(content, tmp_path):
    """Under the name of its stage, if the recipe asks for it."""
    run(parse_config({**content, "tensorboard": True}, origin="test"), tmp_path / "run")
    found = {path.parent.relative_to(tmp_path / "run" / "tensorboard").as_posix() for path in tmp_path.rglob("*tfevents*")}
    assert found == {"checkpoints/density-0.4/masked", "checkpoints/density-0.4/recovered"}


def test_filling_uses_the_zeros_at_the_same_shape(content, tmp_path):
    """A filled model has the shapes of the compact one, and no zeros."""
    content["recover"]["fill"] = True
    run(config_from(content), tmp_path / "run")
    folders = tmp_path / "run" / "checkpoints" / "density-0.4"
    assert zeros_of(folders / "recovered") == 0
    shapes = [read_checkpoint_manifest(folders / name).layers for name in ("compact", "recovered")]
    assert shapes[0] == shapes[1]


def test_rewinding_keeps_what_was_left(content, tmp_path):
    """The second time, from the weights of `model`, every head and neuron that the first left is left again, and the target is met."""
    target = {"macs": 0.4, "sequence_length": 8}
    run(config_from(content, rewind=True, targets=[target]), tmp_path / "run")
    guide, masked = (
        json.loads(next((tmp_path / "run" / ".stages").glob(f"checkpoints__macs*__{name}.json")).read_text())["details"]
        for name in ("guide", "masked")
    )
    for before, after in zip(guide["structure"], masked["structure"], strict=True):
        assert set(before["heads"]) <= set(after["heads"])
        assert set(before["neurons"]) <= set(after["neurons"])
    assert masked["left"] == pytest.approx(guide["left"], abs=0.02)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rewind": True}, "`rewind` protects heads and neurons whole"),
        ({"granularity": {"attention": "element", "feed_forward": "element"}, "targets": [{"speedup": 2}]}, "nothing gets faster"),
        ({"cooldown": 0, "train": {"epochs": 1, "patience": 2}}, "give a `cooldown`"),
    ],
)
def test_what_cannot_be_met_is_refused_before_anything_is_trained(content, changes, said):
    """One line says why."""
    with pytest.raises(ConfigError, match=said):
        config_from(content, **changes)


FEED_FORWARD_ALONE = {"attention": None, "feed_forward": "neuron"}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"granularity": {"attention": {"rows": 5, "columns": 4}, "feed_forward": "neuron"}}, ConfigError, "5x4 do not divide"),
        ({"granularity": FEED_FORWARD_ALONE, "targets": [{"density": 0.2}]}, UnreachableTargetError, "out of reach"),
        ({"granularity": FEED_FORWARD_ALONE, "targets": [], "density": 0.2}, UnreachableTargetError, "out of reach"),
        ({"targets": [{"parameters": 0.01}]}, UnreachableTargetError, "out of reach"),
        ({"train": {"distillation": {"teacher": "no-such/teacher"}}}, CheckpointError, "no-such/teacher"),
    ],
)
def test_a_recipe_that_cannot_be_done_is_refused_before_the_dense_model_is_trained(content, changes, error, said, tmp_path):
    """Not after the hours that a dense model may take: one line says why, and no stage has begun."""
    content["train"] = [{"epochs": 1, "batch_size": 4, "precision": "fp32"}]
    with pytest.raises(error, match=said):
        run(config_from(content, **changes), tmp_path / "run")
    assert not list(tmp_path.glob("run/.stages/*.json"))


def test_a_teacher_of_other_classes_is_refused_as_early(content, tmp_path):
    """It is loaded, and compared with the model that the run starts from."""
    checkpoint.save(helpers.tiny_model("bert", "text-classification", labels=3), helpers.tiny_tokenizer(), tmp_path / "teacher")
    content["train"] = [{"epochs": 1, "batch_size": 4, "precision": "fp32", "distillation": {"teacher": str(tmp_path / "teacher")}}]
    with pytest.raises(ConfigError, match="3 classes and the student 2"):
        run(config_from(content), tmp_path / "run")
    assert not list(tmp_path.glob("run/.stages/*.json"))


def test_pruning_with_no_training_is_refused_as_early(content, tmp_path):
    """A target that is out of reach without heads and neurons."""
    wanted = {**content, "fine_prune": None, "recover": None, "prune": {"targets": [{"parameters": 0.01}]}}
    with pytest.raises(UnreachableTargetError, match="out of reach"):
        run(parse_config(wanted, origin="test"), tmp_path / "run")
    assert not list(tmp_path.glob("run/.stages/*.json"))


@pytest.mark.parametrize(("left", "is_noted"), [(0.5, False), (0.52, False), (0.56, True), (0.44, True), (None, False)])
def test_a_target_that_was_not_met_is_a_note(left, is_noted):
    """More than 5 % beside it on either side; pruning with no training has no reading."""
    details = {} if left is None else {"left": left}
    record = StageRecord(name="checkpoints/x/masked", key="", seconds=0.0, peak_memory_bytes=0, details=details)
    notes = missed_notes([FinishedTarget(DensityTarget(density=0.5), record, (record, record), None)])
    assert bool(notes) is is_noted
    assert all(f"{100 * left:.1f} % of what it counts is left, and 50.0 % should be" in note for note in notes)


def test_a_speed_up_that_was_not_measured_is_a_note():
    """Whatever the table predicted, the report says what the artifact measured, where it is less than was asked for."""
    target = SpeedupTarget(speedup=2.0, precision="int8", sequence_length=8)
    records = [StageRecord(name=f"artifacts/x/{name}", key="", seconds=0.0, peak_memory_bytes=0, details={}) for name in ("fp32", "int8")]
    finished = FinishedTarget(target, records[0], (records[0], records[1]), None)
    latencies = {value: latency_of("structural", value, 8) for value in (1.5, 1.95)}
    slow, fast = ({record.name: (latency,) for record in records} for latency in latencies.values())
    assert slower_notes([finished], slow) == (f"{target.label}: 2x was asked for, and 1.50x (1.46 to 1.54) measured.",)
    assert slower_notes([finished], fast) == ()


def test_without_a_target_the_penalty_decides(content, tmp_path):
    """The run is named after it, and the report says that it was fine-pruned."""
    report = run(config_from(content, targets=[], method={"name": "soft_movement", "penalty": 300.0}), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "soft_movement-penalty-300" / "masked").is_dir()
    assert report.targets[0].asked == "fine-pruned"


def test_parameters_are_met_as_the_manifest_counts_them(content, tmp_path):
    """A share of all parameters, as near as a head allows."""
    config = config_from(content, granularity={"attention": "head", "feed_forward": "neuron"}, targets=[{"parameters": 0.8}])
    report = run(parse_config({**config.model_dump(), "recover": None}, origin="test"), tmp_path / "run")
    assert report.targets[0].parameters.total / report.dense.parameters.total == pytest.approx(0.8, abs=0.04)


def test_train_and_prune_commands_fine_prune(content, tmp_path, invoke):
    """Both leave the masked checkpoint; the second finds what the first made."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    arguments = [str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run")]
    trained = invoke(main, ["train", *arguments])
    assert trained.exit_code == 0, trained.stderr
    assert "checkpoints/density-0.4/masked: density 0.4" in trained.stdout
    pruned = invoke(main, ["prune", *arguments])
    assert pruned.exit_code == 0, pruned.stderr
    assert "reused" in pruned.stderr or pruned.stdout


def test_a_sweep_asks_for_each_speedup(content):
    """In the precision, runtime and length of the recipe's own."""
    config = config_from(content, targets=[{"speedup": 1.7, "precision": "fp32", "sequence_length": 8}])
    assert with_speedups(config, [1.5, 2.0]).targets == tuple(
        SpeedupTarget(speedup=each, precision="fp32", sequence_length=8) for each in (1.5, 2.0)
    )
    with pytest.raises(ConfigError, match="greater than 1"):
        with_speedups(config, [0.5])
    with pytest.raises(ConfigError, match="nothing says how"):
        with_speedups(parse_config({**content, "fine_prune": None}, origin="test"), [2.0])


def test_a_sweep_of_words_is_refused(content, tmp_path, invoke):
    """One line that says what was expected."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    found = invoke(main, ["sweep", str(tmp_path / "recipe.yaml"), "--targets", "fast", "--output", str(tmp_path / "run")])
    assert found.exit_code != 0
    assert "expected speed-ups with commas between them" in found.stderr


def test_two_ways_to_prune_are_refused(content):
    """A recipe says how it prunes once."""
    with pytest.raises(ConfigError, match="two ways to prune"):
        parse_config({**content, "prune": {"targets": [{"density": 0.5}]}}, origin="test")
