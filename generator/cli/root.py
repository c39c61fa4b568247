"""The commands `bake`, `bake check` and `bake image`, which need no VM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generator import __version__
from generator.cli import engines
from generator.cli.common import (
    bake_agreed,
    ca_passphrase,
    image_cache,
    load,
    print_json,
    progress_of,
    refuse,
    refuse_misplaced,
    reporter,
    show_changes,
)
from generator.cli.options import option, refresh_option, shows_only, spec_options, up_options, yes_option
from generator.cli.output.grouped_help import Group
from generator.cli.output.table import print_table
from generator.layout import SEED_ISO

if TYPE_CHECKING:
    from generator.operations.bake import Baked

EXIT_CODES = {
    "0": "ok",
    "1": "error, or you answered no",
    "2": "wrong input",
    "3": "the cluster is not healthy, or you have to do something",
    "4": "timed out",
    "5": "`bake plan --detailed-exitcode`: there is something to do",
    "130": "interrupted",
    "141": "the program that read the output ended first",
}

# The subcommands of each module below `generator.cli`, except this module.
_MODULES = {
    "certs": ("certs",),
    "change": ("plan", "apply", "replace"),
    "export": ("export",),
    "inside.console": ("console",),
    "inside.etcdctl": ("etcdctl",),
    "inside.logs": ("logs",),
    "local.client": ("client",),
    "local.cluster_file": ("init", "schema"),
    "local.completion": ("completion",),
    "local.man": ("man",),
    "local.show": ("show",),
    "maintenance": ("snapshot", "defrag", "alarm", "move-leader"),
    "recovery": ("restore", "backup", "recover"),
    "reporting.report": ("report",),
    "reporting.timeline": ("timeline",),
    "running_cluster": ("up", "seal", "status", "verify", "audit", "down", "destroy"),
    "upgrade": ("upgrade",),
}


class _Commands(MutableMapping[str, click.Command]):
    """The subcommands by name. A subcommand's module is imported when the subcommand is first read."""

    def __init__(self) -> None:
        self._modules = {name: module for module, names in _MODULES.items() for name in names}
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            import_module(f"generator.cli.{self._modules[name]}")  # adds its subcommands to this mapping
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._modules, **self._loaded})

    def __len__(self) -> int:
        return len({**self._modules, **self._loaded})


class _Group(Group):
    """The command `bake`. Without a subcommand, create the cluster's ISOs. Print only the message of libvirt errors."""

    sections: Mapping[str, tuple[str, ...]] = {
        "Prepare": ("init", "schema", "check", "show", "image", "export"),
        "Run": ("up", "status", "verify", "audit", "seal", "down", "destroy"),
        "Look": ("report", "timeline", "logs", "console", "etcdctl"),
        "Change": ("plan", "apply", "replace", "upgrade", "certs", "client"),
        "Save and restore": ("snapshot", "restore", "backup", "recover"),
        "Maintain": ("defrag", "alarm", "move-leader"),
        "Shell": ("completion",),
    }

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__module__ != "libvirt":  # for isinstance, bake would import libvirt, which is slow
                raise
            from generator.vm.connection import explain

            raise explain(error) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write_dl(list(EXIT_CODES.items()))


@click.group(
    cls=_Group,
    commands=_Commands(),
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@spec_options
@yes_option
@click.version_option(__version__, prog_name="bake")
@click.pass_context
def bake(ctx: click.Context, /, **options: Any) -> None:
    """Create a NoCloud ISO for each VM of an etcd cluster. The etcd cluster accepts only TLS connections.

    Without an option about the cluster and without a cluster in out/etcd, the command prints this help and writes
    nothing. For an existing cluster, `bake` without options keeps the configuration. A flag changes only the field that
    it names.
    The option --config replaces all values that an earlier cluster file set. The option --profile replaces all values
    that an earlier profile set.

    \b
    Examples:
      bake --nodes 3                     write three ISOs below out/etcd/
      bake --nodes 3 --profile classic   configure etcd exactly as in the manual procedure
      bake --nodes 5                     write ISOs for two more nodes; bake apply adds the nodes
      bake check --config cluster.yaml   show all fields and every problem, write nothing
      bake up --nodes 3                  bake, boot the nodes, wait until they run etcd, and verify
      bake seal                          remove the bootstrap permit
      bake verify                        check the running cluster
      bake audit                         audit the running cluster against the CIS benchmark
      bake certs rotate                  renew the certificates of running nodes
      bake destroy                       remove the VMs, disks and network
    """
    if ctx.invoked_subcommand is not None:
        refuse_misplaced(ctx)
    else:
        from generator.cli.local.no_input import refuse_without_cluster

        refuse_without_cluster(ctx, options)
        _bake(options)


def _bake(options: Mapping[str, Any]) -> None:
    from generator.cli.output.next_step import next_steps
    from generator.cli.progress import show_work
    from generator.operations.bake import bake as run
    from generator.store.folder import Store

    def bake_now(*words: Any, **agreed: Any) -> Baked:
        with show_work(quiet=options["quiet"]):
            return run(*words, now=datetime.now(UTC), report=reporter(options), **agreed)

    baked, changes = bake_agreed(options, bake_now)
    nodes = [
        {
            "name": node.name, "address": str(node.address), "mac": node.mac,
            **({"host": node.host} if node.host else {}), "iso": str(baked.folder / node.name / SEED_ISO),
        }
        for node in baked.plan.nodes
    ]  # fmt: skip
    steps = next_steps(baked, Store(options["out"], baked.plan.name), changes)
    if options["output"] == "json":
        print_json(
            cluster=baked.plan.name, folder=str(baked.folder), nodes=nodes, changed=list(baked.changed),
            changes=[change.data for change in changes], next=[step.command for step in steps if step.command],
        )  # fmt: skip
    elif not options["quiet"]:
        print_table(nodes)
        for line in (line for step in steps for line in step.lines):
            click.echo(line, err=True)


@bake.command()
@spec_options
def check(**options: Any) -> None:
    """Show all fields of the cluster, every problem, and the changes to an existing cluster. Write nothing.

    \b
    Examples:
      bake check --config cluster.yaml
      bake check --nodes 5 --profile classic -o json
    """
    from generator.change.spec_changes import compare
    from generator.config.fields import plain
    from generator.operations.bake import check as look
    from generator.store.folder import Store

    loaded = load(options)
    store = Store(options["out"], loaded.spec.name)
    look(loaded.spec, store, now=datetime.now(UTC), passphrase=ca_passphrase(options, loaded.spec, store))
    spec, changes = plain(loaded.spec), compare(loaded.existing, loaded.spec)
    show_changes(changes, options, reporter(options))
    refuse(changes)
    if options["output"] == "json":
        warnings = [warning._asdict() for warning in loaded.warnings]
        print_json(spec=spec, warnings=warnings, changes=[change.data for change in changes])
    elif not options["quiet"]:
        from generator.config import yaml12

        click.echo(yaml12.dump(spec), nl=False)


@bake.command()
@shows_only(
    "--profile", "--config", "--name", "--image", "--sha256", "--connect", "--cache", "--out", "--plain", "--refresh"
)
@spec_options
@up_options
@click.option("-y", "--yes", is_flag=True, hidden=True)  # `scripts/bake up --yes` runs `bake image --yes`
@click.option("--plain", is_flag=True, help="Build the base image without tuning, to measure the effect of the tuning.")
@refresh_option
@option("--to", hidden=True)  # `scripts/bake upgrade --to IMAGE` runs `bake image --to IMAGE`
def image(plain: bool, refresh: bool, to: str | None, **options: Any) -> None:
    """Build or download the image that `bake up` needs, unless the cache has the image.

    The base image contains the newest packages of the day on which it was built. To build the image again, use
    --refresh. Then the command removes older images from the cache. It keeps the previous image and the images of VMs.
    Existing nodes keep their image until `bake upgrade`.

    Pass the same options to `bake image` and to `bake up`. With -o json the output has the keys disk, digest, built
    (when bake built the image), age_days, versions (of etcd, kernel, cloud-init and systemd) and removed, among others.

    \b
    Examples:
      bake image
      bake image --refresh
      bake image --image debian-13-genericcloud-amd64.qcow2 -o json
    """
    from generator.image.age import days_old
    from generator.image.base import default_image
    from generator.operations.running.cleaning import clean_cache
    from generator.operations.up import boot_image

    spec, removed, now = load(options).spec, [], datetime.now(UTC)
    with progress_of((), options) as progress:
        folder, report = image_cache(options), progress.line
        if plain:
            built = default_image(folder, report=report, plain=True, refresh=refresh)
        else:
            built = boot_image(spec, folder, report, refresh=refresh)
        if refresh:
            removed = clean_cache(folder, partial(engines.connect, options), now=now, report=report)
    age = days_old(built.built, now=now)
    if options["output"] == "json":
        facts = {key: str(value) if isinstance(value, Path | int) else value for key, value in asdict(built).items()}
        print_json(**facts, age_days=age, removed=removed)
    elif not options["quiet"]:
        click.echo(built.disk)
        if built.versions:
            parts = ", ".join(f"{name} {version}" for name, version in built.versions.items())
            click.echo(f"built {built.built} ({age} days ago): {parts}", err=True)
