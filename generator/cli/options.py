"""The options of the commands. Each that takes a value can be a `BAKE_*` environment variable as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

# Flag → (field of the spec, type, help). A flag says what the cluster file would say, and wins over it.
SPEC_FLAGS: Mapping[str, tuple[tuple[str, ...], Any, str]] = {
    "--name": (("name",), str, "Name of the cluster."),
    "--nodes": (("nodes",), int, "How many nodes: 1 to 7, best 3 or 5."),
    "--subnet": (("network", "subnet"), str, "The cluster's network, such as 192.168.20.0/24."),
    "--first-ip": (("network", "firstIp"), str, "Address of the first node; the others follow."),
    "--network-mode": (("network", "mode"), str, "nat or isolated."),
    "--key-type": (("pki", "keyType"), str, "ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072 or rsa-4096."),
    "--leaf-days": (("pki", "leafDays"), int, "Validity of the nodes' certificates in days."),
    "--tls-min-version": (("etcd", "tlsMinVersion"), str, "The oldest TLS version on etcd's ports: 1.2 or 1.3."),
    "--archive": (("install", "archive"), str, "An etcd release tarball, put onto each ISO (profile rhel)."),
    "--archive-sha256": (("install", "sha256"), str, "The sha256 of --archive."),
    "--image": (("vm", "image"), str, "A cloud image, file or URL, instead of bake's own."),
    "--sha256": (("vm", "sha256"), str, "The sha256 of --image."),
    "--memory": (("vm", "memory"), int, "Memory of each VM in MiB."),
    "--cpus": (("vm", "cpus"), int, "Virtual CPUs of each VM."),
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
    return click.option(flag, *names, envvar=_variable(flag), show_envvar=True, **settings)


VERBOSE = "verbose"  # in the context's object, which outlives the command


def _note_verbose(ctx: click.Context, _option: click.Parameter, value: bool) -> bool:
    if value:
        ctx.ensure_object(dict)[VERBOSE] = True
    return value


out_option = option("--out", default="out", show_default=True, type=click.Path(path_type=Path), help="Output folder.")
output_option = option(
    "--output", "-o", type=click.Choice(["text", "json"]), default="text", show_default=True, help="What stdout gets."
)
quiet_option = _stack(
    click.option("-q", "--quiet", is_flag=True, help="Only errors."),
    click.option("-v", "--verbose", is_flag=True, callback=_note_verbose, help="With a failure, show a traceback too."),
)
# No variable: consent is given for one command.
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask, also where something is lost for good.")
name_option = option("--name", default="etcd", show_default=True, help="Name of the cluster.")
connect_option = option("--connect", help="libvirt URI; left out, libvirt's own rules decide.")
passphrase_option = option(
    "--ca-passphrase-file",
    type=click.Path(path_type=Path),
    help="A file whose first line is the passphrase of the CA's key; a key that is not encrypted is then.",
)
spec_options = _stack(
    option("--profile", help="A profile's name or file; left out, the one that the cluster has, else default."),
    option(
        "--config",
        type=click.Path(path_type=Path),
        help="A cluster.yaml; left out, the fields that were set before keep their values.",
    ),
    *(option(flag, type=kind, help=text) for flag, (_, kind, text) in SPEC_FLAGS.items()),
    passphrase_option,
    out_option,
    output_option,
    quiet_option,
)
_file = click.Path(path_type=Path)
ca_options = _stack(
    click.option("--ca", is_flag=True, help="A new CA, and certificates of it, for the whole cluster."),
    click.option("--all-phases", is_flag=True, help="With --ca: do not stop after each phase."),
    option("--ca-certificate", type=_file, help="With --ca: the CA to change to; left out, bake makes it."),
    option("--ca-key", type=_file, help="Its private key."),
    option("--peer-ca-certificate", type=_file, help="The same for the peers' own CA."),
    option("--peer-ca-key", type=_file, help="Its private key."),
)
up_options = _stack(
    connect_option,
    option(
        "--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True,
        help="auto: KVM where it truly works, else emulation.",
    ),
    option("--cache", type=click.Path(path_type=Path), help="Where images are kept; left out, the user's cache."),
    option("--wait", type=int, default=900, show_default=True, help="Seconds to wait for the cluster."),
)  # fmt: skip
cluster_options = _stack(name_option, out_option, connect_option, output_option, quiet_option)
