"""What all commands share: errors of one line, an end when told to end, progress, options, and exit codes."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from loadtests.errors import LoadTestError
from loadtests.writing import require_new

MISSED_GATE, BAD_INPUT, VOID, OPEN_GATE = 1, 2, 3, 4

Command = TypeVar("Command", bound=Callable[..., Any])


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


def options_of_load(command: Command) -> Command:
    """Options of every command that makes load."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def output_or(given: Path | None, kind: str) -> Path:
    """The folder that is named, or one named after the kind and the time; `LoadTestError` where it is there already."""
    folder = given or Path("runs") / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"
    require_new(folder)
    return folder


def finish(void: Sequence[str], *, failed: bool, is_open: bool = False) -> None:
    """The exit code; `is_open` where a gate could not be measured."""
    if void or failed or is_open:
        raise click.exceptions.Exit(VOID if void else MISSED_GATE if failed else OPEN_GATE)


@contextmanager
def bar(label: str, length: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr that names what has begun."""
    items: Iterable[str] = ()
    with click.progressbar(items, length=length, label=label, file=sys.stderr, item_show_func=lambda item: item or "") as shown:
        yield lambda item: shown.update(1, item)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


_OPTIONS = (
    click.option("--length", help="Tokens of a text: 384, 16-384, or 32:5,384:2 with weights; without it the task's own."),
    click.option(
        "--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="SQuAD's JSON, or JSON lines, in the place of ours."
    ),
    click.option("--url", help="A service that runs already; without it one is started."),
    click.option(
        "--models", default="models", show_default=True, type=click.Path(path_type=Path), help="What a service that is started serves."
    ),
    click.option("--slo", "slo_ms", type=click.FloatRange(min=1), help="Milliseconds within which 99 of 100 answers come; the task's own."),
    click.option(
        "--arrivals", "spacing", default="poisson", show_default=True, type=click.Choice(["poisson", "fixed"]), help="When requests come."
    ),
    click.option(
        "--connections", default=0, type=click.IntRange(min=0), help="Of closed loops; 0: 4, or 2 for each core, or 16 for /summarize."
    ),
    click.option("--seed", default=0, show_default=True, help="Of texts and arrivals."),
    click.option(
        "--metrics-port", type=click.IntRange(0, 65535), help="Export the user's side of the load to Prometheus here, while it runs."
    ),
    click.option("--metrics-address", default="127.0.0.1", show_default=True, help="Address of that port."),
    click.option("--output", type=click.Path(path_type=Path), help="Folder to make; without it one in runs/, named after the time."),
)
