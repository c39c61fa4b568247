"""The commands that need no VM: `bake` itself, `check` and `image`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from generator import __version__
from generator.cli.common import (
    bake_agreed,
    ca_passphrase,
    cache,
    load,
    print_json,
    print_table,
    progress_of,
    refuse_misplaced,
    reporter,
    show_changes,
)
from generator.cli.options import spec_options, up_options, yes_option
from generator.layout import SEED_ISO

if TYPE_CHECKING:
    from generator.config.load import Loaded
    from generator.config.spec import ClusterSpec
    from generator.operations.bake import Agreed, Baked
    from generator.operations.changes import Change

EXIT_CODES = """
\b
Exit codes:
  0  ok              3    cluster unhealthy, or you have to act
  1  failed, or no   4    timed out
  2  wrong input     130  interrupted
"""


class _Group(click.Group):
    """The group `bake`, which bakes without a subcommand. It turns unexpected libvirt errors into messages."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            if type(error).__module__ != "libvirt":  # an import of libvirt would slow down every command
                raise
            from generator.vm.connection import explain

            raise explain(error) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(EXIT_CODES.replace("\b\n", ""))


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@spec_options
@yes_option
@click.version_option(__version__, prog_name="bake")
@click.pass_context
def bake(ctx: click.Context, /, **options: Any) -> None:
    """Bake NoCloud ISOs whose nodes form a TLS-only etcd cluster.

    For an existing cluster, a command without options changes nothing. A flag changes only its own field; --config and
    --profile replace everything that an earlier file or profile set.

    \b
    Examples:
      bake --nodes 3                     make three ISOs below out/etcd/
      bake --nodes 3 --profile classic   exactly as in the manual procedure
      bake --nodes 5                     later: add two nodes, change nothing else
      bake check --config cluster.yaml   show the resolved spec and every problem
      bake up --nodes 3                  bake, boot, wait and verify
      bake seal                          remove the bootstrap permit
      bake verify                        check the running cluster
      bake audit                         audit it against the CIS benchmark
      bake certs rotate                  renew the certificates of running nodes
      bake destroy                       remove the VMs, disks and network
    """
    if ctx.invoked_subcommand is None:
        _bake(options)
    else:
        refuse_misplaced(ctx)


def _bake(options: Mapping[str, Any]) -> None:
    baked, changes = bake_agreed(options, partial(_make, options))
    nodes = [
        {"name": node.name, "address": str(node.address), "iso": str(baked.folder / node.name / SEED_ISO)}
        for node in baked.plan.nodes
    ]
    if options["output"] == "json":
        print_json(
            cluster=baked.plan.name, folder=str(baked.folder), nodes=nodes, changed=list(baked.changed),
            changes=[change.data for change in changes],
        )  # fmt: skip
    elif not options["quiet"]:
        print_table(nodes)
        click.echo(_next_step(baked), err=True)


def _make(
    options: Mapping[str, Any], loaded: Loaded, agreed: Agreed, changes: list[Change]
) -> tuple[Baked, list[Change]]:
    from generator.operations.bake import bake as run
    from generator.store.folder import Store

    store = Store(options["out"], loaded.spec.name)
    passphrase = ca_passphrase(options, loaded.spec, store)
    report = reporter(options)
    return run(
        loaded.spec, store, now=datetime.now(UTC), report=report, passphrase=passphrase, agreed=agreed
    ), changes


def _next_step(baked: Baked) -> str:
    from generator.layout import SEALED

    if not baked.differences:
        return "Nothing changed: these are the ISOs of the last bake."
    if (baked.folder / SEALED).exists():
        return (
            "Put each node's new ISO into its drive. A running node applies new certificates immediately, and other "
            "changes at its next restart: restart one node after the other."
        )
    return (
        "Attach each ISO to its VM as a CD-ROM, and run `bake seal` once the cluster runs; or let `bake up` do both. "
        "The ISOs contain private keys."
    )


@bake.command()
@spec_options
def check(**options: Any) -> None:
    """Show the resolved spec, every problem, and what a bake would change in an existing cluster. Writes nothing.

    \b
    Examples:
      bake check --config cluster.yaml
      bake check --nodes 5 --profile classic -o json
    """
    loaded = load(options)
    from generator.operations.bake import check as look
    from generator.operations.changes import compare
    from generator.store.folder import Store

    store = Store(options["out"], loaded.spec.name)
    look(loaded.spec, store, now=datetime.now(UTC), passphrase=ca_passphrase(options, loaded.spec, store))
    spec, changes = _spec_data(loaded.spec), compare(loaded.existing, loaded.spec)
    show_changes(changes, options, reporter(options))
    if options["output"] == "json":
        warnings = [_problem_data(warning) for warning in loaded.warnings]
        print_json(spec=spec, warnings=warnings, changes=[change.data for change in changes])
    elif not options["quiet"]:
        from generator.config import yaml12

        click.echo(yaml12.dump(spec), nl=False)


@bake.command()
@spec_options
@up_options
@click.option("-y", "--yes", is_flag=True, hidden=True)  # `scripts/bake up` passes on the options of `up`
@click.option("--plain", is_flag=True, help="The base image without its tuning, for comparing measurements.")
def image(plain: bool, **options: Any) -> None:
    """Build or download the image that `bake up` with the same options needs, unless it is in the cache.

    \b
    Examples:
      bake image
      bake image --image debian-13-genericcloud-amd64.qcow2 -o json
    """
    from generator.image.base import default_image
    from generator.operations.up import boot_image

    spec = load(options).spec
    with progress_of((), options) as progress:
        folder, report = options["cache"] or cache(), progress.line
        built = default_image(folder, report=report, plain=True) if plain else boot_image(spec, folder, report)
    if options["output"] == "json":
        print_json(**{key: value if value is None else str(value) for key, value in asdict(built).items()})
    elif not options["quiet"]:
        click.echo(built.disk)


def _spec_data(spec: ClusterSpec) -> dict[str, Any]:
    from generator.config.fields import plain

    data: dict[str, Any] = plain(spec)
    return data


def _problem_data(problem: Any) -> dict[str, Any]:
    return {"where": problem.where, "message": problem.message, "hint": problem.hint}


