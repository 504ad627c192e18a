"""`secateur-prune`: verbs over recipes, checkpoints and artifacts; each parses, calls one function, and prints what came of it."""

import json
import logging
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import click

from pruning.artifact_commands import ARTIFACT_COMMANDS
from pruning.bench_commands import BENCH_COMMANDS
from pruning.command_options import JSON, OUTPUT, RECIPE, SET
from pruning.config import load_recipe
from pruning.errors import ConfigError
from pruning.processes import is_main
from pruning.report_commands import REPORT_COMMANDS
from service.command_line import CommandGroup


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
      secateur-prune run demo -o runs/mine --set model=./my-bert --set 'data.train=[{path: a.csv}]' --set 'data.validation=[{path: b.csv}]'
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
    from pruning.stages.checks import check_recipe
    from pruning.stages.dense import train_dense

    current = Run(load_recipe(recipe, overrides), Stages(output))
    if current.config.fine_prune is not None:
        check_recipe(current)
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
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--ledger", type=click.Path(path_type=Path), required=True, help="JSON file that the results are kept in.")
@click.option("--only", multiple=True, help="Names of runs, or claims; all runs by default.")
@click.option("--measure", "measured", is_flag=True, help="Afterwards, time the shapes that are left: on a machine that does nothing else.")
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Folder to draw the ledger into.")
@click.option("--against", default="dense", show_default=True, help="Run that the table compares the others with, example by example.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder of the runs; without it nothing is run, the ledger is read.")
def study(
    study: Path, ledger: Path, only: tuple[str, ...], measured: bool, pictures: Path | None, against: str, output: Path | None
) -> None:
    """Do the runs of a study, and keep what each example scored in a ledger; runs that it has are not done again.

    STUDY is a YAML file, or the name of one that ships: sst2, qa, summarize.

    \b
    Examples:
      secateur-prune study sst2 --output runs/sst2-study --ledger ledger.json --pictures pictures
      secateur-prune study sst2 --ledger ledger.json --against 'magnitude at 10 %'
    """
    from pruning.ledger import DENSE, Ledger, as_table
    from pruning.study import load_study, run_study
    from pruning.study_plots import write_pictures
    from pruning.study_speeds import measure

    if output is None and (only or not ledger.is_file()):
        raise ConfigError(f"--output is missing: say in which folder to do the runs{'' if only else f'; there is no {ledger} yet'}")
    loaded, found = load_study(study), Ledger.load(ledger)
    known = [*(entry.name for entry in found.entries), *(run.name for run in loaded.runs if output is not None)]
    if against not in (DENSE, *known):
        raise ConfigError(f"--against {against!r}: no such run, but {', '.join(map(repr, dict.fromkeys(known)))}")
    if output is not None:
        found = run_study(loaded, output, ledger, only=only)
    if measured:
        found = measure(ledger, loaded)
    if pictures is not None:
        write_pictures(found, pictures)
    click.echo(as_table(found, against=against), nl=False)


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


for command in (*ARTIFACT_COMMANDS, *BENCH_COMMANDS, *REPORT_COMMANDS):
    main.add_command(command)
