"""Make the image of the nodes' containers from bake's base image, and upload it.

The image consists of the root file system of the base image, and of a description with templates. Incus writes the
templates into a container's file system. A container needs them, and a VM does not: a container's seed is a folder
instead of an ISO, and its network is configured from outside.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from generator.errors import BakeError
from generator.image.base import BootImage
from generator.incus.client import Incus
from generator.incus.tags import Claim, Tag, read_tag
from generator.progress import Report, Work, working

DRIVE = "/var/lib/bake-seed"  # where a container has its seed; /run is mounted over when systemd starts
NETWORK = "user.bake.network"  # the key of an instance's configuration with a file for systemd-networkd
_CHUNK = 1 << 20
_BOUNDARY = "bake-image"

_CLOUD_INIT = f"""# The address is in a file for systemd-networkd, and the seed is a folder.
network: {{config: disabled}}
datasource: {{NoCloud: {{seedfrom: {DRIVE}/}}}}
"""
_NETWORK = f'{{{{ config_get("{NETWORK}", "") }}}}\n'
# If the drive is empty, apply-seed.service must not start, as in a VM without an ISO.
_MEDIUM = f"""[Unit]
AssertPathExists={DRIVE}/meta-data

[Mount]
What={DRIVE}
Type=none
Options=bind
"""
# Stands for udev, which starts apply-seed.service at boot if an ISO is in the drive (80-bake-seed.rules).
_SEED = f"""[Unit]
Description=Look for a seed in this node's drive
DefaultDependencies=no
After=local-fs.target
Before=cloud-init-main.service cloud-init-local.service
ConditionPathExists={DRIVE}/meta-data

[Service]
Type=oneshot
ExecStart=/bin/mkdir -p /run/bake
ExecStart=/bin/ln -sfn {DRIVE} /run/bake/seed
ExecStart=/bin/systemctl start --no-block apply-seed.service
"""
_WANTS = "[Unit]\nWants=bake-seed.service\n"
_UNITS = "/etc/systemd/system"
# Path in the container → the content, and when Incus writes the file.
_TEMPLATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "/etc/cloud/cloud.cfg.d/95_incus.cfg": (_CLOUD_INIT, ("create",)),
    "/etc/systemd/network/10-bake.network": (_NETWORK, ("create", "start")),
    f"{_UNITS}/run-bake-medium.mount.d/incus.conf": (_MEDIUM, ("create",)),
    f"{_UNITS}/bake-seed.service": (_SEED, ("create",)),
    f"{_UNITS}/basic.target.d/bake.conf": (_WANTS, ("create",)),
    f"{_UNITS}/cloud-init-main.service.d/incus.conf": (_WANTS, ("create",)),
}


@dataclass(frozen=True, kw_only=True)
class ContainerImage:
    """The image of a cluster's containers. The same base image and cluster always give the same fingerprint."""

    base: BootImage
    tag: Tag

    @cached_property
    def root(self) -> Path:
        if self.base.root_tar is None or not self.base.root_tar.exists():
            raise BakeError(f"the image {self.base.disk} has no root file system for containers", hint="bake image")
        return self.base.root_tar

    @cached_property
    def description(self) -> bytes:
        """The tarball with the description and the templates."""
        files = {f"templates/{number}.tpl": text for number, (text, _) in enumerate(_TEMPLATES.values())}
        templates = {
            path: {"when": list(when), "template": f"{number}.tpl"}
            for number, (path, (_, when)) in enumerate(_TEMPLATES.items())
        }
        metadata = {
            "architecture": "x86_64",
            "creation_date": 1,
            "properties": {
                "description": f"bake: nodes of the etcd cluster {self.tag.cluster}", "os": "bake", **self.tag.config
            },
            "templates": templates,
        }
        return tar({"metadata.yaml": json.dumps(metadata).encode(), **{name: files[name].encode() for name in files}})

    @cached_property
    def fingerprint(self) -> str:
        """The name of the image in Incus: the SHA-256 of both files."""
        total = hashlib.sha256(self.description)
        with self.root.open("rb") as file:
            while chunk := file.read(_CHUNK):
                total.update(chunk)
        return total.hexdigest()

    def upload(self, incus: Incus, report: Report) -> None:
        """Upload the image unless the project has it."""
        if incus.find("images", self.fingerprint) is not None:
            return
        report("uploading the image to Incus")
        headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
        with working("uploading the image to Incus", self.root.stat().st_size, "B") as work:
            incus.upload("images", body=self._parts(work), headers=headers)

    def _parts(self, work: Work) -> Iterator[bytes]:
        yield _part("metadata", "metadata.tar")
        yield self.description
        yield b"\r\n" + _part("rootfs", "rootfs.tar")
        with self.root.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
                work.advance(len(chunk))
        yield f"\r\n--{_BOUNDARY}--\r\n".encode()


def _part(name: str, file: str) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{file}"'
    return f"--{_BOUNDARY}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()


def tar(files: Mapping[str, bytes], *, mode: int = 0o644, folders: Mapping[str, int] | None = None) -> bytes:
    """Return a tarball. `folders`: the path and the mode of folders. The same files always give the same tarball."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, folder_mode in (folders or {}).items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, folder_mode
            archive.addfile(entry)
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return target.getvalue()


def list_images(incus: Incus, claim: Claim) -> dict[str, Tag]:
    """Return the cluster's images by fingerprint."""
    found = {one["fingerprint"]: read_tag(one.get("properties") or {}) for one in incus.get("images", recursion="1")}
    return {name: tag for name, tag in found.items() if tag is not None and claim.covers(tag)}


def remove_images(incus: Incus, claim: Claim, *, kept: frozenset[str] = frozenset()) -> list[str]:
    """Remove the cluster's images except `kept` (fingerprints). Containers keep their disks. Return their names."""
    removed = [name for name in list_images(incus, claim) if name not in kept and incus.delete("images", name)]
    return [f"image {name[:12]}" for name in removed]
