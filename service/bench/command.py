"""`secateur-serve bench`, with `overload` and `soak` below it: parse, call, print. Tables on stdout, progress on stderr."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from service.bench.overload import overload, overload_lines
from service.bench.peers import DEFAULT, THREADS, WORKERS
from service.bench.processes import is_readable
from service.bench.report import rendered, write_json
from service.bench.run import Plan, run
from service.bench.soak import SMALLEST, soak, soak_lines
from service.bench.subjects import RUNTIMES
from service.bench.visit import Cell
from service.command_line import OneLineError
from service.settings import Settings

BROKEN_PROMISE = 1

json_option = click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="Write the result here, too.")
variant_option = click.option("--variant", default="compact-int8", show_default=True, help="Which variant to ask.")


class BenchGroup(click.Group):
    """Ends all that was started when it is told to end, and says so in one line."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        if not is_readable():
            raise OneLineError("the benchmark reads processor times from /proc, which this system has not; run it on Linux")
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise OneLineError("interrupted; all servers were stopped, and nothing was written") from None
        finally:
            signal.signal(signal.SIGTERM, before)


@click.group("bench", cls=BenchGroup, invoke_without_command=True)
@click.option("--quick", is_flag=True, help="compact-int8 only, in about 3 minutes: to see that it works, not for figures.")
@click.option("--variant", "variants", multiple=True, help="Only this variant; may be given several times.")
@click.option("--peers/--no-peers", default=True, help="Whether to measure other servers, too.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1), help="Visits of each cell.")
@click.option("--seconds", type=click.FloatRange(min=0.1), help="Length of a visit; 1, or 0.4 with --quick.")
@click.option(
    "--tokens", type=click.IntRange(min=1), help="Of each text; without it 384 of /qa and 32 of /classify, which promises are of."
)
@json_option
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    quick: bool,
    variants: tuple[str, ...],
    peers: bool,
    rounds: int,
    seconds: float | None,
    tokens: int | None,
    target: Path | None,
) -> None:
    """What a request costs: the raw session, the engine, HTTP and other servers, interleaved in one run.

    All cores are used, so nothing else should run. About 15 minutes for the models that ship. Ends with 1 when a promise is broken.

    \b
    Examples:
      secateur-serve bench --json bench.json
      secateur-serve bench --quick
      secateur-serve bench --no-peers --variant compact-int8 --rounds 15
      secateur-serve bench overload
      secateur-serve bench soak --minutes 15
    """
    if ctx.invoked_subcommand is not None:
        return
    settings: Settings = ctx.obj
    plan = Plan(
        models=settings.models,
        variants=variants or (("compact-int8",) if quick else tuple(RUNTIMES)),
        rounds=rounds,
        seconds=seconds or (0.4 if quick else 1.0),
        layouts=((DEFAULT, WORKERS) if quick else (DEFAULT, THREADS, WORKERS)) if peers else (),
        tokens=tokens,
    )
    report = run(plan, progress=_bar, say=_say)
    click.echo(rendered(report))
    _finish(report, target, ok=all(verdict.passed is not False for verdict in report.verdicts))


@bench.command("overload")
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(min=1.0), help="How long too much is asked.")
@click.option("--factor", default=3.0, show_default=True, type=click.FloatRange(min=1.0), help="How many times what it can do.")
@variant_option
@json_option
@click.pass_obj
def overload_command(settings: Settings, /, seconds: float, factor: float, variant: str, target: Path | None) -> None:
    """Ask for more than can be done, at times that do not wait for answers, and watch what is refused, how fast, and how it recovers.

    \b
    Example:
      secateur-serve bench overload --seconds 60 --json overload.json
    """
    result = overload(settings.models, variant=variant, seconds=seconds, factor=factor, say=_say)
    click.echo("\n".join(overload_lines(result)))
    _finish(result, target, ok=all(each.passed for each in result.loads))


@bench.command("soak")
@click.option("--minutes", default=15.0, show_default=True, type=click.FloatRange(min=0.1), help="How long.")
@click.option("--variant", "variants", multiple=True, help="Which variant to serve; may be given several times. Without it compact-int8.")
@json_option
@click.pass_obj
def soak_command(settings: Settings, /, minutes: float, variants: tuple[str, ...], target: Path | None) -> None:
    """Keep the service busy with texts of mixed lengths for all models, and watch its memory.

    \b
    Examples:
      secateur-serve bench soak --minutes 15
      secateur-serve bench soak --variant dense --variant compact --variant compact-int8
    """
    result = soak(settings.models, variants=variants or SMALLEST, minutes=minutes, say=_say)
    click.echo("\n".join(soak_lines(result)))
    _finish(result, target, ok=all(result.promises.values()))


def _finish(result: object, target: Path | None, *, ok: bool) -> None:
    if target is not None:
        write_json(result, target)
    if not ok:
        raise click.exceptions.Exit(BROKEN_PROMISE)


def _say(text: str) -> None:
    click.echo(text, err=True)


@contextmanager
def _bar(label: str, length: int) -> Iterator[Callable[[Cell], None]]:
    """A bar on stderr that names the cell that is being visited."""
    cells: Iterable[Cell] = ()
    with click.progressbar(cells, length=length, label=label, file=sys.stderr, item_show_func=_name) as bar:
        yield lambda cell: bar.update(1, cell)


def _name(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.variant}, {cell.layer}"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
