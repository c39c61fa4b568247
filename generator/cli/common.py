"""Functions that the commands share: open a cluster, load a spec, ask for confirmation, print results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from generator.cli.options import SPEC_FLAGS, parameter
from generator.cli.output.diagnostics import note_problem, note_warning, set_data
from generator.cli.output.table import print_table

if TYPE_CHECKING:
    from generator.change.spec_changes import Change
    from generator.config.load import Loaded
    from generator.config.spec import ClusterSpec
    from generator.errors import Problem
    from generator.operations.baked_cluster import Cluster
    from generator.progress import Progress
    from generator.store.folder import Store

T = TypeVar("T")


def refuse_misplaced(ctx: click.Context) -> None:
    """Raise UsageError for an option before the subcommand, because the subcommand would ignore the option."""
    subcommand = ctx.command.get_command(ctx, ctx.invoked_subcommand or "")  # type: ignore[attr-defined]
    known = {parameter.name for parameter in subcommand.params}
    words = ["bake", *([] if ctx.parent is None else [str(ctx.info_name)]), str(ctx.invoked_subcommand)]
    if isinstance(subcommand, click.Group) and not subcommand.invoke_without_command:
        words.append(subcommand.subcommand_metavar.split()[0])
    command = " ".join(words)
    for given in ctx.command.params:
        flag = max(given.opts, key=len)
        if ctx.get_parameter_source(str(given.name)) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if given.name not in known:
            raise click.UsageError(f"{flag} is not an option of {command}", ctx)
        value = "" if getattr(given, "is_flag", False) else " …"
        raise click.UsageError(f"put {flag} after the command: {command} {flag}{value}", ctx)


def open_cluster(options: Mapping[str, Any]) -> Any:
    from generator.operations import baked_cluster
    from generator.store.folder import Store

    return baked_cluster.open_cluster(Store(options["out"], options["name"]))


def changing(cluster: Cluster, command: str) -> AbstractContextManager[None]:
    """Hold the lock of the commands that change a running cluster. `command`: what the user called."""
    from generator.store.operation_lock import operation_lock

    return operation_lock(cluster.store, command)


def image_cache(options: Mapping[str, Any]) -> Path:
    from generator.image.base import cache_folder

    return options.get("cache") or cache_folder()


@contextmanager
def progress_of(nodes: Iterable[str], options: Mapping[str, Any]) -> Iterator[Progress]:
    from generator.cli.progress import show_progress

    with show_progress(nodes, quiet=options["quiet"]) as progress:
        yield _Noting(progress)


class _Noting(NamedTuple):
    """Passes progress on, and notes the warnings in it."""

    progress: Progress

    def line(self, text: str) -> None:
        note_warning(text)
        self.progress.line(text)

    def event(self, node: str, phase: str, detail: str) -> None:
        self.progress.event(node, phase, detail)


def show_verification(result: Any, options: Mapping[str, Any], **more: Any) -> None:
    from generator.errors import UnhealthyError
    from generator.health import as_rows
    from generator.operations.hints import command
    from generator.operations.verify import verification_data
    from generator.store.folder import Store

    if options["output"] == "json":
        print_json(**verification_data(result), **more)
    elif not options["quiet"]:
        print_table(as_rows(result.checks))
    if not result.healthy:
        parts = [("the cluster is not healthy", result.failed), ("could not check", result.skipped)]
        text = "; ".join(f"{word}: {', '.join(check.name for check in found)}" for word, found in parts if found)
        decisive = result.failed or result.skipped
        if len(decisive) == 1:
            raise UnhealthyError(text, hint=decisive[0].remedy)
        store = Store(options["out"], result.cluster)
        raise UnhealthyError(text, hint=f"run {command(store, 'status')} or {command(store, 'console NODE')}")


def show_names(verb: str, names: Iterable[str], options: Mapping[str, Any]) -> None:
    names = list(names)
    if options["output"] == "json":
        print_json(**{verb: names})
    elif not options["quiet"]:
        click.echo(f"{verb}: {', '.join(names) or 'nothing'}")


def load(options: Mapping[str, Any]) -> Loaded:
    """Load the spec: the options override the values of the existing cluster. Print warnings.

    `options["fields"]`: values that a command has computed from the cluster with the digest `options["based_on"]`,
    because of the user's option `options["reason"]`.
    Raise StaleError if the cluster has changed since then.
    """
    from generator.config import load
    from generator.errors import StaleError
    from generator.store.existing_cluster import find_existing

    flags = {
        flag: (path, options[parameter(flag)])
        for flag, (path, _, _) in SPEC_FLAGS.items()
        if options.get(parameter(flag)) is not None
    }
    flags |= {f"{options['reason']} ({field})": ((field,), value) for field, value in options.get("fields", {}).items()}
    find = partial(find_existing, options["out"])
    loaded = load.load(
        profile=options["profile"], config=options["config"], flags=flags, find=find, folder=Path.cwd()
    )
    if options.get("based_on", loaded.digest) != loaded.digest:
        raise StaleError("another command has just changed this cluster", hint="run the same command again")
    loaded = loaded._replace(warnings=(*loaded.warnings, *_image_warning(loaded.spec.vm.image)))
    warn(loaded.warnings, options)
    if not options["quiet"] and (kept := load.kept_fields(loaded)):
        click.echo(f"note: the cluster keeps values that differ from bake's new defaults: {'; '.join(kept)}", err=True)
    return loaded


def _image_warning(image: str | None) -> Iterator[Problem]:
    if image is None:
        return
    from generator.errors import Problem
    from generator.image.custom import missing_image

    if missing := missing_image(image):
        yield Problem("vm.image", missing, "check the path; `bake up` and `bake export` need the image")


def show_changes(changes: Iterable[Change], options: Mapping[str, Any], report: Callable[[str], None]) -> None:
    from generator.change.spec_changes import shown

    for line in shown(changes) if not options["quiet"] else ():
        report(line)


def agree(loaded: Loaded, options: Mapping[str, Any]) -> list[Change]:
    """Show and return the changes. Ask for confirmation if a change destroys something.

    Raise InputError for a change that no running node can apply.
    """
    from generator.change.spec_changes import compare, losses, shown
    from generator.store.existing_cluster import cluster_names

    others = cluster_names(options["out"])
    if others and not loaded.existing:
        hint = f"to change an existing cluster, add --name with one of: {', '.join(others)}"
        reporter(options)(f"{loaded.spec.name} is a new cluster; {hint}")
    changes = list(compare(loaded.existing, loaded.spec))
    lost = losses(changes)
    for line in shown(changes) if lost or not options["quiet"] else ():
        click.echo(line, err=True)
    refuse(changes)
    if lost:
        confirm("This cannot be undone. Continue?", options, lost)
    return changes


def refuse(changes: Iterable[Change]) -> None:
    """Raise InputError for changes that no running node can apply."""
    from generator.change.spec_changes import refused
    from generator.errors import InputError

    if problems := refused(changes, by_bake=True):
        raise InputError(problems)


def bake_agreed(options: Mapping[str, Any], run: Callable[..., T]) -> tuple[T, list[Change]]:
    """Load the spec, ask for confirmation, and call `run`. Return the result of `run`, and the changes.

    `run` has the parameters `spec`, `store`, `passphrase` and `agreed` of `operations.bake.bake`. Start over if another
    command changes the cluster at the same time.
    """
    from generator.errors import StaleError
    from generator.operations.bake import Agreed
    from generator.store.folder import Store

    while True:
        loaded = load(options)
        changes = agree(loaded, options)
        announce = partial(_announce, options, changes if loaded.existing else None)
        agreed = Agreed(user_input=loaded.user_input, digest=loaded.digest, announce=announce)
        store = Store(options["out"], loaded.spec.name)
        passphrase = ca_passphrase(options, loaded.spec, store)
        try:
            return run(loaded.spec, store, passphrase=passphrase, agreed=agreed), changes
        except StaleError as error:
            reporter(options)(f"{error.message}: starting over")


def _announce(
    options: Mapping[str, Any], changes: list[Change] | None, differences: Iterable[tuple[str, str]]
) -> None:
    """Show the files that change, and add them to `changes`. If `changes` is None, do nothing."""
    from generator.change.spec_changes import file_changes

    if changes is not None:
        files = file_changes(differences)
        show_changes(files, options, reporter(options))
        changes += files


def announce_rotation(
    store: Store,
    spec: ClusterSpec,
    options: Mapping[str, Any],
    changes: list[Change],
    differences: Iterable[tuple[str, str]],
) -> None:
    """Show the files and fields that a renewal of certificates or a CA change modifies, and add them to `changes`."""
    from generator.change.spec_changes import compare
    from generator.store.existing_cluster import load_existing

    fields = compare(load_existing(store), spec)
    show_changes(fields, options, reporter(options))
    changes += fields
    _announce(options, changes, differences)


def confirm(question: str, options: Mapping[str, Any], losses: Iterable[str]) -> None:
    """Ask for confirmation on the terminal, unless --yes is given.

    Raise DeclinedError if the user answers no, and InputError if there is no terminal.
    """
    from generator.errors import DeclinedError, InputError

    if options["yes"]:
        return
    if not sys.stdin.isatty():
        text = f"this cannot be undone: {'; '.join(losses)}"
        raise InputError.one("", text, "nothing was done; add --yes to confirm")
    if not click.confirm(question, err=True):
        raise DeclinedError("nothing was done")


def ca_passphrase(options: Mapping[str, Any], spec: ClusterSpec, store: Store) -> bytes | None:
    """Read the CA key's passphrase from the given file, or from the terminal if the key is encrypted."""
    from generator.store.cas import has_encrypted_key
    from generator.store.existing_keys import read_passphrase

    if path := options["ca_passphrase_file"]:
        return read_passphrase(path)
    if sys.stdin.isatty() and has_encrypted_key(store, spec):
        return bytes(click.prompt("Passphrase of the CA's key", hide_input=True, err=True), "utf-8")
    return None


def warn(warnings: Iterable[Problem], options: Mapping[str, Any]) -> None:
    """Print warnings about the input."""
    for warning in warnings:
        note_problem(warning.where, warning.message, warning.hint, severity="warning")
        if not options["quiet"]:
            click.echo(f"warning: {warning}", err=True)


def reporter(options: Mapping[str, Any]) -> Callable[[str], None]:
    def report(line: str) -> None:
        note_warning(line)
        if not options["quiet"]:
            click.echo(line, err=True)

    return report


def print_json(**values: Any) -> None:
    """Print the output of -o json when the command ends. See `diagnostics`."""
    set_data(values)
