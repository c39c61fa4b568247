"""The commands: the only part that prints and exits. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import signal
import sys

import click

from generator.cli import certs, cluster  # noqa: F401  their commands add themselves
from generator.cli.options import VERBOSE
from generator.cli.root import bake


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; every error becomes one message and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.umask(0o077)
    sys.exit(_run())


def _run() -> int:
    from generator.errors import BakeError, InputError

    said: dict[str, bool] = {}
    try:
        bake.main(standalone_mode=False, obj=said)
    except click.exceptions.Abort as abort:
        return _end(abort)
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except BakeError as error:
        if said.get(VERBOSE) and not isinstance(error, InputError):  # where input is wrong, the message says
            import traceback

            click.echo("".join(traceback.format_exception(error)), err=True)
        for problem in error.problems if isinstance(error, InputError) else (error,):
            click.echo(f"error: {problem}", err=True)
        return error.exit_code
    except BrokenPipeError:
        return 1
    except OSError as error:  # such as standard output on a full disk
        click.echo(f"error: {error}", err=True)
        return 1
    return 0


def _end(abort: click.exceptions.Abort) -> int:
    """Tell an interrupted command (130) from a question whose answer was no, or none (1)."""
    interrupted = isinstance(abort.__context__, KeyboardInterrupt)
    click.echo("interrupted" if interrupted else "nothing was done", err=True)
    return 130 if interrupted else 1
