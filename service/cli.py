"""`secateur-serve`: verbs over artifacts. Results go to stdout, messages to stderr; bad input exits with 2 and one line."""

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import click

from service.artifact import MANIFEST_NAME, Manifest
from service.bench.command import bench
from service.command_line import CommandGroup
from service.command_options import settings_options
from service.errors import ArtifactError, RequestError, SecateurError
from service.keys import digest, make_key, parse_line
from service.model import AnyModel, load_model
from service.runtime.machine import core_count
from service.settings import Settings, read_settings
from service.tasks.base import Request, Response, parse_request
from service.tasks.classify import ClassifyResponse
from service.tasks.qa import QuestionResponse
from service.tasks.summarize import SummarizeResponse


@click.group(cls=CommandGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@settings_options
@click.version_option(package_name="secateur")
@click.pass_context
def main(ctx: click.Context, /, **given: str | None) -> None:
    """Serve the artifacts that `secateur-prune` writes: without a command, over HTTP.

    Each option is also the environment variable in brackets behind it. Lists are written with commas, mappings as JSON.

    \b
    Examples:
      secateur-serve
      secateur-serve --models models --variants compact-int8 --port 9000
      secateur-serve --weights '{"qa": {"dense": 10, "compact-int8": 90}}'
      secateur-serve --models models check
    """
    ctx.obj = read_settings({name: value for name, value in given.items() if value is not None})
    logging.basicConfig(level=ctx.obj.log_level.upper(), format="%(levelname)s %(name)s %(message)s")
    if ctx.invoked_subcommand is None:
        serve(ctx.obj)


def serve(settings: Settings) -> None:
    """Serve until told to stop."""
    from service.server import run  # checking an artifact needs no web server

    run(settings, ready=click.echo)


@main.command()
@click.argument("artifacts", nargs=-1, metavar="[DIR]...")
@click.option("--seconds", type=click.FloatRange(min=1), default=90.0, show_default=True, help="About how long to measure.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_obj
def doctor(settings: Settings, artifacts: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Measure runtimes and layouts on this machine, and print the settings that follow.

    Without DIR, all artifacts of the models folder. Leave the machine alone meanwhile.

    \b
    Examples:
      secateur-serve doctor
      secateur-serve doctor models/qa/compact models/qa/compact-int8 --seconds 30
    """
    from service.doctor import doctor as measure

    measure([find_artifact(name, settings) for name in artifacts] or all_artifacts(settings), seconds=seconds, as_json=as_json)


main.add_command(bench)


@main.command("make-key")
@click.argument("name")
@click.option("--admin", is_flag=True, help="It may reload.")
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="What it may have computed.")
def make_key_command(name: str, admin: bool, tokens_per_minute: int | None) -> None:
    """Make an API key: the key itself on stderr, once; the line for the file of keys on stdout.

    \b
    Example:
      secateur-serve make-key web --tokens-per-minute 600000 >> keys
      secateur-serve --api-keys keys
    """
    key = make_key()
    options = ["admin"] * admin + ([f"tokens_per_minute={tokens_per_minute}"] if tokens_per_minute else [])
    line = " ".join([name, digest(key), *options])
    parse_line(line, "the new line")
    click.echo(f"{key}  <- keep it: it is shown this once", err=True)
    click.echo(line)


@main.command()
@click.argument("artifacts", nargs=-1, metavar="[DIR]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_obj
def check(settings: Settings, artifacts: tuple[str, ...], as_json: bool) -> None:
    """Verify artifacts: hashes, graph, golden outputs on this machine.

    Without DIR, all artifacts of the models folder.

    \b
    Examples:
      secateur-serve check
      secateur-serve check models/qa/compact-int8 sentiment/dense
    """
    folders = [find_artifact(name, settings) for name in artifacts] or all_artifacts(settings)
    failures = 0
    for folder in folders:
        try:
            manifest = load_model(folder, threads=threads(settings)).manifest
        except SecateurError as error:
            failures += 1
            click.echo(f"Error: {error}", err=True)
        else:
            click.echo(json.dumps(summary(manifest)) if as_json else summary_line(manifest))
    if failures:
        raise click.exceptions.Exit(2)


@main.command()
@click.argument("artifact", metavar="DIR")
@click.option("--question", help="The question; with --context.")
@click.option("--context", help="The text that holds the answer.")
@click.option("--text", help="The text to label or to summarize.")
@click.option("--text-pair", help="The second text of a pair.")
@click.option("--input", "source", type=click.File(encoding="utf-8"), help="JSON lines, one request each; - is standard input.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per request.")
@click.pass_obj
def answer(settings: Settings, /, artifact: str, source: TextIO | None, as_json: bool, **fields: str | None) -> None:
    """Answer requests with one artifact, without a server.

    \b
    Examples:
      secateur-serve answer qa/compact-int8 --question "Who wrote it?" --context "Ada wrote it in 1843."
      secateur-serve answer sentiment/compact-int8 --text "A quiet triumph." --json
      secateur-serve answer sentiment/dense --input reviews.jsonl
      secateur-serve answer summarize/compact-int8 --text "$(cat article.txt)"
    """
    document = {name: value for name, value in fields.items() if value is not None}
    if bool(document) == (source is not None):
        raise click.UsageError("give one request by options, or many by --input")
    model = load_model(find_artifact(artifact, settings), threads=threads(settings))
    for request in list(read_requests(source, model)) if source else [parse_request(model.task.request_type, document)]:
        response = model.predict_one(request)
        click.echo(response.model_dump_json() if as_json else response_line(response))


def find_artifact(name: str, settings: Settings) -> Path:
    """The folder of that path, or of that name in the models folder."""
    for folder in (Path(name), settings.models / name):
        if (folder / MANIFEST_NAME).is_file():
            return folder
    raise ArtifactError(f"{name}: no artifact there nor in {settings.models}; expected a folder <name>/<variant> with {MANIFEST_NAME}")


def all_artifacts(settings: Settings) -> list[Path]:
    """Folders of all artifacts of the models folder."""
    found = sorted(path.parent for path in settings.models.glob(f"*/*/{MANIFEST_NAME}"))
    if not found:
        raise ArtifactError(f"{settings.models}: no artifact there; name a folder, or set SECATEUR_MODELS")
    return found


def threads(settings: Settings) -> int:
    """Threads for one answer."""
    return settings.threads or core_count()


def read_requests(lines: Iterable[str], model: AnyModel) -> Iterator[Request]:
    """Requests from JSON lines; blank lines are passed over."""
    try:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield _read_request(line, number, model)
    except UnicodeDecodeError as error:
        raise RequestError(f"the input is not UTF-8 ({error.reason}); save it as UTF-8") from error


def summary(manifest: Manifest) -> dict[str, object]:
    """What one line of `check` says."""
    return {
        "artifact": f"{manifest.name}/{manifest.variant}",
        "task": manifest.task,
        "precision": manifest.precision,
        "size_bytes": sum(entry.size_bytes for entry in manifest.files.values()),
        "density": manifest.density,
        "metrics": [metric.model_dump(mode="json", exclude={"difference"}) for metric in manifest.metrics],
    }


def summary_line(manifest: Manifest) -> str:
    """The same for people."""
    size_mb = sum(entry.size_bytes for entry in manifest.files.values()) / 1e6
    metrics = [
        f"{metric.name} {metric.value:.1f} [{metric.low:.1f}, {metric.high:.1f}] on {metric.dataset} {metric.split}"
        for metric in manifest.metrics
    ]
    parts = [f"{manifest.name}/{manifest.variant}", manifest.task, manifest.precision, f"{size_mb:.1f} MB"]
    return "  ".join(["ok", *parts, ", ".join(metrics) or "accuracy not measured"])


def response_line(response: Response) -> str:
    """A response for people: best first, one tab between entries."""
    if isinstance(response, QuestionResponse):
        return "\t".join(f"{answer.answer or 'no answer'} ({answer.score:.3f})" for answer in response.answers)
    if isinstance(response, ClassifyResponse):
        return "\t".join(f"{entry.label} ({entry.score:.3f})" for entry in response.labels)
    if isinstance(response, SummarizeResponse):
        return response.summary
    return response.model_dump_json()


def _read_request(line: str, number: int, model: AnyModel) -> Request:
    try:
        request: Request = parse_request(model.task.request_type, json.loads(line))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"line {number}: not valid JSON ({error}); expected one object per line") from error
    except RequestError as error:
        raise RequestError(f"line {number}: {error}") from error
    return request
