"""`secateur-prune report`, `compare` and `publish`: what is made of finished runs. Parse, call, print."""

from pathlib import Path

import click

from pruning.command_options import FOLDER, JSON, OUTPUT, RECIPE, SET
from pruning.config import load_recipe


@click.command()
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


@click.command()
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


@click.command()
@RECIPE
@SET
@click.option("--run", "folder", type=FOLDER, required=True, help="Folder of the finished run.")
@click.option("--target", required=True, help="Which target to publish: the name of its folder under checkpoints/.")
@OUTPUT
def publish(recipe: str, overrides: tuple[str, ...], folder: Path, target: str, output: Path) -> None:
    """Publish one target of a run: copy its artifacts, evaluate them once on the test data, and write the model card.

    \b
    Example:
      secateur-prune publish qa --run runs/qa --target speedup-2.25-int8-384 --output models/qa
    """
    from pruning.publishing import publish as publish_target
    from pruning.run import Run
    from pruning.stages import Stages

    click.echo(publish_target(Run(load_recipe(recipe, overrides), Stages(folder)), target, output))


REPORT_COMMANDS = (report, compare, publish)
