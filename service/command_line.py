"""How both command lines end: results on stdout, messages on stderr, bad input as one line and exit code 2, never a traceback."""

import errno

import click

from service.errors import SecateurError

BAD_INPUT = 2


class OneLineError(click.ClickException):
    """An error that is shown as one line."""

    exit_code = BAD_INPUT


class CommandGroup(click.Group):
    """Turns what Secateur raises on purpose, a full disk and Ctrl-C into one line and exit code 2."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SecateurError as error:
            raise OneLineError(" ".join(str(error).split())) from error
        except KeyboardInterrupt:
            raise OneLineError("interrupted; what was complete is kept, and the same command goes on from there") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            where = f" at {error.filename}" if error.filename else ""
            raise OneLineError(f"the disk is full{where}: free some space and run the same command again") from error
