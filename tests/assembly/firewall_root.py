"""The base image's root file system with every kind of firewall, for nodes that boot as containers."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from generator.image import apt_sources
from generator.image.build import RELEASE, apt_access
from tests.assembly.nspawn_lab import extract_root

BUILD = Path(__file__).parents[2] / "build"
PACKAGES = "firewalld,ufw"  # nftables and iptables are in the image


def firewall_root(root_tar: Path) -> Path:
    """Return the root folder. If it is missing, build it, which takes about a minute and needs root."""
    digest = hashlib.sha256(f"{root_tar.parent.name} {PACKAGES}".encode()).hexdigest()[:16]
    folder = BUILD / f"firewall-root-{digest}"
    if not folder.is_dir():
        BUILD.mkdir(exist_ok=True)
        for stale in BUILD.glob("firewall-root-*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        tarball = folder.with_suffix(".tar")
        install(root_tar, tarball)
        extract_root(tarball, folder)
        tarball.unlink()
    return folder


def install(root_tar: Path, tarball: Path) -> None:
    release = apt_sources.own_release(Path("/etc/os-release").read_text())
    mirrors = apt_sources.mirrors(apt_sources.load_sources(Path("/etc/apt")), release, RELEASE)
    command = [
        *["mmdebstrap", "--mode=root", "--variant=custom", "--format=tar", f"--include={PACKAGES}"],
        *[f"--aptopt={option}" for option in ('APT::Install-Recommends "false"', *apt_access())],
        f'--setup-hook=tar -C "$1" --numeric-owner -xf "{root_tar}"',
        # In Debian, cloud-init and firewalld conflict because of the order of their units; Enterprise Linux has both.
        """--setup-hook=sed -i '/^Package: cloud-init$/,/^$/{/^Conflicts:/d}' "$1/var/lib/dpkg/status" """,
        *[RELEASE, str(tarball), *mirrors],
    ]
    environment = {**os.environ, "TMPDIR": str(tarball.parent), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"mmdebstrap: {done.stderr[-4000:]}"
