"""`secateur-prune`: verbs over recipes, checkpoints and artifacts; each parses, calls one function, and prints what came of it."""

import json
import logging
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import click

from pruning.config import DataSource, Method, RunConfig, Scheme, load_recipe
from pruning.errors import ConfigError
from pruning.processes import is_main
from service.command_line import CommandGroup

RECIPE = click.argument("recipe")
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the recipe; `train.0.epochs=1`.")
OUTPUT = click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="secateur")
@click.option("--quiet", is_flag=True, help="Only warnings on stderr.")
def main(quiet: bool) -> None:
    """Prune a fine-tuned transformer, compact it, export and quantize it, and measure what that cost and won.

    RECIPE is a YAML file or the name of one that ships (`secateur-prune recipes` lists them). Data that a recipe names by a relative
    path is looked up here and in the folder that SECATEUR_DATA names.

    \b
    Examples:
      secateur-prune run sst2 --output runs/sst2
      secateur-prune run demo --output runs/demo --set prune.search_trials=8
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("pruning").setLevel(logging.INFO if is_main() and not quiet else logging.WARNING)
    if not is_main():
        click.get_current_context().with_resource(redirect_stdout(StringIO()))
    _quiet_libraries()


@main.command()
def recipes() -> None:
    """List the recipes that ship.

    \b
    Example:
      secateur-prune recipes
    """
    from pruning.config import RECIPES

    for path in sorted(RECIPES.glob("*.yaml")):
        config = load_recipe(path)
        click.echo(f"{path.stem:<22} {config.task}, from {config.model}")


@main.command()
@RECIPE
@SET
@OUTPUT
@JSON
def run(recipe: str, overrides: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Do all of a recipe: train, prune, compact, recover, export, quantize, evaluate, report.

    Interrupted, the same command goes on where it stopped; a stage whose inputs did not change is not done again.

    \b
    Examples:
      secateur-prune run sst2 --output runs/sst2
      secateur-prune run sst2 --output runs/mine --set model=./my-bert --set 'data.train=[{path: reviews.csv}]'
    """
    from pruning.pipeline import run as run_recipe
    from pruning.report import to_text

    report = run_recipe(load_recipe(recipe, overrides), output)
    click.echo(report.model_dump_json(indent=1) if as_json else to_text(report))
    click.echo(f"Report: {output / 'report' / 'report.html'}", err=True)


@main.command()
@RECIPE
@SET
@click.option("--examples", type=click.IntRange(min=1), help="Training examples that the data really has, where a sample is given for it.")
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Optimizer steps of each training to measure.")
@JSON
def estimate(recipe: str, overrides: tuple[str, ...], examples: int | None, steps: int, as_json: bool) -> None:
    """Say how long the trainings of a recipe take on this machine, from a few optimizer steps of each; leaves nothing behind.

    \b
    Examples:
      secateur-prune estimate squad-hybrid
      secateur-prune estimate squad-hybrid --set model=./my-bert --set 'data.train=[{path: sample.json}]' --examples 80000
    """
    from pruning.estimate import estimate as estimate_recipe

    found = estimate_recipe(load_recipe(recipe, overrides), steps=steps, examples=examples)
    click.echo(found.model_dump_json(indent=1) if as_json else found.as_text())


@main.command()
@RECIPE
@SET
@OUTPUT
def train(recipe: str, overrides: tuple[str, ...], output: Path) -> None:
    """Fine-tune the recipe's model, dense or compact, through all of its training stages; then fine-prune it, if the recipe says so.

    `model` may be a compact checkpoint: that is recovery after pruning. Interrupted, the same command resumes. Several processes or
    machines: `torchrun --nproc-per-node 2 -m pruning train …`, or `accelerate launch -m pruning train …`.

    \b
    Examples:
      secateur-prune train qa --output runs/qa
      secateur-prune train squad-hybrid --output runs/hybrid --set 'fine_prune.targets=[{speedup: 2, sequence_length: 384}]'
      secateur-prune train sst2 --output runs/recovered --set model=runs/sst2/checkpoints/speedup-2-int8-32/compact
    """
    from pruning.pipeline import pruned_models
    from pruning.run import Run
    from pruning.stages import Stages
    from pruning.stages.dense import train_dense

    current = Run(load_recipe(recipe, overrides), Stages(output))
    dense = train_dense(current)
    click.echo(output / dense.name)
    if current.config.fine_prune is not None:
        for pruned in pruned_models(current, dense):
            click.echo(f"{output / pruned.masked.name}: density {pruned.masked.details['density']:.3f}")


@main.command()
@RECIPE
@SET
@click.option("--targets", required=True, help="Structural speed-ups, comma-separated: 1.5,2,3.")
@OUTPUT
@JSON
def sweep(recipe: str, overrides: tuple[str, ...], targets: str, output: Path, as_json: bool) -> None:
    """Do all of a recipe for a family of speed-ups, from one dense model: one table and one plot.

    Precision, length and runtime are those of the recipe's first speed-up target. What is done already is not done again, so a target
    can be added later.

    \b
    Example:
      secateur-prune sweep sst2-hybrid-filled --targets 1.5,2,3 --output runs/family
    """
    from pruning.config import with_speedups
    from pruning.pipeline import run as run_recipe
    from pruning.report import to_text

    try:
        speedups = [float(each) for each in targets.split(",")]
    except ValueError:
        raise ConfigError(f"--targets {targets!r}: expected speed-ups with commas between them, as in 1.5,2,3") from None
    report = run_recipe(with_speedups(load_recipe(recipe, overrides), speedups), output)
    click.echo(report.model_dump_json(indent=1) if as_json else to_text(report))
    click.echo(f"Report: {output / 'report' / 'report.html'}", err=True)


@main.command()
@RECIPE
@SET
@OUTPUT
@JSON
def prune(recipe: str, overrides: tuple[str, ...], output: Path, as_json: bool) -> None:
    """Prune the recipe's model to each of its targets, with no training or while training; leaves masked checkpoints.

    \b
    Examples:
      secateur-prune prune sst2 --output runs/sst2 --set model=./my-bert --set train=[]
      secateur-prune prune sst2 --output runs/sst2 --set 'prune.targets=[{speedup: 3, sequence_length: 32}]'
    """
    from pruning.pipeline import prune_all
    from pruning.run import Run
    from pruning.stages import Stages

    records = prune_all(Run(load_recipe(recipe, overrides), Stages(output)))
    for record in records:
        details = {key: record.details[key] for key in ("predicted", "measured")}
        row = {"checkpoint": str(output / record.name), **details}
        click.echo(json.dumps(row) if as_json else _pruned_line(row))


@main.command()
@click.argument("checkpoint", type=FOLDER)
@OUTPUT
@click.option("--drop-layer", "drop_layers", type=int, multiple=True, help="Also take out this layer, counted from 0; changes outputs.")
def compact(checkpoint: Path, output: Path, drop_layers: tuple[int, ...]) -> None:
    """Take what is zero out of a masked checkpoint, exactly.

    \b
    Example:
      secateur-prune compact runs/sst2/checkpoints/speedup-2-int8-32/masked --output compact
    """
    from pruning import checkpoint as checkpoints
    from pruning.compaction import compact as compact_model
    from pruning.structure import density, shapes

    model = compact_model(checkpoints.load(checkpoint), drop_layers=drop_layers)
    checkpoints.save(model, checkpoints.load_tokenizer(checkpoint), output)
    left = " ".join(f"{shape.heads}/{shape.intermediate}" for shape in shapes(model))
    click.echo(f"{output}: density {density(model):.3f}, heads/neurons by layer {left}")


@main.command()
@click.argument("checkpoint", type=FOLDER)
@click.option("--recipe", required=True, help="Says the task, labels, lengths and data.")
@SET
@OUTPUT
def export(checkpoint: Path, recipe: str, overrides: tuple[str, ...], output: Path) -> None:
    """Export a dense or compact checkpoint to an artifact: ONNX over fp16 weights, with its manifest.

    \b
    Example:
      secateur-prune export compact --recipe sst2 --output models/mine/compact
    """
    from pruning.run import Run
    from pruning.stages import Stages
    from pruning.stages.artifacts import export_checkpoint

    manifest = export_checkpoint(Run(load_recipe(recipe, overrides), Stages(output.parent)), checkpoint, output)
    click.echo(f"{output}: {manifest.name}/{manifest.variant}, {manifest.precision}, opset {manifest.opset}")


@main.command()
@click.argument("artifact", type=FOLDER)
@OUTPUT
@click.option("--scheme", type=click.Choice(get_args(Scheme)), default="dynamic", show_default=True, help="What to make.")
@click.option("--method", type=click.Choice(get_args(Method)), default="minmax", show_default=True, help="static: of calibration.")
@click.option("--smooth", is_flag=True, help="8 bits: scale outlier channels of the layers' inputs down first.")
@click.option("--recipe", help="static, smooth: the recipe whose training data it is calibrated on.")
@SET
def quantize(
    artifact: Path, output: Path, scheme: Scheme, method: Method, smooth: bool, recipe: str | None, overrides: tuple[str, ...]
) -> None:
    """Quantize an fp32 artifact to 8 bits (or to fp16 for GPU).

    \b
    Examples:
      secateur-prune quantize models/qa/compact --output models/qa/compact-int8
      secateur-prune quantize models/qa/compact --output smooth --smooth --recipe qa
      secateur-prune quantize models/qa/compact --output static --scheme static --method entropy --recipe qa
    """
    from pruning.quantization import quantize_artifact
    from pruning.run import Run
    from pruning.stages import Stages
    from pruning.stages.artifacts import calibration_inputs

    calibrated = scheme == "static" or smooth
    if calibrated and recipe is None:
        raise ConfigError("--scheme static and --smooth need --recipe: they are calibrated on its training data")
    current = Run(load_recipe(recipe, overrides), Stages(output.parent)) if recipe else None
    inputs = calibration_inputs(current) if current is not None and calibrated else ()
    manifest = quantize_artifact(artifact, output, scheme=scheme, calibration=inputs, method=method, smoothed=smooth)
    click.echo(f"{output}: {manifest.name}/{manifest.variant}, {sum(f.size_bytes for f in manifest.files.values()) / 1e6:.1f} MB")


@main.command()
@click.argument("artifact", type=FOLDER)
@click.option("--data", type=click.Path(path_type=Path), help="File to evaluate on: SQuAD JSON, JSON lines, or CSV.")
@click.option("--recipe", help="Evaluate on this recipe's data instead.")
@click.option(
    "--split", type=click.Choice(["validation", "test"]), default="validation", show_default=True, help="Which of the recipe's data."
)
@click.option("--against", type=FOLDER, help="Another artifact: also give paired differences, and the latency ratio.")
@click.option("--positive-label", type=int, help="Classification: also F1 of this label.")
@click.option("--length", "lengths", type=int, multiple=True, help="With --against: tokens at which latency is compared.")
@click.option("--callers", type=int, default=1, show_default=True, help="With --length: concurrent callers, one thread each.")
@click.option("--write", is_flag=True, help="Write the metrics into the artifact's manifest.")
@JSON
def evaluate(artifact: Path, as_json: bool, **options: Any) -> None:  # noqa: ANN401 - click's options, passed on as they are
    """Measure an artifact's accuracy, through the engine that serves it; beside another one, differences and latency too.

    \b
    Examples:
      secateur-prune evaluate models/sentiment/compact-int8 --data reviews.jsonl
      secateur-prune evaluate models/qa/compact-int8 --recipe qa --split test --against models/qa/dense --length 384
    """
    from pruning.comparison import compare_on

    options["sources"] = _sources(options.pop("data"), options.pop("recipe"), options.pop("split"))
    found = compare_on(artifact, **options)
    click.echo(json.dumps(found.as_dict(), indent=1) if as_json else found.as_text())


@main.command("bench-graph")
@click.argument("artifact", type=FOLDER)
@click.option("--length", "lengths", type=int, multiple=True, default=(32, 128, 384), show_default=True, help="Tokens in the row.")
def bench_graph(artifact: Path, lengths: tuple[int, ...]) -> None:
    """Time the forms that the graph of a model may take: why the one that is exported is.

    \b
    Example:
      secateur-prune bench-graph models/qa/dense --length 384
    """
    from pruning import checkpoint as checkpoints
    from pruning.choices import compare_forms
    from service.artifact import read_manifest

    for row in compare_forms(checkpoints.load(artifact), read_manifest(artifact).task, sequence_lengths=lengths):
        click.echo(str(row))


@main.command("bench-schemes")
@click.argument("artifact", type=FOLDER)
@click.option("--recipe", required=True, help="Its training data calibrates, its validation data measures.")
@SET
@click.option("--length", type=int, default=128, show_default=True, help="Tokens at which latency is compared.")
@click.option("--skip-worst", type=int, default=0, show_default=True, help="Static: layers with the largest error that stay in fp32.")
def bench_schemes(artifact: Path, recipe: str, overrides: tuple[str, ...], length: int, skip_worst: int) -> None:
    """Quantize an artifact by every 8-bit scheme and compare: why the default is the default.

    \b
    Example:
      secateur-prune bench-schemes models/sentiment/dense --recipe sentiment --length 32
    """
    from pruning.choices import compare_schemes_of
    from pruning.run import Run
    from pruning.stages import Stages
    from pruning.stages.artifacts import calibration_inputs

    current = Run(load_recipe(recipe, overrides), Stages(artifact.parent))
    inputs, sources = calibration_inputs(current), current.config.data.validation
    found = compare_schemes_of(artifact, sources=sources, calibration=inputs, sequence_length=length, skip_worst=skip_worst)
    for name, compared in found.items():
        click.echo(f"{name}: {compared.as_text()}")


@main.command("bench-shapes")
@click.option("--shapes", "file", default="published-shapes.json", show_default=True, help="JSON file of published shapes.")
@click.option("--f1", "scores", type=float, multiple=True, default=(89.0, 88.26, 86.69), show_default=True, help="Shapes with this F1.")
@click.option(
    "--length", "lengths", type=click.IntRange(min=1), multiple=True, default=(128, 384), show_default=True, help="Tokens in the row."
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Of each interleaved measurement, one per length."
)
@JSON
def bench_shapes(file: str, scores: tuple[float, ...], lengths: tuple[int, ...], seconds: float, as_json: bool) -> None:
    """Time compact shapes that were published, with random weights: total speed-up over dense fp32 in ONNX Runtime.

    \b
    Examples:
      secateur-prune bench-shapes
      secateur-prune bench-shapes --shapes my-shapes.json --f1 88.26 --length 384 --seconds 120 --json
    """
    from pruning.published_shapes import measure_shapes, read_shapes

    found = measure_shapes(read_shapes(file), scores=scores, lengths=lengths, seconds=seconds, progress=True)
    click.echo(found.model_dump_json(indent=1) if as_json else found.as_text())


@main.command("bench-summarize")
@click.option(
    "--models", type=click.Path(path_type=Path), default=Path("models/summarize"), show_default=True, help="The shipped model's folder."
)
@click.option("--source-length", type=click.IntRange(min=1), help="Tokens of each source; 256 by default.")
@click.option("--new-tokens", type=click.IntRange(min=1), help="Tokens that everybody writes for each source; 32 by default.")
@click.option("--rounds", type=click.IntRange(min=1), help="Turns that everybody takes; 5 by default.")
@click.option("--threads", type=click.IntRange(min=1), envvar="SECATEUR_THREADS", help="Everybody's threads; 1 by default, as in service.")
@click.option("--quick", is_flag=True, help="A tiny model, one round: shows that everything runs; speeds mean nothing.")
@JSON
def bench_summarize(models: Path, quick: bool, as_json: bool, **given: int | None) -> None:
    """Time generation with the same weights in our engine, transformers, optimum and CTranslate2, and compact models over dense ones.

    \b
    Examples:
      secateur-prune bench-summarize
      secateur-prune bench-summarize --source-length 384 --new-tokens 64 --rounds 9 --json
    """
    from dataclasses import replace

    from pruning.generation_subjects import QUICK, Plan
    from pruning.summarize_bench import measure_generation

    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    found = measure_generation(replace(QUICK if quick else Plan(), **changes), models=models, progress=True)
    click.echo(found.model_dump_json(indent=1) if as_json else found.as_text())


@main.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--ledger", type=click.Path(path_type=Path), required=True, help="JSON file that the results are kept in.")
@click.option("--only", multiple=True, help="Names of runs, or claims; all runs by default.")
@click.option("--measure", "measured", is_flag=True, help="Afterwards, time the shapes that are left: on a machine that does nothing else.")
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Folder to draw the ledger into.")
@OUTPUT
def study(study: Path, ledger: Path, only: tuple[str, ...], measured: bool, pictures: Path | None, output: Path) -> None:
    """Do the runs of a study, and keep what each example scored in a ledger; runs that it has are not done again.

    STUDY is a YAML file, or the name of one that ships: sst2, qa.

    \b
    Example:
      secateur-prune study sst2 --output runs/sst2-study --ledger ledger.json --pictures pictures
    """
    from pruning.study import as_table, load_study, measure, run_study
    from pruning.study_plots import write_pictures

    found = run_study(load_study(study), output, ledger, only=only)
    if measured:
        found = measure(found, load_study(study))
        found.save(ledger)
    if pictures is not None:
        write_pictures(found, pictures)
    click.echo(as_table(found), nl=False)


@main.command()
@click.argument("folder", type=FOLDER)
def report(folder: Path) -> None:
    """Write a run's report again from its stages, and print its table.

    \b
    Example:
      secateur-prune report runs/sst2
    """
    from pruning.report import read_report, to_text, write_report

    found = read_report(folder / "report")
    write_report(found, folder / "report")
    click.echo(to_text(found))


@main.command()
@click.argument("runs", type=FOLDER, nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder to write the page into; only the table without it.")
@JSON
def compare(runs: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Put finished runs side by side: score, density and speed-up in one table, and as pictures on one page.

    \b
    Example:
      secateur-prune compare runs/hybrid runs/struct --output runs/compared
    """
    from pruning.comparison_page import write_comparison
    from pruning.run_comparison import compare_runs, to_text

    found = compare_runs(runs)
    click.echo(found.model_dump_json(indent=1) if as_json else to_text(found))
    if output is not None:
        click.echo(f"Page: {write_comparison(found, output)}", err=True)


@main.command()
@RECIPE
@SET
@click.option("--run", "folder", type=FOLDER, required=True, help="Folder of the finished run.")
@click.option("--target", required=True, help="Which target to publish: the name of its folder under checkpoints/.")
@OUTPUT
def publish(recipe: str, overrides: tuple[str, ...], folder: Path, target: str, output: Path) -> None:
    """Publish one target of a run: copy its artifacts, evaluate them once on the test data, and write the model card.

    \b
    Example:
      secateur-prune publish qa --run runs/qa --target speedup-1.5-int8-384 --output models/qa
    """
    from pruning.publishing import publish as publish_target
    from pruning.run import Run
    from pruning.stages import Stages

    click.echo(publish_target(Run(load_recipe(recipe, overrides), Stages(folder)), target, output))


def _sources(data: Path | None, recipe: str | None, split: str) -> tuple[DataSource, ...]:
    """What to evaluate on: a file, or a recipe's validation or test data."""
    if (data is None) == (recipe is None):
        raise ConfigError("say what to evaluate on: either --data FILE or --recipe RECIPE")
    if data is not None:
        return (DataSource(path=str(data), split="file"),)
    assert recipe is not None
    config: RunConfig = load_recipe(recipe)
    sources = config.data.validation if split == "validation" else config.data.test
    if not sources:
        raise ConfigError(f"recipe {recipe} has no {split} data")
    return sources


def _pruned_line(row: dict[str, Any]) -> str:
    if row["measured"] is None:
        return str(row["checkpoint"])
    measured = row["measured"]
    interval = f"({measured['low']:.2f} to {measured['high']:.2f})"
    return f"{row['checkpoint']}: structural {measured['value']:.2f}x {interval}, predicted {row['predicted']:.2f}x"


def _quiet_libraries() -> None:
    """What libraries say on their own stays out of the way of our messages; their progress bars stay."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
