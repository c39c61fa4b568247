"""What the commands share: opening what the options name, and showing what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generator.options import SPEC_FLAGS, parameter

if TYPE_CHECKING:
    from generator.host.store import Store
    from generator.profile import Loaded
    from generator.progress import Progress
    from generator.spec import ClusterSpec

FORMAT_VERSION = "1.0"  # of every -o json: the major number changes when a reader would break


def refuse_misplaced(ctx: click.Context) -> None:
    """Raise UsageError for an option of a group that is given before its subcommand, which would not see it."""
    subcommand = ctx.command.get_command(ctx, ctx.invoked_subcommand or "")  # type: ignore[attr-defined]
    known = {parameter.name for parameter in subcommand.params}
    command = " ".join(["bake", *([] if ctx.parent is None else [str(ctx.info_name)]), str(ctx.invoked_subcommand)])
    for given in ctx.command.params:
        flag = max(given.opts, key=len)
        if ctx.get_parameter_source(str(given.name)) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if given.name not in known:
            raise click.UsageError(f"{flag} is not an option of {command}", ctx)
        value = "" if getattr(given, "is_flag", False) else " …"
        raise click.UsageError(f"put {flag} after the command: {command} {flag}{value}", ctx)


def open_cluster(options: Mapping[str, Any]) -> Any:
    from generator import cluster
    from generator.host.store import Store

    return cluster.open_cluster(Store(options["out"], options["name"]))


def cache() -> Path:
    from generator.host.image import cache_folder

    return cache_folder()


def progress_of(nodes: Iterable[str], options: Mapping[str, Any]) -> AbstractContextManager[Progress]:
    from generator.progress import show_progress

    return show_progress(nodes, quiet=options["quiet"])


def show_verification(result: Any, options: Mapping[str, Any]) -> None:
    from generator.checks import as_rows
    from generator.errors import UnhealthyError
    from generator.verify import verification_data

    if options["output"] == "json":
        print_json(**verification_data(result))
    elif not options["quiet"]:
        print_table(as_rows(result.checks))
    if not result.healthy:
        parts = [("the cluster is not healthy", result.failed), ("could not be checked", result.skipped)]
        text = "; ".join(f"{word}: {', '.join(check.name for check in found)}" for word, found in parts if found)
        decisive = result.failed or result.skipped
        hint = decisive[0].remedy if len(decisive) == 1 else "bake status; bake console NODE"
        raise UnhealthyError(text, hint=hint)


def show_names(verb: str, names: Iterable[str], options: Mapping[str, Any]) -> None:
    names = list(names)
    if options["output"] == "json":
        print_json(**{verb: names})
    elif not options["quiet"]:
        click.echo(f"{verb}: {', '.join(names) or 'nothing; there was nothing to do'}")


def load(options: Mapping[str, Any]) -> Loaded:
    from generator import profile

    flags = {
        flag: (path, options[parameter(flag)])
        for flag, (path, _, _) in SPEC_FLAGS.items()
        if options.get(parameter(flag)) is not None
    }
    loaded = profile.load(profile=options["profile"], config=options["config"], flags=flags)
    for warning in loaded.warnings if not options["quiet"] else ():
        click.echo(f"warning: {warning}", err=True)
    return loaded


def ca_passphrase(options: Mapping[str, Any], spec: ClusterSpec, store: Store) -> bytes | None:
    """From the file that was named; else, where the CA's key needs one, from the terminal."""
    from generator.authorities import has_encrypted_key
    from generator.keyring import read_passphrase

    if path := options["ca_passphrase_file"]:
        return read_passphrase(path)
    if sys.stdin.isatty() and has_encrypted_key(store, spec):
        return bytes(click.prompt("Passphrase of the CA's key", hide_input=True, err=True), "utf-8")
    return None


def reporter(options: Mapping[str, Any]) -> Callable[[str], None]:
    def report(line: str) -> None:
        if not options["quiet"]:
            click.echo(line, err=True)

    return report


def print_json(**values: Any) -> None:
    click.echo(json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2))


def print_table(rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    for cells in ([column.upper() for column in columns], *([row[column] for column in columns] for row in rows)):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
