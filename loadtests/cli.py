"""`secateur-loadtest`: what pruning wins, as users of the service feel it. Results go to stdout, messages to stderr."""

from pathlib import Path
from typing import Any

import click

from loadtests.command_line import CommandGroup, bar, finish, options_of_load, output_or
from loadtests.errors import LoadTestError
from loadtests.gates import parse_gate, require_planned
from loadtests.jobs import jobs_of
from loadtests.lengths import parse_lengths
from loadtests.machine import MOST_OTHERS, others_now
from loadtests.plan import (
    DEFAULT_VARIANTS,
    DISTINCT,
    FEW_SHARES,
    LEAST_ROUNDS,
    MINUTES_PER_TASK,
    QUICK_DISTINCT,
    QUICK_MINUTES_PER_TASK,
    QUICK_ROUNDS,
    ROUNDS,
    SHARES,
    Plan,
    parse_subjects,
)
from loadtests.run import run, stages
from loadtests.shape_commands import SHAPE_COMMANDS
from loadtests.targets import target_of, tasks_of
from loadtests.texts import TASKS
from loadtests.writing import lines

QUICK_TASKS = ("qa",)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secateur")
def main() -> None:
    """Load tests of the service, over HTTP alone.

    \b
    Examples:
      secateur-loadtest compare
      secateur-loadtest compare --quick
      secateur-loadtest ramp --variant compact-int8
      secateur-loadtest report runs/loadtest-20260504-102030
    """


@main.command()
@click.option(
    "--variants",
    help=f"The first is what others are compared with. Without it {DEFAULT_VARIANTS}, as far as a task has them; with --url what it lists.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(list(TASKS)),
    help="May be given several times; without it all that there is a model for, and with --quick qa.",
)
@click.option("--minutes", type=click.FloatRange(min=0.1), help="About how long loads take; 10 for each task, or 1.75 with --quick.")
@click.option("--rounds", type=click.IntRange(min=LEAST_ROUNDS), help=f"Visits of each variant; {ROUNDS}, or {QUICK_ROUNDS} with --quick.")
@click.option("--quick", is_flag=True, help="To see that it works, not for figures.")
@click.option(
    "--below/--no-below", default=True, help="Whether to measure what lies below HTTP, too: layers, raw sessions, what each step won."
)
@click.option(
    "--gate",
    "gates",
    multiple=True,
    help="What to ask for: qa:compact-int8/dense>=3.5. Without it the project's gates, of models that ship.",
)
@options_of_load
def compare(
    variants: str | None,
    tasks: tuple[str, ...],
    length: str | None,
    minutes: float | None,
    rounds: int | None,
    quick: bool,
    gates: tuple[str, ...],
    metrics_port: int | None,
    metrics_address: str,
    output: Path | None,
    url: str | None,
    models: Path,
    **rest: Any,  # noqa: ANN401 - fields of the plan
) -> None:
    """The highest rate that each variant keeps up with, and how many times the first one's that is.

    Texts, arrivals and cores are the same for all. Leave the machine alone meanwhile: a run that was disturbed is void. Ends with 1 when a
    gate is missed, with 3 when the run is void, and with 4 when a gate could not be measured.

    \b
    Examples:
      secateur-loadtest compare
      secateur-loadtest compare --quick --task qa
      secateur-loadtest compare --variants dense,dense-int8,compact-int8 --task qa --length 384
      secateur-loadtest compare --url http://localhost:8000 --variants dense,compact-int8 --task classify --length 16-128
    """
    subjects = parse_subjects(variants or DEFAULT_VARIANTS) if variants or not url else ()
    lengths, asked, target = parse_lengths(length) if length else None, tuple(map(parse_gate, gates)), target_of(url, models)
    named = tasks or (QUICK_TASKS if quick else ())
    if (length or rest["texts"]) and len(named) != 1:
        raise LoadTestError("--length and --texts are of one task; name it by --task")
    chosen = named or tasks_of(target)
    if quick and asked:
        raise LoadTestError("--quick decides no gate; leave --gate or --quick out")
    require_planned(asked, {name: [subject.label for subject in subjects] for name in chosen if subjects})
    plan = Plan(
        tasks=chosen,
        subjects=subjects,
        named=variants is not None,
        lengths=lengths,
        minutes=minutes or (QUICK_MINUTES_PER_TASK if quick else MINUTES_PER_TASK) * len(chosen),
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        shares=FEW_SHARES if quick else SHARES,
        distinct=QUICK_DISTINCT if quick else DISTINCT,
        quick=quick,
        **rest,
    )
    folder = output_or(output, "loadtest")
    metrics = None if metrics_port is None else (metrics_address, metrics_port)
    if (others := others_now()) > MOST_OTHERS:
        click.echo(f"other processes take {others:.0%} of the machine now; while they do, the run is void", err=True)
    click.echo("looking whether every variant is there", err=True)
    with jobs_of(plan, target) as jobs:
        for note in jobs.all_notes:
            click.echo(note, err=True)
        require_planned(asked, {job.task.name: [subject.label for subject in job.plan.subjects] for job in jobs.tasks})
        with bar("comparing", stages(jobs)) as progress:
            result = run(jobs, gates=asked, output=folder, progress=progress, metrics=metrics)
    click.echo("\n".join(lines(result)))
    click.echo(f"{result.cores}; written to {folder}, the page is {_report(folder)}", err=True)
    finish(result.void, failed=result.failed, is_open=result.is_open)


@main.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Folder to write the page's pictures into, as SVG.")
def report(folder: Path, pictures: Path | None) -> None:
    """Write `report.html` and `report.csv` anew, from the `result.json` of a FOLDER that `compare` made.

    \b
    Examples:
      secateur-loadtest report runs/loadtest-20260504-102030
      secateur-loadtest report runs/loadtest-20260504-102030 --pictures pictures
    """
    click.echo(_report(folder))
    if pictures is not None:
        from loadtests.report import write_pictures

        for path in write_pictures(folder, pictures):
            click.echo(path)


def _report(folder: Path) -> Path:
    from loadtests.report import write_report  # what draws takes long to load, and nothing else needs it

    return write_report(folder)


for _shape in SHAPE_COMMANDS:
    main.add_command(_shape)
