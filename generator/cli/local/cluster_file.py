"""`bake init` and `bake schema`: the cluster file before there is a cluster."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from generator.cli.common import print_json, warn
from generator.cli.options import SPEC_FLAGS, field_options, option, output_option, parameter, quiet_option
from generator.cli.root import bake

DEFAULT_FILE, DEFAULT_PROFILE = "cluster.yaml", "default"
_Path = tuple[str, ...]
_Fields = dict[_Path, Any]  # fields of the cluster file


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
    its description and its value in the profile. On a terminal, the command asks for what no option gives. Without a
    terminal, the field network.bridge or network.name, which --network-mode may require, is for you to fill in. The
    command never overwrites a cluster file, and writes nothing if a value is wrong.

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
    profile, given = options["profile"], {path: options[parameter(flag)] for flag, (path, _, _) in SPEC_FLAGS.items()}
    fields: _Fields = {path: value for path, value in given.items() if value is not None}
    if not yes and sys.stdin.isatty():
        profile, fields = _asked(profile, fields)
    profile = profile or DEFAULT_PROFILE
    blank = _unnamed_network(_data(profile, fields))
    origins = {path: flag for flag, (path, _, _) in SPEC_FLAGS.items()}
    flags = {origins.get(path, ".".join(path)): (path, value) for path, value in {**fields, **blank}.items()}
    loaded = load(profile=profile, flags=flags)
    warn(loaded.warnings, options)
    words = f"--config {shlex.quote(str(file))}"
    if profile != DEFAULT_PROFILE:
        words = f"--profile {shlex.quote(profile)} {words}"
    commands = [f"bake check {words}", f"bake up {words}"]
    _write(file, commented_file(loaded.spec, fields, blank, profile=profile, commands=commands))
    if options["output"] == "json":
        print_json(file=str(file), schema=str(file.parent / SCHEMA_FILE), profile=profile, next=commands)
    elif not options["quiet"]:
        click.echo(file)
        edit = "Edit the file" if not blank else f"Set {', '.join(map('.'.join, blank))} in the file"
        click.echo(f"{edit}, then run `{commands[0]}` to check it, and `{commands[1]}`.", err=True)


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


def _asked(profile: str | None, given: _Fields) -> tuple[str, _Fields]:
    """Ask for the profile, and for the most important fields that `given` lacks. Return the profile and all fields."""
    from generator.config.load import profile_names

    name = profile or click.prompt("Profile", default=DEFAULT_PROFILE, type=click.Choice(profile_names()), err=True)
    default, fields = partial(_value_at, _data(name, {})), dict(given)
    for path, question in _questions(_data(name, given)):
        if path not in given:
            check = partial(_valid, path, _data(name, fields))
            fields[path] = click.prompt(question, default=default(path), value_proc=check, err=True)
    return name, fields


def _questions(data: Mapping[str, Any]) -> Iterator[tuple[_Path, str]]:
    """Yield the fields that bake asks for, with the questions. `data`: the fields of the profile and of the options."""
    from generator.config.spec import InstallMethod, read_spec

    spec, _ = read_spec(data)
    yield ("name",), "Name of the cluster"
    yield ("nodes",), "Number of nodes"
    yield ("network", "subnet"), "The cluster's network"
    for path in _unnamed_network(data):
        yield path, f"Name of the existing {spec.network.mode}"
    if spec.install.method is InstallMethod.ARCHIVE:
        yield ("install", "archive"), "Path of etcd's release tarball"
        yield ("install", "sha256"), "The tarball's sha256"


def _unnamed_network(data: Mapping[str, Any]) -> dict[_Path, str]:
    """Return the field that must name an existing bridge or network, but is unset, and an example of its value."""
    from generator.config.network_rules import ATTACHMENTS
    from generator.config.spec import read_spec

    network = read_spec(data)[0].network
    field, example = ATTACHMENTS.get(network.mode, ("mode", ""))
    return {("network", field): example} if getattr(network, field) is None else {}


def _data(profile: str, fields: _Fields) -> dict[str, Any]:
    """Return the valid fields of a profile, overridden by `fields`."""
    from generator.config import yaml12
    from generator.config.load import profile_path
    from generator.config.user_input import canonical, put

    value = yaml12.load_file(profile_path(profile)).value
    data = canonical(value if isinstance(value, dict) else {})
    for path, given in fields.items():
        put(data, path, given)
    return data


def _value_at(data: Mapping[str, Any], path: _Path) -> str | None:
    """Return the value of a field as text."""
    from generator.config.fields import plain
    from generator.config.spec import read_spec
    from generator.config.user_input import at

    value = at(plain(read_spec(data)[0]), path)
    return None if value is None else str(value)


def _valid(path: _Path, data: dict[str, Any], answer: str) -> Any:
    """Return an answer as a value of the field at `path`. Raise UsageError, so that click asks again.

    `data`: the fields of the profile, of the options and of the earlier answers.
    """
    from generator.config.rules import check_spec
    from generator.config.spec import read_spec
    from generator.config.user_input import put

    value = int(answer) if path == ("nodes",) and answer.isdecimal() else answer
    put(data, path, value)
    spec, wrong = read_spec(data)
    refused, _ = check_spec(spec, unread=[one.path for one in wrong])
    for where, message, hint in [*(one[:3] for one in wrong), *refused]:
        if where == path:
            raise click.UsageError(f"{message}; {hint}" if hint else message)
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
