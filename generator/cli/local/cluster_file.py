"""`bake init` and `bake schema`: the cluster file before there is a cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from generator.cli.common import print_json, warn
from generator.cli.options import SPEC_FLAGS, field_options, option, output_option, parameter, quiet_option
from generator.cli.root import bake

DEFAULT_FILE, DEFAULT_PROFILE = "cluster.yaml", "default"
_QUESTIONS = {"--name": "Name of the cluster", "--nodes": "Number of nodes", "--subnet": "The cluster's network"}
_ARCHIVE_QUESTIONS = {"--archive": "Path of etcd's release tarball", "--archive-sha256": "The tarball's sha256"}


@bake.command()
@click.argument("file", type=click.Path(path_type=Path), default=DEFAULT_FILE)
@option("--profile", help="Name or file of the profile for which the file is; default: `default`.")
@field_options
@click.option("-y", "--yes", is_flag=True, help="Ask no questions.")
@output_option
@quiet_option
def init(file: Path, yes: bool, **options: Any) -> None:
    """Write a commented cluster file, by default cluster.yaml, and the JSON Schema for editors next to it.

    The file sets the cluster's name, the number of nodes and the network, and shows every other field as a comment with
    its description and its value in the profile. On a terminal, the command asks for what no option gives. It never
    overwrites a cluster file, and writes nothing if a value is wrong.

    The first line of the file names the schema, bake.schema.json. An editor with the YAML language server then shows
    each field's description and marks wrong values, without a network.

    With -o json the output has the keys file, schema, profile and next (commands).

    \b
    Examples:
      bake init
      bake init --nodes 5 --subnet 10.0.0.0/24 --yes
      bake init prod.yaml --name prod --profile hardened
    """
    from generator.config.cluster_file.commented import commented_file
    from generator.config.cluster_file.schema import SCHEMA_FILE
    from generator.config.load import load

    _refuse_existing(file)
    if not yes and sys.stdin.isatty():
        options = _asked(options)
    profile = options["profile"] or DEFAULT_PROFILE
    flags = {
        flag: (path, options[parameter(flag)])
        for flag, (path, _, _) in SPEC_FLAGS.items()
        if options[parameter(flag)] is not None
    }
    loaded = load(profile=profile, flags=flags)
    warn(loaded.warnings, options)
    words = f"--config {shlex.quote(str(file))}"
    if profile != DEFAULT_PROFILE:
        words = f"--profile {shlex.quote(profile)} {words}"
    commands = [f"bake check {words}", f"bake up {words}"]
    chosen = [path for path, _ in flags.values()]
    _write(file, commented_file(loaded.spec, chosen, profile=profile, commands=commands))
    if options["output"] == "json":
        print_json(file=str(file), schema=str(file.parent / SCHEMA_FILE), profile=profile, next=commands)
    elif not options["quiet"]:
        click.echo(file)
        click.echo(f"Edit the file, then run `{commands[0]}` to check it, and `{commands[1]}`.", err=True)


@bake.command()
def schema() -> None:
    """Print the JSON Schema (2020-12) of the cluster file, for editors and other programs.

    The schema has each field's description, default and valid values. It accepts every file that bake accepts. `bake
    check` also checks the rules between fields. `bake init` writes the schema next to the cluster file. After an update
    of bake, write it again with `bake schema`.

    \b
    Examples:
      bake schema > bake.schema.json
    """
    from generator.config.cluster_file.schema import schema_text

    click.echo(schema_text(), nl=False)


def _refuse_existing(file: Path) -> None:
    from generator.errors import InputError

    if file.exists() or file.is_symlink():
        raise InputError.one(str(file), "exists already", "edit this file, or give another path: bake init FILE")
    if not file.parent.is_dir():
        raise InputError.one(str(file), f"there is no folder {file.parent}", "create the folder first")


def _asked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Ask for the profile, and for the fields in `_QUESTIONS` that the options lack. Return all options."""
    from generator.config import yaml12
    from generator.config.load import profile_names, profile_path
    from generator.config.spec import InstallMethod, read_spec

    answers = dict(options)
    if answers["profile"] is None:
        answers["profile"] = click.prompt(
            "Profile", default=DEFAULT_PROFILE, type=click.Choice(profile_names()), err=True
        )
    spec, _ = read_spec(yaml12.load_file(profile_path(answers["profile"])).value)
    needs_archive = spec.install.method is InstallMethod.ARCHIVE
    for flag, question in {**_QUESTIONS, **(_ARCHIVE_QUESTIONS if needs_archive else {})}.items():
        if answers[parameter(flag)] is None:
            path, kind, _ = SPEC_FLAGS[flag]
            answers[parameter(flag)] = click.prompt(
                question, default=_value_at(spec, path), value_proc=partial(_valid, path, kind), err=True
            )
    return answers


def _value_at(spec: Any, path: tuple[str, ...]) -> str | None:
    """Return the value of a field as text."""
    from generator.config.fields import plain
    from generator.config.user_input import at

    value = at(plain(spec), path)
    return None if value is None else str(value)


def _valid(path: tuple[str, ...], kind: type, answer: str) -> Any:
    """Return an answer as a value of the field at `path`. Raise UsageError, so that click asks again."""
    from generator.config.spec import read_spec
    from generator.config.user_input import put

    data: dict[str, Any] = {}
    value = int(answer) if kind is int and answer.isdecimal() else answer
    put(data, path, value)
    _, wrong = read_spec(data)
    for problem in wrong:
        raise click.UsageError(f"{problem.message}; {problem.hint}" if problem.hint else problem.message)
    return value


def _write(file: Path, text: str) -> None:
    """Write the cluster file and, next to it, the schema."""
    from generator.config.cluster_file.schema import SCHEMA_FILE, schema_text
    from generator.errors import BakeError
    from generator.store.atomic import write_new

    try:
        _write_schema(file.parent / SCHEMA_FILE, schema_text())
        write_new(file, text.encode(), 0o644)
    except OSError as error:
        hint = "free some space, or give another path: bake init FILE"
        raise BakeError(f"{error.filename or file}: cannot be written: {error.strerror}", hint=hint) from None


def _write_schema(path: Path, text: str) -> None:
    """Write the schema, or replace the schema of another version of bake. Leave every other file alone."""
    from generator.config.cluster_file.schema import is_cluster_schema
    from generator.errors import InputError
    from generator.store.atomic import write_new

    if path.is_file():
        old = path.read_text(errors="replace")
        if old == text:
            return
        if not is_cluster_schema(old):
            raise InputError.one(str(path), "exists already and is not a schema of bake", "move the file away")
        path.unlink()
    write_new(path, text.encode(), 0o644)
