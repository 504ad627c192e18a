"""`secateur-loadtest ramp`, `spike` and `soak`: parse, call, print."""

from pathlib import Path
from typing import Any

import click

from loadtests.command_line import bar, finish, options_of_load, output_or
from loadtests.lengths import parse_lengths
from loadtests.plan import Plan, parse_subject
from loadtests.shapes import Kind, run_shape, shape_lines
from loadtests.targets import target_of
from loadtests.texts import TASKS

RAMP_MINUTES, SPIKE_MINUTES, SOAK_MINUTES = 3.0, 1.5, 30.0

_STAGES = 2


def _command(kind: Kind, minutes: float, about: str) -> click.Command:
    """The command of one shape; they differ in what they say and in how long they take."""

    @click.command(kind, help=f"{about}\n\n\b\nExample:\n  secateur-loadtest {kind} --variant compact-int8 --task qa --minutes {minutes:g}")
    @click.option("--variant", default="compact-int8", show_default=True, help="Which variant to ask; `compact@openvino` names a runtime.")
    @click.option("--task", default="qa", show_default=True, type=click.Choice(list(TASKS)), help="What to ask for.")
    @click.option("--rate", type=click.FloatRange(min=0.01), help="Requests per second in the place of the capacity that is found.")
    @click.option("--minutes", default=minutes, show_default=True, type=click.FloatRange(min=0.05), help="How long.")
    @options_of_load
    def command(**given: Any) -> None:  # noqa: ANN401 - options
        _run(kind, **given)

    return command


def _run(
    kind: Kind,
    *,
    variant: str,
    task: str,
    rate: float | None,
    length: str | None,
    url: str | None,
    models: Path,
    metrics_port: int | None,
    metrics_address: str,
    output: Path | None,
    **rest: Any,  # noqa: ANN401 - fields of the plan
) -> None:
    plan = Plan(tasks=(task,), subjects=(parse_subject(variant),), lengths=parse_lengths(length) if length else None, **rest)
    target, folder = target_of(url, models), output_or(output, kind)
    metrics = None if metrics_port is None else (metrics_address, metrics_port)
    with bar(kind, _STAGES) as progress:
        result = run_shape(kind, plan, target, rate=rate, output=folder, progress=progress, metrics=metrics)
    click.echo("\n".join(shape_lines(result)))
    click.echo(f"{result.cores}; written to {folder}", err=True)
    finish(result.void, failed=result.failed)


SHAPE_COMMANDS = (
    _command("ramp", RAMP_MINUTES, "One rate after another, from 0.3 to 1.3 of the capacity: where is the knee?"),
    _command("spike", SPIKE_MINUTES, "Half the capacity, three times as much, and half again: how long until answers are in time again?"),
    _command("soak", SOAK_MINUTES, "Seven tenths of the capacity for long: does it stay in time, and does memory grow?"),
)
