"""The command line. Only the package `cli` prints text and ends the process.

Only the module of the command that runs is imported, and it imports slow modules when the command runs.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # exit code

try:  # the imports take half of the time of a short command
    import gc

    # Python searches for garbage when there are so many new objects. With Python's default of 700, it searches 150
    # times while bake imports modules, which produce no garbage.
    gc.set_threshold(100_000)

    import atexit
    import errno
    import os
    import signal
    from typing import TYPE_CHECKING, Any

    import click

    from generator.cli.options import VERBOSE
    from generator.cli.output.diagnostics import Output, begin, diagnostics_of, wants_json
    from generator.cli.root import bake
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(_INTERRUPTED)

if TYPE_CHECKING:
    from generator.errors import BakeError

_BROKEN_PIPE = 128 + signal.SIGPIPE  # the shell's code for a program that wrote to a pipe after the reader had ended


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line. Turn every error into a message and an exit code."""
    try:
        _open_closed_streams()
        signal.signal(signal.SIGTERM, _interrupt)
        os.umask(0o077)
        atexit.register(gc.freeze)  # without it, Python searches all objects for garbage at exit, which takes 30 ms
        code = _run()
    except KeyboardInterrupt:  # before or after the command
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    sys.exit(code)


def _open_closed_streams() -> None:
    """Open /dev/null for each standard stream that is closed.

    Otherwise, the next file that bake or a program of bake opens would get the number of the stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is the stream's number
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode))


def _run() -> int:
    settings: dict[str, Any] = {}
    output = begin(settings)
    code = _call(settings, output)
    if output.data is None and not (code and output.diagnostics and wants_json()):
        return code
    try:
        output.print()
    except BrokenPipeError:
        return _BROKEN_PIPE
    except OSError as error:
        click.echo(f"error: {_explained(error)}", err=True)
        return 1
    return code


def _call(settings: dict[str, Any], output: Output) -> int:
    """Call the command, and print its errors as text. Return the exit code."""
    stdout = sys.stdout
    try:
        from generator.errors import BakeError, InputError

        code = bake.main(standalone_mode=False, obj=settings)  # the exit code if the command called `ctx.exit`
    except click.exceptions.Abort as abort:
        return _end(abort, output)
    except KeyboardInterrupt as interrupt:
        return _end(interrupt, output)
    except click.ClickException as error:
        error.show()
        output.diagnostics += diagnostics_of(error)
        return 2
    except BakeError as error:
        if settings.get(VERBOSE) and not isinstance(error, InputError):  # wrong input needs no traceback
            import traceback

            click.echo("".join(traceback.format_exception(error)), err=True)
        for problem in error.problems if isinstance(error, InputError) else (error,):
            click.echo(f"error: {problem}", err=True)
        output.diagnostics += diagnostics_of(error)
        return error.exit_code
    except SystemExit:
        if sys.stdout is not stdout:  # click replaces it if its reader has ended
            return _BROKEN_PIPE
        raise
    except OSError as error:  # standard output can be a file on a full disk
        explained = _explained(error)
        click.echo(f"error: {explained}", err=True)
        output.diagnostics += diagnostics_of(explained)
        return 1
    return code if isinstance(code, int) else 0


def _explained(error: OSError) -> BakeError:
    """Return the error for the user. An error without a file's name is of standard output if its disk is full."""
    from generator.errors import BakeError

    if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        text = f"standard output: cannot be written: {error.strerror}"
        return BakeError(text, hint="free space, or write the output to another file")
    return BakeError(str(error))


def _end(end: BaseException, output: Output) -> int:
    """Return exit code 130 for an interrupted command, and 1 if the user did not confirm."""
    interrupted = isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt)
    text = "interrupted" if interrupted else "nothing was done"
    click.echo(text, err=True)
    output.diagnostics += diagnostics_of(Exception(text))
    return _INTERRUPTED if interrupted else 1
