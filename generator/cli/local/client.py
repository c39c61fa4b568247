"""`bake client`: certificates and configuration of the applications that use the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from generator.cli.common import (
    ca_passphrase,
    confirm,
    open_cluster,
    print_json,
    refuse_misplaced,
    reporter,
)
from generator.cli.local.suggestions import suggest_client
from generator.cli.options import folder_options, option, passphrase_option, yes_option
from generator.cli.output.table import print_table
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.operations.clients import Added

_KINDS = ("kubernetes", "patroni", "prometheus", "generic")


@bake.group(invoke_without_command=True)
@folder_options
@click.pass_context
def client(ctx: click.Context, /, **options: Any) -> None:
    """List the applications that use the cluster, or give an application its certificate and configuration.

    The column UPDATE shows why the files of an application are not up to date. To update them, run `bake client add`
    again.

    With -o json the output has the key clients. Each client has the keys name, for, dir, days_left (null while your CA
    has not issued the certificate) and outdated (the reason, or null).

    \b
    Examples:
      bake client
      bake client add kube-apiserver --for kubernetes
      bake client remove kube-apiserver
    """
    if ctx.invoked_subcommand is not None:
        refuse_misplaced(ctx)
        return
    _list(options)


@client.command("list")
@folder_options
def list_clients(**options: Any) -> None:
    """List the applications, as `bake client` does.

    \b
    Examples:
      bake client list
      bake client list -o json
    """
    _list(options)


def _list(options: Mapping[str, Any]) -> None:
    from generator.operations.clients import statuses

    found = [*statuses(open_cluster(options), now=datetime.now(UTC))]
    if options["output"] == "json":
        rows = [
            {
                "name": one.name, "for": str(one.kind), "dir": one.folder, "days_left": one.days_left,
                "outdated": one.outdated or None,
            }
            for one in found
        ]  # fmt: skip
        print_json(clients=rows)
    elif not options["quiet"]:
        print_table(
            [
                {
                    "name": one.name, "for": str(one.kind), "dir": one.folder,
                    "days left": "-" if one.days_left is None else str(one.days_left), "update": one.outdated,
                }
                for one in found
            ]
        )  # fmt: skip
        if not found:
            click.echo("no clients; the operator and the users in auth.users have certificates too", err=True)


@client.command()
@click.argument("client_name", metavar="NAME", shell_complete=suggest_client)
@option("--for", "kind", type=click.Choice(_KINDS), help="The kind of application; default: as the last time.")
@option(
    "--dir", "target", metavar="PATH",
    help="The folder with the files on the application's machine; default: as the last time, else by the kind.",
)
@click.option("--renew", is_flag=True, help="Replace the certificate and the key, although they are valid.")
@yes_option
@passphrase_option
@folder_options
def add(client_name: str, kind: str | None, target: str | None, renew: bool, **options: Any) -> None:
    """Give an application a client certificate, and print its configuration.

    bake writes the certificate, the key and the configuration to clients/NAME/ in the cluster's folder. The command
    changes no node. If everything is up to date, the command changes nothing, and prints the configuration again. It
    renews a certificate that expires soon (within 30 days, or within a third of its validity if this is less), or that
    another CA issued. If another --for than the last time replaces the configuration, the command asks for
    confirmation.

    With etcd's authentication, NAME is the etcd user, and the cluster file must give the user its rights. If it does
    not, the command prints what is missing. A client for prometheus needs no etcd user.

    With -o json the output has the keys name, for, folder, dir, files (each with path, mode and secret), changed (paths
    of files), expires, configuration (the printed files by name), steps and note.

    \b
    Examples:
      bake client add kube-apiserver --for kubernetes
      bake client add patroni --for patroni --dir /etc/patroni/tls
      bake client add prometheus --for prometheus
      bake client add app1 --for generic
      bake client add app1 --renew
    """
    from generator.clients.application import Kind
    from generator.operations import clients

    cluster, wanted = open_cluster(options), Kind(kind) if kind else None
    if loss := clients.loss_of(cluster, client_name, wanted, target=target):
        confirm(f"{loss}. This cannot be undone. Continue?", options, [loss])
    passphrase = ca_passphrase(options, cluster.plan.spec, cluster.store)
    done = clients.add(
        cluster.store, client_name, wanted, target=target, renew=renew, now=datetime.now(UTC),
        passphrase=passphrase, report=reporter(options),
    )  # fmt: skip
    _show(done, options)


def _show(done: Added, options: Mapping[str, Any]) -> None:
    from generator.change.spec_changes import file_changes, shown

    app, config = done.app, done.configuration
    if options["output"] == "json":
        files = [{"path": str(one.path), "mode": f"{one.mode:04o}", "secret": one.secret} for one in done.files]
        print_json(
            **{"for": str(app.kind)}, name=app.name, folder=str(app.home), dir=str(app.folder), files=files,
            changed=[path for _, path in done.differences],
            expires=done.credential.certificate.not_valid_after_utc.isoformat(),
            configuration={str(file.path): file.data.decode() for file in config.shown},
            steps=list(config.steps), note=done.note,
        )  # fmt: skip
        return
    if options["quiet"]:
        return
    lines = shown(file_changes(done.differences)) or [f"{app.name}: unchanged"]
    for line in lines:
        click.echo(line, err=True)
    for file in config.shown:
        click.echo(f"# {app.home / file.path}")
        click.echo(file.data.decode())
    for step in config.steps:
        click.echo(f"- {step}", err=True)
    click.echo(f"note: {done.note}", err=True)


@client.command()
@click.argument("client_name", metavar="NAME", shell_complete=suggest_client)
@yes_option
@folder_options
def remove(client_name: str, **options: Any) -> None:
    """Delete the certificate, the key and the configuration of an application from the cluster's folder.

    The certificate stays valid until it expires, because bake makes no revocation lists. With etcd's authentication,
    also remove the user from the cluster file, and run `bake etcdctl user delete NAME`.

    With -o json the output has the key removed (paths of files).

    \b
    Examples:
      bake client remove app1
    """
    from generator.operations import clients

    cluster = open_cluster(options)
    clients.require(cluster.store, client_name)
    confirm("This cannot be undone. Continue?", options, [f"{client_name}: its key is deleted"])
    removed = clients.remove(cluster.store, client_name, report=reporter(options))
    if options["output"] == "json":
        print_json(removed=list(removed))
    elif not options["quiet"]:
        click.echo(f"removed: {', '.join(removed)}")
