"""The summarization recipe from a tiny encoder to what ships: run, published, compared, evaluated, swept, studied."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from transformers import PreTrainedModel

from pruning import generation_bench, post_training, study_speeds
from pruning.cli import main
from pruning.config import RunConfig, load_recipe, parse_config
from pruning.errors import ConfigError
from pruning.generation_bench import generation_prices, identity_of
from pruning.generation_latency import GenerationCondition, GenerationPrices, GenerationTable, RequestTable, StepTable
from pruning.latency import predicted_speedup
from pruning.pipeline import run
from pruning.publishing import publish
from pruning.report import RunReport, read_report
from pruning.run import Run
from pruning.run_comparison import compare_runs, to_text
from pruning.scoring import UNSEEN
from pruning.stages import Stages
from pruning.study import Study, run_study
from pruning.study_speeds import measure
from pruning.timing import Ratio
from service.artifact import LayerShape, read_manifest, read_output_ids
from service.model import GeneratingModel
from service.tasks.summarize import SummarizeRequest, SummarizeResponse
from tests.pruning.helpers import tiny_tokenizer
from tests.pruning.test_recipes import local_recipe

LABEL = "generation-2-int8-16-6-1x2"
TRAINING = "{epochs: 1, batch_size: 16, precision: fp32}"
KEPT_TOKENS = 56
TINY = (
    f"train.0={TRAINING}",
    f"train.1={TRAINING}",
    "warm_start.decoder_layers=2",
    "max_length=24",
    "target_length=8",
    "generation.num_beams=2",
    "prune={targets: [{speedup: 2, source_length: 16, target_length: 6, beams: 2}], search_trials: 0, calibration_examples: 4}",
    f"vocabulary.keep={KEPT_TOKENS}",
    "recover.epochs=1",
    "recover.batch_size=8",
    "recover.precision=fp32",
    "recover.quantization_aware=true",
    "recover.distillation.pseudo_labels.beams=2",
    "evaluate={sequence_lengths: [8], seconds: 0.01}",
)
FINE_PRUNED = (
    "prune=null",
    "recover=null",
    "shrink={encoder_layers: 3, decoder_layers: 1}",
    "fine_prune={method: {name: movement}, granularity: {attention: head, feed_forward: neuron}, targets: [{density: 0.5}], "
    "train: {epochs: 6, batch_size: 8, precision: fp32}}",
)
BLOCK_MS = {0: 0.0, 64: 6.4}
HEADS_MS = {0: 0.0, 2: 2.0}


def known_table(model: PreTrainedModel, condition: GenerationCondition, *, outputs: int | None) -> GenerationTable:
    """A table in which heads and neurons cost what they count."""
    return GenerationTable(
        identity=identity_of(model, condition, outputs=outputs),
        request=RequestTable(fixed_ms=1.0, attention_ms=HEADS_MS, feed_forward_ms=BLOCK_MS, source_ms=HEADS_MS),
        step=StepTable(
            fixed_ms=1.0,
            self_attention_ms=HEADS_MS,
            cross_attention_ms=HEADS_MS,
            feed_forward_ms=BLOCK_MS,
            head_ms=2.0,
            own_head_ms=1.0,
        ),
    )


class KnownBench:
    """Measures what the table predicts."""

    def __init__(self, model: PreTrainedModel, condition: GenerationCondition, *, outputs: int | None = None) -> None:
        """Keep the prices."""
        self.prices: GenerationPrices = generation_prices(model, condition, outputs=outputs)

    def speedup(self, layers: Sequence[LayerShape]) -> Ratio:
        """As predicted."""
        found = predicted_speedup(self.prices, layers)
        return Ratio(found, found, found)


@pytest.fixture(scope="module", autouse=True)
def known_latency(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tables are known, not measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(generation_bench, "measure_table", known_table)
        patch.setattr(post_training, "GenerationBench", KnownBench)
        patch.setattr(study_speeds, "GenerationBench", KnownBench)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The recipe that ships, on a tiny encoder and a few documents, with everything that a recipe of summarization can ask for."""
    folder = tmp_path_factory.mktemp("data")
    test = f"data.test=[{{path: {folder / 'held-out.jsonl'}, name: headlines, split: test}}]"
    return local_recipe("summarize", folder, tiny_tokenizer(), *TINY, test)


@pytest.fixture(scope="module")
def finished(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunReport, Path]:
    """The report and the folder of a finished run, which no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return run(config, folder), folder


def test_a_run_gives_artifacts_that_summarize(finished: tuple[RunReport, Path]) -> None:
    """Dense and compact, in fp32 and 8 bits, load through their golden check and answer; the compact ones choose from fewer tokens."""
    _, folder = finished
    for artifact in sorted((folder / "artifacts").glob("*/*compact*")) + sorted((folder / "artifacts").glob("dense/*")):
        model = GeneratingModel.load(artifact)
        (answer,) = model.predict([SummarizeRequest(text="the dog is a good one at sea.")])
        assert isinstance(answer, SummarizeResponse)
        assert answer.generated_tokens <= 8
        ids = read_output_ids(artifact, model.manifest)
        assert (ids is None) if "dense" in artifact.name else (ids is not None and len(ids) == KEPT_TOKENS)


def test_the_report_has_scores_and_the_speed_of_generation(finished: tuple[RunReport, Path]) -> None:
    """ROUGE with differences, before recovery too, baselines, and both speed-ups at the target's length; the decoder's layers are shown."""
    report, _ = finished
    (target,) = report.targets
    assert {metric.name for metric in target.served.metrics if metric.difference} == {"rouge1", "rouge2", "rougeL", "rougeLsum"}
    assert target.before_recovery
    assert [each.sequence_length for each in (target.measured("structural"), target.measured("total")) if each] == [16, 16]
    assert len(target.layers) == len(report.dense.layers) == 4 + 2 * 2
    assert any("6 tokens with 2 beams" in note for note in report.notes)
    assert sum(note.startswith("Baseline on") for note in report.notes) == 2 * 2 * 2


def test_summaries_that_training_has_had_are_scored_apart(finished: tuple[RunReport, Path]) -> None:
    """One summary of five is not that of a training document: its document is scored again against it alone, for every artifact."""
    report, _ = finished
    for variant in (*report.dense.variants, *report.targets[0].variants):
        examples = {(metric.dataset, metric.split): metric.examples for metric in variant.metrics}
        assert {key: examples[key] for key in examples if key[0] == "headlines"} == {
            ("headlines", "validation"): 4,
            ("headlines", "validation, unseen summaries"): 1,
        }
    assert any(
        note.startswith("headlines, validation, unseen summaries: 1 of the 5 summaries, of 1 of the 4 docu") for note in report.notes
    )


def test_a_second_run_makes_nothing_again(config: RunConfig, finished: tuple[RunReport, Path], tmp_path: Path) -> None:
    """With nothing changed, every stage is reused and what the report says of the targets stays."""
    again = run(config, Path(shutil.copytree(finished[1], tmp_path / "run")))
    assert all(stage.reused for stage in again.stages)
    assert again.targets == finished[0].targets


def test_it_is_published_with_what_it_writes(config: RunConfig, finished: tuple[RunReport, Path], tmp_path: Path) -> None:
    """Test scores are in the manifests, and the card shows the first documents with their summaries."""
    card = publish(Run(config, Stages(finished[1])), LABEL, tmp_path / "models").read_text()
    assert "BART encoder-decoder, " in card
    shown = card.partition("## What it writes")[2].partition("\n## ")[0]
    assert shown.count("→") == 8
    for variant in ("dense", "compact", "compact-int8"):
        manifest = read_manifest(tmp_path / "models" / variant)
        assert {metric.split for metric in manifest.metrics} == {
            f"{split}{part}" for split in ("validation", "test") for part in ("", f", {UNSEEN}")
        }


def test_the_commands_know_generation(
    config: RunConfig, finished: tuple[RunReport, Path], tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    """`sweep`, `report` and `compare` of a finished run, and `evaluate` of one artifact beside another, latency included."""
    folder = Path(shutil.copytree(finished[1], tmp_path / "run"))
    artifacts = folder / "artifacts"
    documents = Path(config.data.validation[0].path or "")
    for arguments in (
        ["sweep", str(folder / "recipe.yaml"), "--targets", "2", "--output", str(folder)],
        ["report", str(folder)],
        ["compare", str(folder), "--output", str(tmp_path / "compared")],
    ):
        found = invoke(main, arguments)
        assert found.exit_code == 0, found.stderr
        assert "2x" in found.stdout
    dense = ["--against", str(artifacts / "dense" / "dense")]
    found = invoke(main, ["evaluate", str(artifacts / LABEL / "compact"), "--data", str(documents), *dense, "--json"])
    assert found.exit_code == 0, found.stderr
    assert {metric["name"] for metric in json.loads(found.stdout)["metrics"]} == {"rouge1", "rouge2", "rougeL", "rougeLsum"}


def test_runs_are_compared_at_the_targets_length(finished: tuple[RunReport, Path]) -> None:
    """A run beside itself shows the speed-up of generation."""
    comparison = compare_runs([finished[1]])
    found = comparison.runs[0].targets[0].measured("total")
    assert found is not None
    assert found.sequence_length == 16
    assert "2x" in to_text(comparison)


def test_a_study_scores_and_times_it(config: RunConfig, finished: tuple[RunReport, Path], tmp_path: Path) -> None:
    """A run of a study is scored by ROUGE-L, with the decoder's shapes, and timed as its target says."""
    folder = Path(shutil.copytree(finished[1], tmp_path / "runs" / "shared"))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text()) | {"recover": None}
    content = {"recipe": recipe, "runs": [{"name": "pruned", "group": "shared"}]}
    wanted = Study.model_validate(content)
    ledger = tmp_path / "ledger.json"
    run_study(wanted, tmp_path / "runs", ledger)
    (entry,) = measure(ledger, wanted).entries
    assert (entry.metric, len(entry.layers)) == ("rougeL", 4 + 2 * 2)
    assert entry.measured is not None
    assert entry.measured.value == pytest.approx(entry.speedup)
    assert (entry.measured.tokens, entry.measured.target_length) == (16, 6)


def test_layers_that_went_whole_are_zeros_of_the_report(config: RunConfig, finished: tuple[RunReport, Path], tmp_path: Path) -> None:
    """A shrunk model, pruned while training, stands layer by layer beside the dense one, and ends in artifacts and a report as well."""
    folder = Path(shutil.copytree(finished[1], tmp_path / "run"))
    report = run(load_recipe(folder / "recipe.yaml", FINE_PRUNED), folder)
    (target,) = report.targets
    assert len(target.layers) == len(report.dense.layers)
    assert sum(layer == LayerShape(heads=0, intermediate=0) for layer in target.layers) >= 1 + 2
    assert target.masks is not None
    assert read_report(folder / "report") == report


def test_targets_of_several_conditions_are_refused_at_once(config: RunConfig, tmp_path: Path) -> None:
    """A run times what it makes under one condition: one line says so, before anything is trained."""
    targets = [{"speedup": 2, "source_length": 16, "target_length": length} for length in (4, 6)]
    other = parse_config(config.model_dump() | {"prune": {"targets": targets}}, origin="test")
    with pytest.raises(ConfigError, match="target_length"):
        run(other, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
