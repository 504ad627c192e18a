"""Recipes become one frozen config, or one line that says what is wrong."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from pruning.config import (
    DensityTarget,
    GenerationTarget,
    MacsTarget,
    MagnitudeConfig,
    RunConfig,
    SpeedupTarget,
    TrainConfig,
    dump_config,
    load_recipe,
    parse_config,
    with_speedups,
)
from pruning.errors import ConfigError

MINIMAL = """
name: mine
task: text-classification
model: some/model
labels: [bad, good]
data:
  train: [{path: train.csv}]
train:
  - {epochs: 1}
prune:
  targets: [{speedup: 2.0}]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small recipe in a file."""
    path = tmp_path / "mine.yaml"
    path.write_text(MINIMAL, encoding="utf-8")
    return path


def refusal(recipe: Path, *overrides: str) -> str:
    """The one line with which the recipe is refused."""
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("modle=x", "modle: Extra inputs are not permitted"),
        ("train.0.learning_rat=1", "train.0.learning_rat: Extra inputs are not permitted"),
        ("train.0.epochs=0", "train.0.epochs: Input should be greater than 0"),
        ("train.0.schedule=square", "train.0.schedule: Input should be 'linear'"),
        ("task=poetry", "task: Input should be 'question-answering'"),
        ("name=Not A Name", "name: String should match"),
        ("labels=[only]", "at least two names"),
        ("stages=[[0], [0]]", "`stages` has 2 entries and `train` 1"),
        ("stages=[[1]]", "`stages` names a source that `data.train` has not"),
        ("train=[{dropout: 0.1}, {dropout: 0.2}]", "the stages of `train` differ in `dropout`"),
        ("stages=[[-1]]", "`stages` names a source that `data.train` has not"),
        ("data.train=[{name: nowhere}]", "needs `hub` or `path`"),
        ("prune.targets=[]", "prune.targets: Tuple should have at least 1 item"),
        ("train.0.accumulation=5", "not divisible by `accumulation` 5"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_field(recipe: Path, override: str, said: str):
    """A typo or an impossible value is refused in one line with the file and the field."""
    line = refusal(recipe, override)
    assert line.startswith(str(recipe))
    assert said in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("train.3.epochs=1", "'3' is not a position in a list of 1"),
        ("train.first.epochs=1", "'first' is not a position"),
        ("model.name=x", "'model' is a value, not a section"),
        ("labels=[a", "the value is not YAML"),
    ],
)
def test_a_bad_override_is_one_line_that_repeats_it(recipe: Path, override: str, said: str):
    """An override that cannot be applied is named, with the reason."""
    line = refusal(recipe, override)
    assert repr(override) in line
    assert said in line


def test_more_than_one_problem_is_counted(recipe: Path):
    """The first problem is shown, and how many more there are."""
    assert "(and 1 more)" in refusal(recipe, "seed=-1", "max_length=0")


@pytest.mark.parametrize(
    ("content", "said"), [("a: [", "not a readable YAML file"), ("- 1", "expected a mapping"), ("", "expected a mapping")]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str, said: str):
    """A file that is not YAML, or holds no mapping, is named."""
    path = tmp_path / "odd.yaml"
    path.write_text(content, encoding="utf-8")
    assert said in refusal(path)


def test_an_unknown_recipe_lists_those_that_ship(tmp_path: Path):
    """A recipe that is neither a file nor shipped is refused with the names of those that are."""
    line = refusal(tmp_path / "nowhere")
    assert "squad_v2" in line
    assert "demo" in line


def test_overrides_reach_into_lists_and_make_sections(recipe: Path):
    """A dotted override changes an entry of a list, and creates a section that the recipe left out."""
    config = load_recipe(recipe, ("train.0.epochs=3", "recover.epochs=0.5", "prune.targets.0.speedup=1.5", "labels=[poor, fine]"))
    assert config.train[0].epochs == 3
    assert config.recover is not None
    assert config.recover.epochs == 0.5
    assert config.prune is not None
    assert config.prune.targets[0] == SpeedupTarget(speedup=1.5)
    assert config.labels == ("poor", "fine")


def test_a_method_may_be_given_by_its_name(recipe: Path):
    """With its own defaults; `{name: …, …}` gives the rest."""
    granularity = "fine_prune.granularity={attention: head, feed_forward: neuron}"
    config = load_recipe(recipe, ("prune=null", granularity, "fine_prune.density=0.5", "fine_prune.method=magnitude"))
    assert config.fine_prune is not None
    assert config.fine_prune.method == MagnitudeConfig()


def test_a_later_override_wins(recipe: Path):
    """Overrides are applied in order."""
    assert load_recipe(recipe, ("seed=1", "seed=2")).seed == 2


def test_a_speed_up_of_generation_is_a_target_of_its_own(recipe: Path):
    """Lengths of source and target make it one; a task that does not generate refuses it, and one that does refuses the other kind."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"task": "summarization", "labels": []}
    asked = {"speedup": 2, "source_length": 512, "target_length": 64, "requests": 4}
    content["prune"]["targets"] = [asked]
    config = parse_config(content, origin="test")
    assert config.targets == (GenerationTarget(speedup=2, source_length=512, target_length=64, requests=4),)
    assert config.targets[0].label == "generation-2-int8-512-64-4x1"
    assert [target.speedup for target in with_speedups(config, [1.5]).targets] == [1.5]
    with pytest.raises(ConfigError, match="depends on `sequence_length`"):
        parse_config({**content, "task": "question-answering"}, origin="test")
    content["prune"]["targets"] = [{"speedup": 2}]
    with pytest.raises(ConfigError, match="depends on `source_length` and `target_length`"):
        parse_config(content, origin="test")


def test_only_what_generates_shrinks(recipe: Path):
    """Layers of a decoder and tokens to choose from are asked for in one line, of a summarization recipe."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8")) | {"shrink": {"decoder_layers": 3}, "vocabulary": {"keep": 8000}}
    with pytest.raises(ConfigError, match="are for summarization"):
        parse_config(content, origin="test")


@pytest.mark.parametrize("number", ["8e-5", "8.0e-5", "0.00008"])
def test_numbers_may_be_written_in_any_way(recipe: Path, number: str):
    """`8e-5`, which YAML takes for text, is the number that it looks like."""
    assert load_recipe(recipe, (f"train.0.learning_rate={number}",)).train[0].learning_rate == 8e-5


@pytest.mark.parametrize(
    ("written", "target", "label"),
    [
        ({"speedup": 1.5, "sequence_length": 384}, SpeedupTarget(speedup=1.5, sequence_length=384), "speedup-1.5-int8-384"),
        ({"speedup": 2, "precision": "fp32"}, SpeedupTarget(speedup=2, precision="fp32"), "speedup-2-fp32-128"),
        ({"density": 0.4}, DensityTarget(density=0.4), "density-0.4"),
        ({"macs": 0.5, "sequence_length": 64}, MacsTarget(macs=0.5, sequence_length=64), "macs-0.5-64"),
        ({"macs": 0.5, "target_length": 9}, MacsTarget(macs=0.5, target_length=9), "macs-0.5-128-9"),
    ],
)
def test_a_target_is_of_the_kind_that_its_field_says(recipe: Path, written: dict[str, object], target: object, label: str):
    """`speedup`, `density` or `macs` chooses the kind of the target, and names it in folders."""
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["prune"]["targets"] = [written]
    config = parse_config(content, origin="test")
    assert config.prune is not None
    assert config.prune.targets == (target,)
    assert config.prune.targets[0].label == label


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("{density: 0.5, speedup: 2}", "density: Extra inputs are not permitted"),
        ("{density: 0.5, precision: int8}", "precision: Extra inputs are not permitted"),
        ("{speed: 2}", "a target needs exactly one of `speedup`, `density`, `macs`"),
        ("{speedup: 1.0}", "greater than 1"),
        ("{density: 1.0}", "less than 1"),
        ("2.0", "a target needs exactly one"),
    ],
)
def test_a_target_of_two_kinds_or_none_is_refused(recipe: Path, target: str, said: str):
    """A field of another kind of target, no kind, or an impossible value is one line."""
    assert said in refusal(recipe, f"prune.targets=[{target}]")


def test_what_is_written_beside_results_is_the_same_config(recipe: Path, tmp_path: Path):
    """A dumped config, read again, equals the one that was dumped."""
    config = load_recipe(recipe, ("recover.distillation.temperature=4", "prune.targets.0={macs: 0.5}"))
    saved = tmp_path / "saved.yaml"
    saved.write_text(dump_config(config), encoding="utf-8")
    assert load_recipe(saved) == config


def test_a_config_is_frozen(recipe: Path):
    """No code can change a run's config on its way."""
    config = load_recipe(recipe)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3


def test_stages_choose_their_sources(recipe: Path):
    """A training stage sees the sources that `stages` gives it, and all of them without it."""
    two = ("data.train=[{path: a.csv}, {path: b.csv}]", "train=[{epochs: 1}, {epochs: 2}]")
    chosen = load_recipe(recipe, (*two, "stages=[[1], [0, 1]]"))
    assert [source.path for source in chosen.sources_of_stage(0)] == ["b.csv"]
    assert [source.path for source in load_recipe(recipe, two).sources_of_stage(0)] == ["a.csv", "b.csv"]


def test_defaults_are_whole():
    """A training and a run can be written with only what has no default."""
    assert TrainConfig().distillation is None
    run = RunConfig.model_validate({"name": "a", "task": "question-answering", "model": "m", "data": {"train": [{"path": "x.json"}]}})
    assert run.prune is None
    assert run.train == ()


def test_a_value_where_a_list_is_expected_is_said_in_a_recipes_words() -> None:
    """YAML has lists, and no tuples."""
    with pytest.raises(ConfigError, match=r"prune\.targets: Input should be a list$"):
        load_recipe("demo", ("prune.targets=fast",))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.0.distillation={teacher: t, pseudo_labels: {}}", "are for `recover` of a summarization model"),
        ("recover.distillation.pseudo_labels={}", "are for `recover` of a summarization model"),
        ("generation={num_beams: 4}", "`generation` are for summarization"),
    ],
)
def test_what_would_go_unused_is_refused(override: str, said: str) -> None:
    """Settings that only another stage, or another task, reads."""
    with pytest.raises(ConfigError, match=said):
        load_recipe("sentiment", (override,))


def test_no_more_tokens_are_asked_for_than_a_summary_has() -> None:
    """They would be cut without a word."""
    with pytest.raises(ConfigError, match="more tokens than `target_length`, 64"):
        load_recipe("summarize", ("generation.min_new_tokens=100",))
