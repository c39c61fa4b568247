"""`bake man`: man pages for packagers."""

from __future__ import annotations

from pathlib import Path

import click

from generator.cli.options import PathType
from generator.cli.root import EXIT_CODES, bake


@bake.command(hidden=True)
@click.argument("folder", type=PathType(file_okay=False))
def man(folder: Path) -> None:
    """Write a man page for each command to FOLDER, and make the folder if it is missing.

    The command is for those who make packages of bake. It overwrites the man pages of an older bake.

    \b
    Examples:
      bake man /usr/local/share/man/man1
      bake man pages && man pages/bake-up.1
    """
    from generator.cli.output.man_page import man_pages
    from generator.errors import BakeError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in man_pages(bake, "bake", EXIT_CODES):
            path = folder / name
            path.write_text(text)
            path.chmod(0o644)
    except OSError as error:
        hint = "give another FOLDER, or free space"
        raise BakeError(f"{error.filename or folder}: cannot be written: {error.strerror}", hint=hint) from None
    click.echo(folder)
