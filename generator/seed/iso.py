"""Build user-data, meta-data and network-config from the guest files, and put these files on a NoCloud ISO.

bake parses every piece of YAML again and compares the result with the data, so that no guest gets wrongly quoted YAML.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

import yaml

from generator.artifact import Artifact
from generator.config.spec import NetworkMode
from generator.errors import InputError
from generator.layout import SEED_ISO
from generator.plan import ClusterPlan, NodePlan
from generator.seed.contents import ordered, table_of_contents
from generator.seed.first_boot import boot_commands, first_boot_commands
from generator.seed.guest.usr.libexec.bake.seed_change import Seed, read_seed
from generator.seed.guest_paths import RUNTIME_PERMIT

ISO_LABEL = "cidata"  # cloud-init's NoCloud datasource finds the ISO by this label
USER_DATA, META_DATA = PurePosixPath("user-data"), PurePosixPath("meta-data")
# The permit is not in user-data, because the instance-id is a digest of user-data and must not depend on the permit.
SEED_PERMIT = PurePosixPath("bootstrap-permit")
# The first node restores this snapshot before it starts the cluster. bake removes both files with the permit.
SEED_SNAPSHOT, SEED_SNAPSHOT_RECORD = PurePosixPath("snapshot.db"), PurePosixPath("snapshot.json")
UNTIL_SEALED = (SEED_PERMIT, SEED_SNAPSHOT, SEED_SNAPSHOT_RECORD)
_BAKE_AGAIN = "run the bake command of this cluster again"
# The date in the ISO's volume descriptor is fixed, so that the same files always give the same ISO.
_EPOCH = 1_577_836_800.0  # 2020-01-01T00:00:00Z


def seed_files(plan: ClusterPlan, node: NodePlan, guest: Iterable[Artifact]) -> tuple[Artifact, ...]:
    """Return the files user-data, meta-data and network-config of a node.

    user-data contains the node's private keys.
    """
    user_data = b"".join(_user_data(plan, node, guest))
    network_config = _dump(_network_config(plan, node))
    meta_data = _dump({"instance-id": _instance_id(node, user_data, network_config), "local-hostname": node.name})
    return (
        Artifact(USER_DATA, user_data, mode=0o600, secret=True),
        Artifact(PurePosixPath("meta-data"), meta_data),
        Artifact(PurePosixPath("network-config"), network_config),
    )


_NEXT_KEY = re.compile(rb"(\n)(?=[a-z])")


def without_drive(user_data: bytes, meta_data: bytes, permit: bytes | None) -> bytes:
    """Return user-data for a node that has no drive with an ISO.

    Two lines in bootcmd's script replace what the script reads from an ISO: the instance-id, which the engine chooses
    without an ISO, and the bootstrap permit, if there is one. forget-seed deletes both lines from its copy.
    """
    start, mark, rest = user_data.partition(b"\nbootcmd:\n- |\n")
    script, end, rest = _NEXT_KEY.split(rest, maxsplit=1)  # older versions of bake put another key after bootcmd
    first = f"  INSTANCE_ID={yaml.load(meta_data, Loader=_Loader)['instance-id']}\n".encode()  # noqa: S506  as below
    last = f"\n  (umask 077 && echo {permit.decode().strip()} >{RUNTIME_PERMIT})".encode() if permit else b""
    made = start + mark + first + script + last + end + rest
    old, new = (yaml.load(text, Loader=_Loader) for text in (user_data, made))  # noqa: S506  derived from SafeLoader
    lines = f"{first.decode().strip()}\n{old['bootcmd'][0]}{last.decode().strip()}".strip()
    if new != old | {"bootcmd": [f"{lines}\n"]}:
        raise AssertionError("a line is at the wrong place in user-data: this is a bug in bake")
    return made


def written_files(user_data: bytes, *, where: str) -> dict[str, bytes]:
    """Return the path and the content of each guest file in user-data. Raises InputError for invalid user-data."""
    return {path: file.content for path, file in read_user_data(user_data, where=where).files.items()}


def read_user_data(user_data: bytes, *, where: str, remedy: str = "restore the file from a backup") -> Seed:
    """Return the files and settings in user-data. Raises InputError, with the hint `remedy`, for invalid user-data."""
    try:
        seed = read_seed(yaml.load(user_data, Loader=_Loader))  # noqa: S506  derived from SafeLoader
    except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError):
        seed = None
    if seed is None or "runcmd" not in seed.settings:  # the last key: a truncated file can be valid YAML
        raise InputError.one(where, "is not user-data that bake wrote", remedy)
    return seed


def _user_data(plan: ClusterPlan, node: NodePlan, guest: Iterable[Artifact]) -> Iterator[bytes]:
    """Yield the pieces of a node's user-data.

    Most pieces, such as scripts and units, are the same for every node. If a piece is the same for every node, bake
    converts the piece to YAML only once. The pieces are YAML block mappings and sequences, which can be concatenated.
    """
    files, packages = ordered(guest), plan.spec.install.packages
    own = [file for file in files if file.path.parts[:3] == _NODE_FOLDER]
    common = tuple(file for file in files if file.path.parts[:3] != _NODE_FOLDER)
    yield b"#cloud-config\n"
    yield f"# {node.name} of the etcd cluster {plan.name}. It has private keys: keep its mode 0600.\n".encode()
    yield table_of_contents(tuple(file.path for file in files), packages).encode()
    head = {"hostname": node.name, "fqdn": node.fqdn}
    more = {"package_update": True, "packages": list(packages)} if packages else {}
    # The entries set no owner, because cloud-init writes the files before the user etcd exists.
    yield _dump({**head, **more, "write_files": _entries(own)})
    yield _dump_common_files(common)
    yield _dump_list("bootcmd", tuple(boot_commands()))
    yield _dump_list("runcmd", tuple(first_boot_commands(plan)))


@lru_cache(maxsize=8)
def _dump_list(key: str, items: tuple[str, ...]) -> bytes:
    return _dump({key: list(items)})


_NODE_FOLDER = ("/", "etc", "etcd")  # files in /etc/etcd, such as keys, differ between nodes


def _entries(files: Iterable[Artifact]) -> list[dict[str, str]]:
    """Return entries for cloud-init's `write_files`."""
    return [
        {"path": str(file.path), "permissions": f"{file.mode:04o}", "content": file.data.decode()} for file in files
    ]


@lru_cache(maxsize=8)
def _dump_common_files(files: tuple[Artifact, ...]) -> bytes:
    """Return the entries of files that are the same on all nodes, so that the cache contains no secrets."""
    return _dump(_entries(files))


def _network_config(plan: ClusterPlan, node: NodePlan) -> dict[str, Any]:
    """Return cloud-init's network configuration, version 2.

    network-config matches the interface by MAC, because cloud-init's renderer for networkd cannot match names.
    """
    network = plan.network
    ethernet: dict[str, Any] = {
        "match": {"macaddress": node.mac},
        "set-name": "eth0",
        "dhcp4": False,
        "dhcp6": False,
        "addresses": [f"{node.address}/{network.subnet.prefixlen}"],
    }
    if network.mode is not NetworkMode.ISOLATED:
        # cloud-init 25.1 refuses the route "default".
        everywhere = "::/0" if network.subnet.version == 6 else "0.0.0.0/0"
        ethernet["routes"] = [{"to": everywhere, "via": str(network.gateway)}]
    if network.dns:
        ethernet["nameservers"] = {"addresses": [str(server) for server in network.dns]}
    return {"version": 2, "ethernets": {"eth0": ethernet}}


def _instance_id(node: NodePlan, user_data: bytes, network_config: bytes) -> str:
    """Return an id derived from the seed's content. cloud-init applies a seed only if its id is new."""
    digest = hashlib.sha256(b"\0".join((node.name.encode(), user_data, network_config)))
    return f"{node.name}-{digest.hexdigest()[:16]}"


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """libyaml's dumper, which is ten times faster than PyYAML's."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else None
    # cloud-init reads YAML 1.1: without quotes, 0640 and a MAC with only digits would be numbers.
    if text and text[0].isdigit():
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _dump(config: Any) -> bytes:
    text: str = yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=1 << 20, allow_unicode=False)
    if yaml.load(text, Loader=_Loader) != config:  # noqa: S506  derived from SafeLoader
        raise AssertionError("the dumped YAML does not load as the same value: this is a bug in bake")
    return text.encode()


# pycdlib uses `_FIXED_TIME` in place of the module `time`, because pycdlib has no option for the date of an ISO.
_FIXED_TIME = SimpleNamespace(
    **{**vars(time), "time": lambda: _EPOCH, "localtime": lambda _seconds=None: time.gmtime(_EPOCH)}
)


def _pycdlib() -> Any:
    import pycdlib

    return pycdlib


_PACKING = threading.Lock()


@cache
def _dated_modules() -> tuple[Any, ...]:
    """Return the modules of pycdlib that use the module `time`."""
    _pycdlib()
    loaded = [module for name, module in sys.modules.items() if name.startswith("pycdlib")]
    return tuple(module for module in loaded if getattr(module, "time", None) is time)


@contextmanager
def _fixed_dates() -> Iterator[None]:
    """Give pycdlib a fixed time while an ISO is packed."""
    with _PACKING:
        for module in _dated_modules():
            module.time = _FIXED_TIME
        try:
            yield
        finally:
            for module in _dated_modules():
                module.time = time


def pack(files: Iterable[Artifact]) -> Artifact:
    """Return a NoCloud ISO with `files`. The same files always give the same ISO."""
    with _fixed_dates():
        iso = _pycdlib().PyCdlib()
        iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=ISO_LABEL, sys_ident="LINUX")
        for number, file in enumerate(files):
            iso.add_fp(
                io.BytesIO(file.data),
                len(file.data),
                f"/FILE{number}.;1",
                rr_name=file.path.name,
                joliet_path=f"/{file.path.name}",
                file_mode=0o100400,  # only root can read the keys on a mounted ISO
            )
        image = io.BytesIO()
        iso.write_fp(image)
        iso.close()
    return Artifact(SEED_ISO, image.getvalue(), mode=0o600, secret=True)


def unpack(image: bytes, *, where: str = "", remedy: str = _BAKE_AGAIN) -> tuple[Artifact, ...]:
    """Return the files of an ISO.

    Raises InputError, with the hint `remedy`, if the ISO is incomplete or `pack` did not create it.
    """
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
        raise InputError.one(where, "is not an ISO that bake wrote", remedy) from None
    return tuple(files)


def _find(iso: Any, path: str) -> Any:
    """Return the directory record of a file on the ISO, or None."""
    try:
        return iso.get_record(iso_path=path)
    except _pycdlib().pycdlibexception.PyCdlibInvalidInput:
        return None
