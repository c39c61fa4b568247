"""The options of the commands. Most options have an environment variable, for example BAKE_NAME for --name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from generator.cli.local.suggestions import suggestion_for
from generator.cli.output.grouped_help import Option
from generator.operations.hints import DEFAULT_NAME, DEFAULT_OUT

# Format: flag → (path of the field in the cluster file, type, help text). A flag overrides the cluster file.
SPEC_FLAGS: Mapping[str, tuple[tuple[str, ...], Any, str]] = {
    "--name": (("name",), str, "Name of the cluster."),
    "--nodes": (("nodes",), int, "Number of nodes, 1 to 7; use 3 or 5 for high availability."),
    "--subnet": (("network", "subnet"), str, "The cluster's network, such as 192.168.20.0/24."),
    "--first-ip": (("network", "firstIp"), str, "Address of the first node; the next nodes get the next addresses."),
    "--network-mode": (("network", "mode"), str, "Mode of the network: nat, isolated, bridge or network."),
    "--key-type": (("pki", "keyType"), str, "Type of keys: ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096."),
    "--leaf-days": (("pki", "leafDays"), int, "Validity of node and client certificates in days."),
    "--tls-min-version": (("etcd", "tlsMinVersion"), str, "The oldest TLS version that etcd accepts: 1.2 or 1.3."),
    "--archive": (("install", "archive"), str, "Release tarball of etcd for the ISOs. Profile rhel needs a tarball."),
    "--archive-sha256": (("install", "sha256"), str, "The sha256 of --archive."),
    "--image": (("vm", "image"), str, "A cloud image (file or URL) that the VMs boot instead of bake's base image."),
    "--sha256": (("vm", "sha256"), str, "The sha256 of --image."),
    "--memory": (("vm", "memory"), int, "Memory of each VM in MiB."),
    "--cpus": (("vm", "cpus"), int, "Virtual CPUs of each VM."),
    "--data-disk": (("vm", "dataDisk"), int, "Second disk of each VM, for etcd's data, in GiB; 0 for no second disk."),
}


def parameter(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def _variable(flag: str) -> str:
    return "BAKE_" + parameter(flag).upper()


def _stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def option(flag: str, *names: str, **settings: Any) -> Callable[[Any], Any]:
    """Return a decorator that adds an option with an environment variable. `path`: the field that the option sets."""
    more = suggestion_for(flag, settings.pop("path", ()))
    return click.option(flag, *names, cls=Option, envvar=_variable(flag), show_envvar=True, **more, **settings)


def shows_only(*flags: str) -> Callable[[Any], Any]:
    """Hide all other options of a command that accepts them only because another command passes them on."""
    return _hiding(lambda each: not {*flags, "--output", "--quiet", "--verbose"} & {*each.opts})


def hides(*flags: str) -> Callable[[Any], Any]:
    """Hide options that a command accepts but does not use."""
    return _hiding(lambda each: bool({*flags} & {*each.opts}))


def _hiding(is_hidden: Callable[[click.Parameter], bool]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for each in function.__click_params__:
            each.hidden = getattr(each, "hidden", False) or is_hidden(each)
        return function

    return decorate


_HEADINGS = {"network": "Network", "pki": "Certificates", "etcd": "etcd", "install": "etcd", "vm": "VMs"}
_FOLDERS_AND_OUTPUT = "Folders and output"


class PathType(click.Path):
    """A path. An empty text is invalid: it would mean the current folder."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(path_type=Path, **settings)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


VERBOSE = "verbose"  # a key in the object of click's context, which still exists when an error is printed


def _note_verbose(ctx: click.Context, _option: click.Parameter, value: bool) -> bool:
    if value:
        ctx.ensure_object(dict)[VERBOSE] = True
    return value


out_option = option(
    "--out", heading=_FOLDERS_AND_OUTPUT, default=DEFAULT_OUT, show_default=True, type=PathType(),
    help="Folder in which bake makes a folder for each cluster.",
)  # fmt: skip
output_option = option(
    "--output", "-o", heading=_FOLDERS_AND_OUTPUT, type=click.Choice(["text", "json"]), default="text",
    show_default=True, help="Output format.",
)  # fmt: skip
_output_flag = partial(click.option, cls=Option, heading=_FOLDERS_AND_OUTPUT, is_flag=True)
quiet_option = _stack(
    _output_flag("-q", "--quiet", help="Print only errors."),
    _output_flag("-v", "--verbose", callback=_note_verbose, help="Print the traceback of an error."),
)
wide_option = _output_flag("--wide", help="Print each row of a table on one line, with all columns.")
# No environment variable sets --yes, because a confirmation is valid for one command only.
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask before changes that cannot be undone.")
refresh_option = click.option(
    "--refresh", is_flag=True, help="Build the base image again, with the newest packages, although it exists."
)
name_option = option("--name", heading="Cluster", default=DEFAULT_NAME, show_default=True, help="Name of the cluster.")
connect_option = option(
    "--connect", heading="libvirt", help="URI of libvirt; default: the value of LIBVIRT_DEFAULT_URI, or qemu:///system."
)
passphrase_option = option(
    "--ca-passphrase-file", heading="Certificates",
    type=PathType(),
    help="A file with the CA key's passphrase on its first line. bake encrypts a CA key that is not encrypted yet.",
)
field_options = _stack(
    *(
        option(flag, heading=_HEADINGS.get(path[0], "Cluster"), type=kind, help=text, path=path)
        for flag, (path, kind, text) in SPEC_FLAGS.items()
    )
)
spec_options = _stack(
    option(
        "--profile", heading="Cluster",
        help="Name or file of a profile; default: the cluster's profile, or `default` for a new cluster.",
    ),
    option(
        "--config",
        heading="Cluster",
        type=PathType(),
        help="A cluster file (YAML). Without --config, an existing cluster keeps its fields.",
    ),
    field_options,
    passphrase_option,
    out_option,
    output_option,
    quiet_option,
)
_file = PathType()
ca_options = _stack(
    click.option("--ca", is_flag=True, help="Replace the CA and all certificates of the cluster."),
    click.option("--all-phases", is_flag=True, help="Do not stop after each phase. Needs --ca."),
    option("--ca-certificate", type=_file, help="A file with the new CA's certificate. By default, bake creates a CA."),
    option("--ca-key", type=_file, help="A file with the new CA's private key."),
    option("--peer-ca-certificate", type=_file, help="A file with the certificate of the new CA for peers."),
    option("--peer-ca-key", type=_file, help="A file with the private key of the new CA for peers."),
)


def _days(_ctx: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    """Parse a number of days such as `30d` or `30`."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,5})d?", value)
    if not found:
        raise click.BadParameter(f"{value!r} is not a number of days such as 30d")
    return int(found[1])


def _interval(_ctx: click.Context, _option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not 0.5 <= value <= 3600:  # also refuses nan
        raise click.BadParameter(f"{value:g} is not a number of seconds from 0.5 to 3600")
    return value


interval_option = option(
    "--interval", type=float, callback=_interval, metavar="SECONDS",
    help="How often --watch asks the nodes; default: 2.",
)  # fmt: skip
within_option = option(
    "--within", callback=_days, metavar="DAYS",
    help="Exit with code 3 if a certificate expires within a number of days, such as 30d.",
)
node_wait_option = option(
    "--wait", type=click.IntRange(min=1), default=180, show_default=True, help="Seconds to wait for each node."
)
up_options = _stack(
    connect_option,
    option(
        "--accel", heading="libvirt", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True,
        help="How to run the VMs; `auto` uses KVM, or emulation if KVM does not work.",
    ),
    option(
        "--cache", heading="libvirt", type=PathType(),
        help="Folder for images; default: in the user's cache folder.",
    ),
    option(
        "--wait", heading="libvirt", type=click.IntRange(min=1), default=900, show_default=True,
        help="Seconds to wait until all nodes have settled.",
    ),
)  # fmt: skip
# For commands that need only the cluster's folder, and for commands that also need its VMs.
folder_options = _stack(name_option, out_option, output_option, quiet_option)
cluster_options = _stack(name_option, out_option, connect_option, output_option, quiet_option)
