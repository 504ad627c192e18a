"""`secateur-serve doctor`: what this machine makes of the artifacts, measured, and the settings that follow. `doctor` is the command."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from service.doctor.probing import probe
from service.doctor.report import render

DEFAULT_SECONDS = 90.0


def doctor(folders: Sequence[Path], *, seconds: float = DEFAULT_SECONDS, as_json: bool = False) -> None:
    """Measure artifacts, with a bar on stderr, and print the report on stdout.

    Args:
        folders: of the artifacts.
        seconds: about how long it takes in all.
        as_json: print one JSON object instead of the table.
    """
    with click.progressbar(range(2 * len(folders)), label="Measuring", file=sys.stderr) as bar:
        report = probe(folders, seconds=seconds, visited=lambda: bar.update(1))
    click.echo(json.dumps(report.as_dict()) if as_json else render(report))
