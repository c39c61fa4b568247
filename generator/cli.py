"""The commands: the only module that prints and exits. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generator import __version__
from generator.options import SPEC_FLAGS, cluster_options, parameter, spec_options, up_options

if TYPE_CHECKING:
    from generator.profile import Loaded
    from generator.progress import Progress
    from generator.spec import ClusterSpec

FORMAT_VERSION = "1.0"  # of every -o json: the major number changes when a reader would break
EXIT_CODES = """
\b
Exit codes:
  0  ok              3    the cluster is unhealthy
  1  failed          4    timed out
  2  wrong input     130  interrupted
"""

class _Group(click.Group):
    """Bare `bake` bakes; options go behind a command's name."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(EXIT_CODES.replace("\b\n", ""))


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@spec_options
@click.version_option(__version__, prog_name="bake")
@click.pass_context
def bake(ctx: click.Context, /, **options: Any) -> None:
    """Bake NoCloud ISOs that assemble themselves into a TLS-only etcd cluster.

    \b
    Examples:
      bake --nodes 3                     make three ISOs below out/etcd/
      bake --nodes 3 --profile classic   the same, to the letter of the document
      bake check --config cluster.yaml   show what would be made, and every problem
      bake up --nodes 3                  bake, boot, wait and verify
      bake seal                          no node may start a cluster any more
      bake verify                        ask the running cluster everything
      bake destroy                       remove the VMs, disks and network
    """
    if ctx.invoked_subcommand is None:
        _bake(options)
        return
    given = [p for p in options if ctx.get_parameter_source(p) is click.core.ParameterSource.COMMANDLINE]
    if given:
        flag = "--" + given[0].replace("_", "-")
        raise click.UsageError(f"{flag} goes behind the command: bake {ctx.invoked_subcommand} {flag} …")


def _bake(options: Mapping[str, Any]) -> None:
    from generator.bake import bake as run
    from generator.host.store import Store

    loaded = _load(options)
    store = Store(options["out"], loaded.spec.name)
    baked = run(loaded.spec, store, now=datetime.now(UTC), report=_reporter(options))
    nodes = [
        {"name": node.name, "address": str(node.address), "iso": str(baked.folder / node.name / "seed.iso")}
        for node in baked.plan.nodes
    ]
    if options["output"] == "json":
        _print_json(cluster=baked.plan.name, folder=str(baked.folder), nodes=nodes, changed=list(baked.changed))
    elif not options["quiet"]:
        _print_table(nodes)
        click.echo(_next_step(baked.changed), err=True)


def _next_step(changed: tuple[str, ...]) -> str:
    if not changed:
        return "Nothing changed: these are the ISOs of the last bake."
    return (
        "Attach each ISO to its VM as a CD-ROM, and run `bake seal` once the cluster stands; or let `bake up` do both. "
        "They hold private keys."
    )


@bake.command()
@spec_options
def check(**options: Any) -> None:
    """Show the resolved spec, and every problem. Writes nothing.

    \b
    Examples:
      bake check --config cluster.yaml
      bake check --nodes 5 --profile classic -o json
    """
    from generator.bake import check as look
    from generator.host.store import Store

    loaded = _load(options)
    look(loaded.spec, Store(options["out"], loaded.spec.name), now=datetime.now(UTC))
    spec = _spec_data(loaded.spec)
    if options["output"] == "json":
        _print_json(spec=spec, warnings=[_problem_data(warning) for warning in loaded.warnings])
    elif not options["quiet"]:
        from generator import yaml12

        click.echo(yaml12.dump(spec), nl=False)


@bake.command()
@spec_options
@up_options
@click.option("--plain", is_flag=True, help="The base image without its tuning: what figures are compared with.")
def image(plain: bool, **options: Any) -> None:
    """Build or fetch the image that `up` with the same options needs, unless it is there already.

    \b
    Examples:
      bake image
      bake image --image debian-13-genericcloud-amd64.qcow2 -o json
    """
    from generator.cluster import boot_image
    from generator.host.image import default_image

    spec = _load(options).spec
    with _progress((), options) as progress:
        cache, report = options["cache"] or _cache(), progress.line
        built = default_image(cache, report=report, plain=True) if plain else boot_image(spec, cache, report)
    if options["output"] == "json":
        _print_json(**{key: value if value is None else str(value) for key, value in asdict(built).items()})
    elif not options["quiet"]:
        click.echo(built.disk)


@bake.command()
@spec_options
@up_options
def up(**options: Any) -> None:
    """Bake, boot under libvirt, wait until every member votes, and verify.

    Running it again completes what is missing and changes no more.

    \b
    Examples:
      bake up --nodes 3
      bake up --nodes 5 --memory 2048 --connect qemu+ssh://host/system
      bake up --config cluster.yaml --wait 300 -o json
    """
    from generator import cluster
    from generator.host.store import Store
    from generator.plan import name_nodes

    loaded = _load(options)
    store = Store(options["out"], loaded.spec.name)
    boot = cluster.Boot(
        uri=options["connect"], accel=options["accel"], wait=options["wait"], cache=options["cache"] or _cache()
    )
    try:
        with _progress(name_nodes(loaded.spec), options) as progress:
            result = cluster.up(loaded.spec, store, boot, now=datetime.now(UTC), progress=progress)
    except KeyboardInterrupt:
        click.echo("The same command goes on from here; bake destroy removes what is there.", err=True)
        raise
    _show_verification(result, options)
    if options["output"] == "text" and not options["quiet"]:
        click.echo(f"To use it: . {store.folder}/etcdctl.env; etcdctl member list", err=True)


@bake.command()
@cluster_options
def seal(**options: Any) -> None:
    """Withdraw the first node's right to start a cluster; `bake up` does it by itself.

    Run it as soon as the cluster stands. From then on a first node that lost its disk joins the others, and never
    starts a second cluster. Its VM's CD is exchanged, also while it runs. To undo it, for a cluster that is really
    lost: delete the file `sealed` in the cluster's folder, and bake again.

    \b
    Examples:
      bake seal
      bake seal --name prod --connect qemu+ssh://host/system
    """
    from generator import cluster

    opened = _open(options)
    with _progress((), options) as progress:
        done = cluster.seal(opened, uri=options["connect"], now=datetime.now(UTC), report=progress.line)
    for warning in done.warnings if not options["quiet"] else ():
        click.echo(f"warning: {warning}", err=True)
    if options["output"] == "json":
        _print_json(**asdict(done))
    elif not options["quiet"]:
        text = f"{opened.plan.name} is sealed" + ("" if done.files or done.vm else " already")
        click.echo(f"{text}; {done.node}'s CD was exchanged" if done.vm else text)


@bake.command()
@cluster_options
def status(**options: Any) -> None:
    """Show each node: its VM, and what etcd says of it; then what is left to do.

    \b
    Examples:
      bake status
      bake status --name prod -o json
    """
    from generator import cluster

    seen = cluster.status(_open(options), uri=options["connect"])
    if options["output"] == "json":
        _print_json(nodes=seen.rows, sealed=seen.sealed, tasks=[asdict(task) for task in seen.tasks])
    elif not options["quiet"]:
        _print_table(seen.rows)
        click.echo(f"\nsealed: {'yes' if seen.sealed else 'no'}")
        _print_table([{"to do": task.what, "remedy": task.remedy} for task in seen.tasks])


@bake.command()
@cluster_options
def verify(**options: Any) -> None:
    """Check the running cluster: members, health, keys, every member's writes and reads, refused strangers.

    \b
    Examples:
      bake verify
      bake verify -o json
    """
    from generator import cluster

    with _progress((), options) as progress:
        result = cluster.verify_cluster(_open(options), now=datetime.now(UTC), report=progress.line)
    _show_verification(result, options)


@bake.command()
@click.argument("node")
@cluster_options
def console(node: str, **options: Any) -> None:
    """Connect to a node's serial console. Ctrl-] leaves it; without a terminal it follows the log.

    \b
    Examples:
      bake console etcd1
    """
    from generator import cluster

    cluster.console(_open(options), node, uri=options["connect"])


@bake.command()
@cluster_options
def down(**options: Any) -> None:
    """Shut the VMs down. `bake up` starts them again.

    \b
    Examples:
      bake down
    """
    from generator import cluster

    with _progress((), options) as progress:
        stopped = cluster.down(_open(options), uri=options["connect"], progress=progress)
    _show_names("stopped", stopped, options)


@bake.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_options
def destroy(yes: bool, **options: Any) -> None:
    """Remove the cluster's VMs, disks and network, and nothing that is not its own. Keeps the baked files.

    \b
    Examples:
      bake destroy
      bake destroy --name prod --yes
    """
    from generator import cluster
    from generator.host.store import Store

    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove the VMs and disks of the cluster {options['name']!r}, with all its data?", abort=True)
    removed = cluster.destroy(Store(options["out"], options["name"]), uri=options["connect"])
    _show_names("removed", removed, options)


def _open(options: Mapping[str, Any]) -> Any:
    from generator.cluster import open_cluster
    from generator.host.store import Store

    return open_cluster(Store(options["out"], options["name"]))


def _cache() -> Path:
    from generator.host.image import cache_folder

    return cache_folder()


def _progress(nodes: Iterable[str], options: Mapping[str, Any]) -> AbstractContextManager[Progress]:
    from generator.progress import show_progress

    return show_progress(nodes, quiet=options["quiet"])


def _show_verification(result: Any, options: Mapping[str, Any]) -> None:
    from generator.checks import as_rows
    from generator.errors import UnhealthyError
    from generator.verify import verification_data

    if options["output"] == "json":
        _print_json(**verification_data(result))
    elif not options["quiet"]:
        _print_table(as_rows(result.checks))
    if not result.healthy:
        failed = ", ".join(check.name for check in result.failed)
        hint = result.failed[0].remedy if len(result.failed) == 1 else "bake status; bake console NODE"
        raise UnhealthyError(f"the cluster is not healthy: {failed}", hint=hint)


def _show_names(verb: str, names: Iterable[str], options: Mapping[str, Any]) -> None:
    names = list(names)
    if options["output"] == "json":
        _print_json(**{verb: names})
    elif not options["quiet"]:
        click.echo(f"{verb}: {', '.join(names) or 'nothing; there was nothing to do'}")


def _spec_data(spec: ClusterSpec) -> dict[str, Any]:
    from generator.fields import plain

    data: dict[str, Any] = plain(spec)
    return data


def _problem_data(problem: Any) -> dict[str, Any]:
    return {"where": problem.where, "message": problem.message, "hint": problem.hint}


def _load(options: Mapping[str, Any]) -> Loaded:
    from generator.profile import load

    flags = {
        flag: (path, options[parameter(flag)])
        for flag, (path, _, _) in SPEC_FLAGS.items()
        if options.get(parameter(flag)) is not None
    }
    loaded = load(profile=options["profile"], config=options["config"], flags=flags)
    for warning in loaded.warnings if not options["quiet"] else ():
        click.echo(f"warning: {warning}", err=True)
    return loaded


def _reporter(options: Mapping[str, Any]) -> Callable[[str], None]:
    def report(line: str) -> None:
        if not options["quiet"]:
            click.echo(line, err=True)

    return report


def _print_json(**values: Any) -> None:
    click.echo(json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2))


def _print_table(rows: list[dict[str, str]]) -> None:
    if not rows:
        return
    columns = list(rows[0])
    widths = [max(len(column), *(len(row[column]) for row in rows)) for column in columns]
    for cells in ([column.upper() for column in columns], *([row[column] for column in columns] for row in rows)):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; every error becomes one message and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _interrupt)
    os.umask(0o077)
    sys.exit(_run())


def _run() -> int:
    from generator.errors import BakeError, InputError

    try:
        bake.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        return 130
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        return 2
    except BakeError as error:
        if {"-v", "--verbose"} & set(sys.argv):
            import traceback

            click.echo("".join(traceback.format_exception(error)), err=True)
        for problem in error.problems if isinstance(error, InputError) else (error,):
            click.echo(f"error: {problem}", err=True)
        return error.exit_code
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    main()
