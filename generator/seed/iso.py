"""Guest files → user-data, meta-data and network-config → the NoCloud ISO.

cloud-config is built as data and dumped, never typed as text, then loaded back and compared: what a quoting mistake
would break is found here and not at a guest's first boot.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import groupby
from pathlib import PurePosixPath
from time import struct_time
from typing import Any

import yaml

from generator.artifact import Artifact
from generator.config.spec import NetworkMode
from generator.errors import InputError
from generator.plan import ClusterPlan, NodePlan
from generator.seed.first_boot import boot_commands, first_boot_commands

ISO_LABEL = "cidata"  # NoCloud finds the medium by this label (cloud-init, NoCloud datasource)
USER_DATA = PurePosixPath("user-data")
SEED_ISO = PurePosixPath("seed.iso")
SEED_PERMIT = PurePosixPath("bootstrap-permit")  # beside user-data and not in it: the instance-id does not depend on it
# ISO 9660 volume dates; any fixed moment makes two bakes the same bytes. 0 would mean "not specified".
_EPOCH = 1_577_836_800.0  # 2020-01-01T00:00:00Z


def seed_files(plan: ClusterPlan, node: NodePlan, guest: Iterable[Artifact]) -> tuple[Artifact, ...]:
    """The three files of a NoCloud seed. user-data holds the node's private keys."""
    user_data = b"".join(_user_data(plan, node, guest))
    network_config = _dump(_network_config(plan, node))
    meta_data = _dump({"instance-id": _instance_id(node, user_data, network_config), "local-hostname": node.name})
    return (
        Artifact(USER_DATA, user_data, mode=0o600, secret=True),
        Artifact(PurePosixPath("meta-data"), meta_data),
        Artifact(PurePosixPath("network-config"), network_config),
    )


def written_files(user_data: bytes, *, where: str) -> dict[str, bytes]:
    """What an existing user-data writes: guest path → content. Raises InputError for one that bake did not make."""
    try:
        files = yaml.load(user_data, Loader=_Loader)["write_files"]  # noqa: S506  derived from SafeLoader
        return {file["path"]: file["content"].encode() for file in files}
    except (yaml.YAMLError, UnicodeError, LookupError, TypeError, AttributeError):
        raise InputError.one(where, "is not a user-data that bake made", "restore or remove it") from None


def _user_data(plan: ClusterPlan, node: NodePlan, guest: Iterable[Artifact]) -> Iterator[bytes]:
    """cloud-config in pieces, each dumped and loaded back by itself.

    Most of it is the same for every node (scripts, units, commands): dumping such a piece once and not for each
    node takes two thirds of the time away. Block mappings and sequences may be put one after the other.
    """
    yield b"#cloud-config\n"
    yield f"# {node.name} of the etcd cluster {plan.name}. Holds private keys: keep it 0600.\n".encode()
    yield _dump({"hostname": node.name, "fqdn": node.fqdn})
    yield _dump_list("bootcmd", tuple(boot_commands()))
    # root's and not owner: etcd, as write_files runs before users exist and gives up at the first that fails.
    yield b"write_files:\n"
    for is_own, files in groupby(guest, lambda file: file.path.is_relative_to(_OWN)):
        dump = _dump_files if is_own else _dump_common_files
        yield dump(tuple(files))
    if plan.spec.install.packages:
        yield _dump({"package_update": True, "packages": list(plan.spec.install.packages)})
    yield _dump_list("runcmd", tuple(first_boot_commands(plan)))


@lru_cache(maxsize=8)
def _dump_list(key: str, items: tuple[str, ...]) -> bytes:
    return _dump({key: list(items)})


_OWN = PurePosixPath("/etc/etcd")  # a node's own: names, addresses, certificates, keys


def _dump_files(files: tuple[Artifact, ...]) -> bytes:
    """Entries of `write_files`."""
    entries = [(str(file.path), f"{file.mode:04o}", file.data.decode()) for file in files]
    return _dump([{"path": path, "permissions": mode, "content": text} for path, mode, text in entries])


# Holds what all nodes have in common, and so nothing secret.
_dump_common_files = lru_cache(maxsize=8)(_dump_files)


def _network_config(plan: ClusterPlan, node: NodePlan) -> dict[str, Any]:
    """Version 2, matched by MAC: names such as en* match nothing under networkd's renderer."""
    network = plan.network
    ethernet: dict[str, Any] = {
        "match": {"macaddress": node.mac},
        "set-name": "eth0",
        "dhcp4": False,
        "dhcp6": False,
        "addresses": [f"{node.address}/{network.subnet.prefixlen}"],
    }
    if network.mode is NetworkMode.NAT:
        # Not "default": cloud-init 25.1's own renderers refuse that word.
        everywhere = "::/0" if network.subnet.version == 6 else "0.0.0.0/0"
        ethernet["routes"] = [{"to": everywhere, "via": str(network.gateway)}]
    if network.dns:
        ethernet["nameservers"] = {"addresses": [str(server) for server in network.dns]}
    return {"version": 2, "ethernets": {"eth0": ethernet}}


def _instance_id(node: NodePlan, user_data: bytes, network_config: bytes) -> str:
    """From the content, not the clock: the same seed never runs twice, a changed one does."""
    digest = hashlib.sha256(b"\0".join((node.name.encode(), user_data, network_config)))
    return f"{node.name}-{digest.hexdigest()[:16]}"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's, ten times faster; text of several lines as a block, so that a person can read it."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    # cloud-init reads YAML 1.1, where a MAC of digits is a sexagesimal number and 0640 is 416.
    if text and text[0].isdigit():
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _dump(config: Any) -> bytes:
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=1 << 20, allow_unicode=False)
    if yaml.load(text, Loader=_Loader) != config:  # noqa: S506  derived from SafeLoader
        raise AssertionError("what was dumped does not load back equal: a bug in bake")
    return text.encode()


class _FrozenTime:
    """Stands in for `time` inside pycdlib, which stamps volumes with the clock and has no option for it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    @staticmethod
    def time() -> float:
        return _EPOCH

    @staticmethod
    def localtime(_seconds: float | None = None) -> struct_time:
        return time.gmtime(_EPOCH)


@cache
def _pycdlib() -> Any:
    import sys

    import pycdlib

    for name, module in list(sys.modules.items()):
        if name.startswith("pycdlib") and getattr(module, "time", None) is time:
            module.time = _FrozenTime()  # type: ignore[attr-defined]
    return pycdlib


def pack(files: Iterable[Artifact]) -> Artifact:
    """A NoCloud ISO of these files: label `cidata`, Rock Ridge and Joliet, the same bytes for the same input."""
    iso = _pycdlib().PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=ISO_LABEL, sys_ident="LINUX")
    for number, file in enumerate(files):
        iso.add_fp(
            io.BytesIO(file.data),
            len(file.data),
            f"/FILE{number}.;1",
            rr_name=file.path.name,
            joliet_path=f"/{file.path.name}",
            file_mode=0o100400,  # where a node mounts it, nobody but root reads the keys
        )
    image = io.BytesIO()
    iso.write_fp(image)
    iso.close()
    return Artifact(SEED_ISO, image.getvalue(), mode=0o600, secret=True)


def unpack(image: bytes, *, where: str = "") -> tuple[Artifact, ...]:
    """What `pack` put into an ISO, in its order. Raises InputError for one that bake did not make, or a part of one."""
    iso = _pycdlib().PyCdlib()
    files: list[Artifact] = []
    try:
        iso.open_fp(io.BytesIO(image))
        while record := _find(iso, path := f"/FILE{len(files)}.;1"):
            content = io.BytesIO()
            iso.get_file_from_iso_fp(content, iso_path=path)
            if len(content.getvalue()) != record.get_data_length():
                raise _pycdlib().pycdlibexception.PyCdlibInvalidISO("cut short")
            name = PurePosixPath(record.rock_ridge.name().decode())
            files.append(Artifact(name, content.getvalue(), mode=0o600, secret=True))
    except _pycdlib().pycdlibexception.PyCdlibException:
        raise InputError.one(where, "is not an ISO that bake made", "bake again") from None
    return tuple(files)


def _find(iso: Any, path: str) -> Any:
    """The record of a file, or None where there is none."""
    try:
        return iso.get_record(iso_path=path)
    except _pycdlib().pycdlibexception.PyCdlibInvalidInput:
        return None
