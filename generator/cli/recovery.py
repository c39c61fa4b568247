"""`bake restore`, `bake backup` and `bake recover`: start a cluster anew from what was saved."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.common import (
    ca_passphrase,
    confirm,
    image_cache,
    open_cluster,
    print_json,
    progress_of,
    reporter,
    show_verification,
)
from generator.cli.options import (
    folder_options,
    name_option,
    option,
    out_option,
    output_option,
    passphrase_option,
    quiet_option,
    up_options,
    yes_option,
)
from generator.cli.reach import open_running
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.operations.baked_cluster import Cluster
    from generator.operations.recovery.restore import Loss
    from generator.operations.recovery.snapshot_source import Source

_file = click.Path(path_type=Path)
backup_passphrase_option = option(
    "--passphrase-file", type=_file, help="A file with the backup's passphrase on its first line; default: ask."
)


@bake.command()
@click.argument("file", type=_file)
@yes_option
@name_option
@up_options
@passphrase_option
@out_option
@output_option
@quiet_option
def restore(file: Path, **options: Any) -> None:
    """Start the cluster anew, with new VMs and the data of the snapshot FILE.

    FILE is a snapshot of `bake snapshot` or `etcdctl snapshot save`. The command checks FILE before it changes
    anything: the SHA-256, the description in FILE.json if there is one, and the version of etcd. The cluster's folder
    must exist. If it is lost, write it again with `bake recover`.

    The cluster gets new member ids, so members of the lost cluster cannot connect to it. The revision increases by
    1,000,000,000, and all older revisions count as compacted. So clients that watch keys, such as Kubernetes, notice
    that they must read everything again.

    If VMs or disks of the cluster exist, the command lists them and asks for confirmation, because it deletes them with
    their data. It asks too if FILE is of another cluster, or was saved without a quorum. Without a terminal, it needs
    --yes. If a member answers whose VM bake does not find, the command changes nothing.

    After an interruption, run `bake up` to finish. If old VMs are left, `bake up` changes nothing and prints the
    commands with which to go on or to keep the old VMs.

    \b
    Examples:
      bake restore out/etcd.snapshots/etcd-20260801T020000Z.db
      bake restore /backup/etcd.db --name prod --yes
    """
    from generator.operations.baked_cluster import open_cluster as reopen
    from generator.operations.recovery.pending import pending_snapshot
    from generator.operations.recovery.restore import Restore
    from generator.operations.recovery.snapshot_source import check_users, read_source
    from generator.operations.verify import verify_changed

    cluster, source = open_running(options), read_source(file.absolute())
    check_users(source, cluster.plan)
    with progress_of([node.name for node in cluster.plan.nodes], options) as progress:
        _check_version(source, cluster, options, progress.line)
        passphrase = ca_passphrase(options, cluster.plan.spec, cluster.store)
        engine = engines.make_engine(options, progress.line, cluster)
        run = Restore(
            cluster=cluster, source=source, engine=engine, wait=options["wait"], progress=progress,
            passphrase=passphrase,
        )  # fmt: skip
        try:
            run.run(lambda loss: _agree_to_lose(loss, source, cluster, options))
        except KeyboardInterrupt:
            from generator.operations.hints import command

            if pending_snapshot(cluster):
                click.echo(f"To finish the restore, run `{command(cluster.store, 'up')}`.", err=True)
            raise
        result = verify_changed(reopen(cluster.store), report=progress.line)
    snapshot = {"file": str(source.path), "revision": source.facts.revision, "etcd_version": source.etcd_version}
    show_verification(result, options, snapshot=snapshot)


def _check_version(source: Source, cluster: Cluster, options: Mapping[str, Any], report: Any) -> None:
    from generator.operations.recovery.snapshot_source import check_version, etcd_version
    from generator.operations.running.chosen_image import new_disk_image

    image = new_disk_image(cluster, image_cache(options), report)
    check_version(source, etcd_version(cluster.plan.spec, image))


def _agree_to_lose(loss: Loss, source: Source, cluster: Cluster, options: Mapping[str, Any]) -> None:
    """List what the restore deletes, and ask for confirmation."""
    report = reporter({"quiet": options["quiet"] and options["yes"]})
    for line in loss.machines:
        report(f"- {line}")
    for line in loss.doubts:
        report(f"WARNING: {line}")
    name = cluster.plan.name
    what = f"Delete these VMs and disks of the cluster {name!r}, and" if loss.machines else f"The cluster {name!r}:"
    lost = [*(f"{line} is deleted" for line in loss.machines), *loss.doubts]
    confirm(f"{what} start anew with revision {source.facts.revision} of {source.path.name}?", options, lost)


@bake.command()
@click.argument("file", type=_file)
@backup_passphrase_option
@folder_options
def backup(file: Path, passphrase_file: Path | None, **options: Any) -> None:
    """Save the cluster's folder in FILE, encrypted with a passphrase.

    The folder has what you must not lose: the CA and its key, the nodes' keys, the specification and the cluster's
    identity. FILE has no data of etcd: for that, use `bake snapshot`. Keep the passphrase in another place than FILE.

    FILE has the format age (age-encryption.org), so you can also open it without bake: age --decrypt FILE | tar -xz.
    The command overwrites no file. FILE gets the mode 0600.

    With -o json the output has the keys file, cluster, size (in bytes) and files (a number).

    \b
    Examples:
      bake backup /backup/etcd.age
      bake backup /backup/etcd.age --passphrase-file /root/passphrase --quiet
    """
    from generator.operations.recovery.backup import back_up

    cluster = open_cluster(options)
    passphrase = _passphrase(passphrase_file, new=True)
    done = back_up(cluster, file, passphrase, now=datetime.now(UTC), report=reporter(options))
    if options["output"] == "json":
        print_json(**{**asdict(done), "file": str(done.file)})
    elif not options["quiet"]:
        click.echo(done.file)
        click.echo(f"{done.files} files of the cluster {done.cluster}, {done.size} bytes", err=True)


@bake.command()
@click.argument("file", type=_file)
@backup_passphrase_option
@out_option
@output_option
@quiet_option
def recover(file: Path, passphrase_file: Path | None, **options: Any) -> None:
    """Write the cluster's folder again from FILE, a backup of `bake backup`.

    The command needs only FILE and its passphrase, so it also works on another machine. It writes the folder
    OUT/NAME with the name in the backup, and never overwrites a folder. Running VMs need no change.

    With -o json the output has the keys cluster, folder, sealed and nodes.

    \b
    Examples:
      bake recover /backup/etcd.age
      bake recover /backup/etcd.age --out /srv/bake --passphrase-file /root/passphrase
    """
    from generator.operations.recovery.backup import recover as run

    cluster = run(file, options["out"], _passphrase(passphrase_file, new=False), report=reporter(options))
    names = [node.name for node in cluster.plan.nodes]
    if options["output"] == "json":
        print_json(cluster=cluster.plan.name, folder=str(cluster.store.folder), sealed=cluster.sealed, nodes=names)
    elif not options["quiet"]:
        click.echo(cluster.store.folder)
        click.echo(f"the cluster {cluster.plan.name} with the nodes {', '.join(names)}", err=True)


def _passphrase(path: Path | None, *, new: bool) -> bytes:
    """Read the passphrase from a file or from the terminal. `new`: ask twice."""
    from generator.errors import InputError
    from generator.store.existing_keys import read_passphrase

    flag = "--passphrase-file"
    if path is not None:
        return read_passphrase(path, flag)
    if not sys.stdin.isatty():
        raise InputError.one(flag, "is missing, and there is no terminal to ask", "give a file with the passphrase")
    text = click.prompt("Passphrase of the backup", hide_input=True, confirmation_prompt=new, err=True)
    return bytes(text, "utf-8")
