"""`bake show`: the files of a baked node, as they will be on the node."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from generator.cli.common import open_cluster, print_json
from generator.cli.local.suggestions import suggest_node, suggest_path
from generator.cli.options import folder_options
from generator.cli.output.table import print_table
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.operations.baked_cluster import Cluster
    from generator.seed.node_files import NodeFile


@bake.command()
@click.argument("node", shell_complete=suggest_node)
@click.argument("path", required=False, shell_complete=suggest_path)
@click.option("--private-key", is_flag=True, help="Print PATH even if it has a private key.")
@folder_options
def show(node: str, path: str | None, private_key: bool, **options: Any) -> None:
    """Print a file of a baked node as it will be on the node. Without PATH, list the node's files.

    The command reads the node's seed in the cluster's folder, and asks no node. PATH is a path on the node, or the end
    of a path if only one file has it. The list shows the mode and the owner after the node's first boot, and the size
    in bytes. A private key is printed only with --private-key.

    With -o json the output has the keys node and files. Each file has the keys path, mode, owner, acl (a list), size
    and private. With PATH, the output has the keys of the file, and its content.

    \b
    Examples:
      bake show etcd1
      bake show etcd1 /etc/etcd/etcd.conf
      bake show etcd1 etcd.service
    """
    cluster = open_cluster(options)
    files = _files(cluster, node)
    if path is None:
        if options["output"] == "json":
            print_json(node=node, files=[_facts(file) for file in files])
        elif not options["quiet"]:
            print_table([_row(file) for file in files])
        return
    file = _chosen(files, path)
    if file.is_private and not private_key:
        from generator.errors import InputError

        raise InputError.one("PATH", f"{file.path} is a private key", "to print it, add --private-key")
    if options["output"] == "json":
        print_json(node=node, **_facts(file), content=file.content.decode())
    else:
        sys.stdout.buffer.write(file.content)
        sys.stdout.buffer.flush()


def _files(cluster: Cluster, node: str) -> list[NodeFile]:
    from generator.errors import InputError
    from generator.operations.hints import command
    from generator.seed.node_files import node_files
    from generator.store.existing_keys import require_seed

    names = [one.name for one in cluster.plan.nodes]
    if node not in names:
        raise InputError.one("NODE", f"there is no node {node!r}", f"use one of {', '.join(names)}")
    return node_files(require_seed(cluster.store, node, command(cluster.store, "")), cluster.plan.spec)


def _chosen(files: list[NodeFile], path: str) -> NodeFile:
    """Return the file at `path`, or the only file whose path ends in `path`. Raise InputError otherwise."""
    from difflib import get_close_matches

    from generator.errors import InputError

    found = [file for file in files if file.path == path]
    found = found or [file for file in files if file.path.endswith(f"/{path}")]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.path for file in found)
        raise InputError.one("PATH", f"{path!r} is the end of several paths", f"use one of {names}")
    by_name = {file.path.rpartition("/")[2]: file.path for file in files}
    close = get_close_matches(path.rpartition("/")[2], by_name, n=1)
    hint = f"did you mean {by_name[close[0]]}?" if close else "leave out PATH to list the files"
    raise InputError.one("PATH", f"the seed has no file {path!r}", hint)


def _facts(file: NodeFile) -> dict[str, Any]:
    return {
        "path": file.path, "mode": f"{file.mode:04o}", "owner": file.owner, "acl": list(file.acl),
        "size": len(file.content), "private": file.is_private,
    }  # fmt: skip


def _row(file: NodeFile) -> dict[str, str]:
    owner = " ".join((file.owner, *file.acl))
    note = "private key" if file.is_private else ""
    return {
        "mode": f"{file.mode:04o}", "owner": owner, "size": str(len(file.content)), "path": file.path, "contains": note
    }  # fmt: skip
