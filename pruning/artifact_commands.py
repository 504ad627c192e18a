"""`secateur-prune compact`, `export`, `quantize` and `evaluate`: one step from a checkpoint to an artifact each. Parse, call, print."""

import json
from pathlib import Path
from typing import Any, get_args

import click

from pruning.command_options import FOLDER, JSON, OUTPUT, SET
from pruning.config import DataSource, Method, RunConfig, Scheme, load_recipe
from pruning.errors import ConfigError


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
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


ARTIFACT_COMMANDS = (compact, export, quantize, evaluate)
