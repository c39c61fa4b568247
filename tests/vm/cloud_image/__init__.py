"""A small cloud image like those that distributions publish: Debian 13, which GRUB boots from BIOS or UEFI.

The tests have no network and cannot download a published image. This image has no etcd. It contains the packages that a
node may install.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from generator.image import apt_sources
from generator.image.build import RELEASE, apt_access

RECIPE = Path(__file__).parent
BUILD = RECIPE.parents[2] / "build"


def digest(packages: tuple[str, ...]) -> str:
    lists = {RECIPE / name for name in packages}
    files = sorted(path for path in RECIPE.iterdir() if path.is_file() and (path.stem != "packages" or path in lists))
    return hashlib.sha256(b"\0".join(path.name.encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()[:16]


def cloud_image(kind: str, *more: str) -> Path:
    """Return the image with these lists of packages. If it is missing, build it: about two minutes, as root."""
    packages = ("packages", *more)
    image = BUILD / f"cloud-image-{kind}-{digest(packages)}.qcow2"
    if not image.exists():
        BUILD.mkdir(exist_ok=True)
        for stale in BUILD.glob(f"cloud-image-{kind}-*.qcow2"):
            stale.unlink()
        with tempfile.TemporaryDirectory(prefix=".cloud-image-", dir=BUILD) as folder:
            build(Path(folder), packages).rename(image)
    return image


def build(folder: Path, lists: tuple[str, ...]) -> Path:
    release = apt_sources.own_release(Path("/etc/os-release").read_text())
    mirrors = apt_sources.mirrors(apt_sources.load_sources(Path("/etc/apt")), release, RELEASE)
    lines = [line for name in lists for line in (RECIPE / name).read_text().splitlines()]
    packages = [line for line in lines if not line.startswith("#")]
    run(folder, [
        *["mmdebstrap", "--mode=root", "--variant=apt", "--format=tar", f"--include={','.join(packages)}"],
        *[f"--aptopt={option}" for option in ('APT::Install-Recommends "false"', *apt_access())],
        *[f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")],
        f'--customize-hook=sh "{RECIPE}/customize.sh" "$1"',
        *[RELEASE, f"{folder}/root.tar", *mirrors],
    ])  # fmt: skip
    run(folder, ["sh", f"{RECIPE}/assemble.sh", f"{folder}/root.tar", str(folder)])
    run(folder, ["qemu-img", "convert", "-O", "qcow2", f"{folder}/disk.raw", f"{folder}/disk.qcow2"])
    return folder / "disk.qcow2"


def run(folder: Path, command: list[str]) -> None:
    environment = {**os.environ, "TMPDIR": str(folder), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
