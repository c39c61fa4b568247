"""`bake export`: write the files with which another engine creates the VMs of a baked cluster."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from generator.cli.common import open_cluster, print_json, refuse_misplaced, reporter
from generator.cli.options import PathType, folder_options, hides, option
from generator.cli.output.table import print_table
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.operations.export import Exported

_into = option(
    "--into", type=PathType(), help="Folder for the files; default: OUT/NAME.export/TARGET."
)
_image = option("--image", help="The cloud image for the VMs; default: vm.image of the cluster file.")
_connect = option("--connect", default="qemu:///system", show_default=True, help="URI of libvirt.")
_pool = option("--pool", default="default", show_default=True, help="An existing storage pool of libvirt.")
_libvirt_network = option(
    "--network", help="An existing network of libvirt; default: network.name of the cluster file, or `default`."
)
_libvirt_bridge = option(
    "--bridge", help="A bridge of the host, instead of a network; default: network.bridge of the cluster file."
)
_storage = option("--storage", default="local-lvm", show_default=True, help="The storage for the VMs' disks.")
_iso_storage = option("--iso-storage", default="local", show_default=True, help="The storage for ISOs.")
_bridge = option("--bridge", default="vmbr0", show_default=True, help="The bridge of the VMs' network.")
_first_id = option(
    "--first-id", type=int, default=900, show_default=True, help="Id of the first VM; the next VMs get the next ids."
)


@bake.group(subcommand_metavar="TARGET [ARGS]...")
@hides("--name", "--out", "--output", "--quiet", "--verbose")
@folder_options
@click.pass_context
def export(ctx: click.Context, /, **_options: Any) -> None:
    """Write the files with which another engine creates the VMs of a baked cluster.

    TARGET is the engine. The command changes no VM. It reads the cluster's folder, so run it again after each `bake`
    and after `bake seal`. It overwrites only files that an earlier export wrote and nobody changed.

    With -o json the output has the keys cluster, target, folder, files (each with path, mode and secret), changed,
    bootstrap_permit (the node whose seed has the bootstrap permit, or null) and warnings.

    \b
    Examples:
      bake export virt-install --image debian-13-genericcloud-amd64.qcow2
      bake export kubevirt --help    show the options of a target
    """
    refuse_misplaced(ctx)


def _run(
    target: str,
    options: Mapping[str, Any],
    build: Callable[[Any], Any],
    next_step: Callable[[Exported], str],
    *,
    reads_image: bool = False,
) -> None:
    """Export the cluster, and print the files and the next step.

    `reads_image`: whether the target reads the image on this machine.
    """
    from generator.operations import export
    from generator.operations.hints import command

    cluster = open_cluster(options)
    report = reporter(options)
    image = (absolute(options["image"]) or cluster.plan.spec.vm.image) if reads_image else None
    done = export.export(cluster, target, build, into=options["into"], image=image, report=report)
    for warning in done.warnings:
        report(f"warning: {warning}")
    if options["output"] == "json":
        files = [{"path": str(file.path), "mode": f"{file.mode:04o}", "secret": file.secret} for file in done.files]
        print_json(
            cluster=cluster.plan.name, target=target, folder=str(done.folder), files=files,
            changed=list(done.changed), bootstrap_permit=done.bootstrap or None, warnings=list(done.warnings),
        )  # fmt: skip
    elif not options["quiet"]:
        secret = {True: "private keys", False: ""}
        print_table([{"file": str(done.folder / file.path), "contains": secret[file.secret]} for file in done.files])
        click.echo(next_step(done), err=True)
        if done.bootstrap:
            seal = command(cluster.store, "seal")
            click.echo(
                f"The seed of {done.bootstrap} contains the bootstrap permit. When all nodes are voting members, run "
                f"`{seal}`, and remove the old seed of {done.bootstrap} from the engine.", err=True
            )  # fmt: skip


def _settings(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: options[name] for name in names}


@export.command("virt-install")
@_image
@_connect
@_pool
@_libvirt_network
@_libvirt_bridge
@_into
@folder_options
def virt_install(**options: Any) -> None:
    """Write a shell script that creates the VMs with virt-install.

    The script uploads the image and the ISOs into a storage pool of libvirt, and creates the VMs on an existing
    network. It needs virt-install and virsh.

    \b
    Examples:
      bake export virt-install --image debian-13-genericcloud-amd64.qcow2
      bake export virt-install --image debian.qcow2 --bridge br0 --connect qemu+ssh://host/system
    """
    from generator.export.source import LibvirtSettings
    from generator.export.virt_install import SCRIPT, export

    image = absolute(options["image"])
    settings = LibvirtSettings(image=image, **_settings(options, "connect", "pool", "network", "bridge"))
    _run(
        "virt-install", options, lambda source: export(source, settings),
        lambda done: f"To create the VMs, run: sh {_quoted(done, SCRIPT)}", reads_image=True,
    )  # fmt: skip


@export.command("proxmox")
@_image
@_storage
@_iso_storage
@_bridge
@_first_id
@_into
@folder_options
def proxmox(**options: Any) -> None:
    """Write a shell script that creates the VMs on a host of Proxmox VE with `qm`.

    Copy the cluster's folder and the image to the host, and run the script there as root. --image is the path of the
    image on the host.

    \b
    Examples:
      bake export proxmox --image /root/debian-13-genericcloud-amd64.qcow2
      bake export proxmox --image /root/debian.qcow2 --storage ceph --bridge vmbr1 --first-id 120
    """
    from generator.export.proxmox import SCRIPT, Settings, export

    settings = Settings(**_settings(options, "image", "storage", "iso_storage", "bridge", "first_id"))
    folder = (options["out"] / options["name"]).absolute()

    def next_step(done: Exported) -> str:
        copies = f"{_quoted(done, SCRIPT)}, {shlex.quote(str(folder))} and the image"
        return (
            f"Copy {copies} to the host of Proxmox VE. "
            f'To create the VMs, run there as root: sh {SCRIPT} "$PWD/{folder.name}"'
        )

    _run("proxmox", options, lambda source: export(source, settings), next_step)


@export.command("opentofu-libvirt")
@_image
@_connect
@_pool
@_libvirt_network
@_libvirt_bridge
@_into
@folder_options
def opentofu_libvirt(**options: Any) -> None:
    """Write a configuration of OpenTofu for libvirt, with the provider dmacvicar/libvirt 0.9.

    OpenTofu uploads the ISOs by their paths, so its state contains no private key.

    \b
    Examples:
      bake export opentofu-libvirt --image debian-13-genericcloud-amd64.qcow2
      bake export opentofu-libvirt --image debian.qcow2 --network lan --pool images -o json
    """
    from generator.export.opentofu_libvirt import export
    from generator.export.source import LibvirtSettings

    image = absolute(options["image"])
    settings = LibvirtSettings(image=image, **_settings(options, "connect", "pool", "network", "bridge"))
    _run("opentofu-libvirt", options, lambda source: export(source, settings), _run_tofu, reads_image=True)


@export.command("opentofu-proxmox")
@_image
@option("--pve-node", default="pve", show_default=True, help="The host of Proxmox VE that runs the VMs.")
@_storage
@_iso_storage
@_bridge
@_first_id
@_into
@folder_options
def opentofu_proxmox(**options: Any) -> None:
    """Write a configuration of OpenTofu for Proxmox VE, with the provider bpg/proxmox.

    OpenTofu uploads the ISOs by their paths, so its state contains no private key. The provider reads its endpoint and
    credentials from environment variables.

    \b
    Examples:
      bake export opentofu-proxmox --image debian-13-genericcloud-amd64.qcow2
      bake export opentofu-proxmox --image debian.qcow2 --pve-node pve2 --storage ceph --first-id 120
    """
    from generator.export.opentofu_proxmox import Settings, export

    image = absolute(options["image"])
    settings = Settings(
        image=image, **_settings(options, "pve_node", "storage", "iso_storage", "bridge", "first_id")
    )
    _run("opentofu-proxmox", options, lambda source: export(source, settings), _run_tofu, reads_image=True)


@export.command("kubevirt")
@_image
@option("--network", default="", help="The NetworkAttachmentDefinition of the VMs' network.  [required]")
@option("--namespace", default="default", show_default=True, help="The namespace of all objects.")
@option("--storage-class", help="The StorageClass of the disks; default: the cluster's default.")
@_into
@folder_options
def kubevirt(**options: Any) -> None:
    """Write Kubernetes objects that run the nodes as VMs of KubeVirt.

    --image is a URL from which CDI imports the image: https:// for a file, docker:// for a container disk. --network
    is a network on which the VMs can have the fixed addresses of the nodes.

    \b
    Examples:
      bake export kubevirt --network lan --image https://example.org/debian-13.qcow2
      bake export kubevirt --network infra/lan --namespace etcd --image docker://registry.example.org/debian:13
    """
    from generator.export.kubevirt import Settings, export

    settings = Settings(**_settings(options, "image", "network", "namespace", "storage_class"))
    _run("kubevirt", options, lambda source: export(source, settings), _apply)


@export.command("cloud")
@option(
    "--engine", type=click.Choice(["openstack", "gce", "ec2", "other"]), required=True,
    help="The engine, whose limit for user-data is checked; with `other`, give --limit.",
)
@option("--limit", type=int, help="The largest user-data that the engine accepts, in bytes.")
@_into
@folder_options
def cloud(**options: Any) -> None:
    """Write compressed user-data for engines that have no drive for an ISO.

    Until the cluster is sealed, the first node's user-data contains the bootstrap permit. The engine must give each
    VM the address of its node.

    \b
    Examples:
      bake export cloud --engine openstack
      bake export cloud --engine other --limit 65536 -o json
    """
    from generator.export.cloud import Settings, export

    settings = Settings(**_settings(options, "engine", "limit"))
    _run("cloud", options, lambda source: export(source, settings), _pass)


def absolute(image: str | None) -> str | None:
    """Return an image's path as an absolute path. A URL stays unchanged."""
    return image if not image or "://" in image else str(Path(image).absolute())


def _quoted(done: Exported, name: str = "") -> str:
    return shlex.quote(str(done.folder / name))


def _run_tofu(done: Exported) -> str:
    return f"To create the VMs, run: cd {_quoted(done)} && tofu init && tofu apply"


def _apply(done: Exported) -> str:
    commands = (f"kubectl apply --server-side -f {_quoted(done, name)}" for name in ("secrets.yaml", "cluster.yaml"))
    return f"To create the VMs, run: {' && '.join(commands)}"


def _pass(done: Exported) -> str:
    return f"Create one VM for each node in {_quoted(done, 'nodes.json')}, with its user-data and its address."
