"""`secateur-prune bench-…`: what a choice or a shape costs in time. Parse, call, print."""

from pathlib import Path
from typing import Any

import click

from pruning.command_options import FOLDER, JSON, SET
from pruning.config import load_recipe


@click.command("bench-graph")
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


@click.command("bench-schemes")
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


@click.command("bench-shapes")
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


@click.command("bench-summarize")
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


BENCH_COMMANDS = (bench_graph, bench_schemes, bench_shapes, bench_summarize)
