"""Arguments and options that several commands of `secateur-prune` take."""

from pathlib import Path

import click

RECIPE = click.argument("recipe")
SET = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a field of the recipe; `train.0.epochs=1`.")
OUTPUT = click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder to write.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
