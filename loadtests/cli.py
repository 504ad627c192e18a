"""`secateur-loadtest`: what pruning wins, as users of the service feel it. Results go to stdout, messages to stderr."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click

from loadtests.errors import LoadTestError
from loadtests.gates import GATES, parse_gate
from loadtests.lengths import parse_lengths
from loadtests.plan import (
    DISTINCT,
    LEAST_ROUNDS,
    MINUTES_PER_TASK,
    QUICK_DISTINCT,
    QUICK_MINUTES,
    QUICK_SHARES,
    SHARES,
    Plan,
    parse_subjects,
)
from loadtests.results import Result, lines
from loadtests.run import Target, run, stages
from loadtests.texts import TASKS

BROKEN_PROMISE, BAD_INPUT, VOID = 1, 2, 3
DEFAULT_TASKS, QUICK_TASKS = ("qa", "classify"), ("qa",)


class OneLineError(click.ClickException):
    """An error that is shown as one line."""

    exit_code = BAD_INPUT


class CommandGroup(click.Group):
    """Turns what load tests raise on purpose, and being told to end, into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        except LoadTestError as error:
            raise OneLineError(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            raise OneLineError("interrupted; what was started has ended, and nothing was written") from None
        finally:
            signal.signal(signal.SIGTERM, before)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="secateur")
def main() -> None:
    """Load tests of the service, over HTTP alone.

    \b
    Examples:
      secateur-loadtest compare
      secateur-loadtest compare --quick
    """


@main.command()
@click.option("--variants", default="dense,compact-int8,compact", show_default=True, help="The first is what others are compared with.")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    type=click.Choice(list(TASKS)),
    help="May be given several times; without it qa, classify, and with --quick qa.",
)
@click.option("--length", help="Tokens of a text: 384, 16-384, or 32:5,384:2 with weights; without it the task's own.")
@click.option(
    "--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="SQuAD's JSON, or JSON lines, in the place of ours."
)
@click.option("--url", help="A service that runs already; without it one is started.")
@click.option(
    "--models", default="models", show_default=True, type=click.Path(path_type=Path), help="What a service that is started serves."
)
@click.option("--slo", "slo_ms", type=click.FloatRange(min=1), help="Milliseconds within which 99 of 100 answers come; the task's own.")
@click.option(
    "--arrivals", "spacing", default="poisson", show_default=True, type=click.Choice(["poisson", "fixed"]), help="When requests come."
)
@click.option("--minutes", type=click.FloatRange(min=0.1), help="About how long; 12 for each task, or 2.5 for all with --quick.")
@click.option("--rounds", default=LEAST_ROUNDS, show_default=True, type=click.IntRange(min=LEAST_ROUNDS), help="Visits of each variant.")
@click.option("--quick", is_flag=True, help="To see that it works, not for figures.")
@click.option("--gate", "gates", multiple=True, help="What to ask for in place of the project's promises: qa:compact-int8/dense>=3.5.")
@click.option("--seed", default=0, show_default=True, help="Of texts and arrivals.")
@click.option("--metrics-port", type=click.IntRange(0, 65535), help="Export the user's side of the load to Prometheus here, while it runs.")
@click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Address of that port.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder to make; without it runs/loadtest-<time>.")
def compare(
    variants: str,
    tasks: tuple[str, ...],
    length: str | None,
    minutes: float | None,
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
    promise is broken, and with 3 when the run is void.

    \b
    Examples:
      secateur-loadtest compare
      secateur-loadtest compare --quick --task qa
      secateur-loadtest compare --variants dense,compact-int8,compact@openvino --task qa --length 384
      secateur-loadtest compare --url http://localhost:8000 --task classify --length 16-128
    """
    chosen = tasks or (QUICK_TASKS if quick else DEFAULT_TASKS)
    plan = Plan(
        tasks=chosen,
        subjects=parse_subjects(variants),
        lengths=parse_lengths(length) if length else None,
        minutes=minutes or (QUICK_MINUTES if quick else MINUTES_PER_TASK * len(chosen)),
        shares=QUICK_SHARES if quick else SHARES,
        distinct=QUICK_DISTINCT if quick else DISTINCT,
        **rest,
    )
    if (length or rest["texts"]) and len(chosen) > 1:
        raise LoadTestError("--length and --texts are of one task; name it by --task")
    promised = tuple(map(parse_gate, gates)) or GATES
    target = output or Path("runs") / f"loadtest-{datetime.now():%Y%m%d-%H%M%S}"
    metrics = None if metrics_port is None else (metrics_address, metrics_port)
    with _bar(stages(plan)) as progress:
        result = run(plan, Target.of(url, models), gates=promised, output=target, progress=progress, metrics=metrics)
    click.echo("\n".join(lines(result)))
    click.echo(f"{result.cores}; written to {target}", err=True)
    _finish(result)


def _finish(result: Result) -> None:
    if result.void or result.failed:
        raise click.exceptions.Exit(VOID if result.void else BROKEN_PROMISE)


@contextmanager
def _bar(length: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that names what has begun."""
    items: Iterable[str] = ()
    with click.progressbar(items, length=length, label="comparing", file=sys.stderr, item_show_func=lambda item: item or "") as bar:
        yield lambda item: bar.update(1, item)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
