"""Print the folder of the root file system of an Incus host. scripts/incus-lab calls this script, as root.

The folder is in build/. If it is missing, mmdebstrap makes it in about a minute. Its name depends on this recipe.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from generator.errors import BakeError
from generator.image import apt_sources, build

PACKAGES = ("systemd-sysv", "dbus", "iproute2", "incus-base", "incus-client", "nftables", "uidmap")
# The services of a host that no test needs. Each of them costs time at every boot.
# The lab has configured the network, so nothing may wait for networkd.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "getty.target", "incus-user.socket", "systemd-logind.service",
    "systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service",
)  # fmt: skip
RECIPE = (build.RELEASE, PACKAGES, MASKED)
FOLDER = Path(__file__).resolve().parents[1] / "build"


def main() -> None:
    digest = hashlib.sha256(json.dumps(RECIPE).encode()).hexdigest()[:16]
    root = FOLDER / f"incus-host-{digest}"
    with build.exclusive(root, report):
        if not root.is_dir():
            build.check_machine()
            make(root)
    print(root)


def make(root: Path) -> None:
    release = apt_sources.own_release(Path("/etc/os-release").read_text())
    mirrors = apt_sources.mirrors(apt_sources.load_sources(Path("/etc/apt")), release, build.RELEASE)
    partial = root.with_name(f".{root.name}.building")
    report(f"making {root}, about a minute")
    subprocess.run(["rm", "-rf", "--one-file-system", "--", partial], check=True)
    command = [
        *["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(PACKAGES)}"],
        *[f"--aptopt={option}" for option in ('APT::Install-Recommends "false"', *build.apt_access())],
        *[f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")],
        f'--customize-hook=chroot "$1" systemctl mask {" ".join(MASKED)}',
        '--customize-hook=rm -f "$1/etc/machine-id" "$1/etc/resolv.conf"',
        *[build.RELEASE, str(partial), *mirrors],
    ]
    # The build programs end with this process, and remove their mounts (--kill-child).
    guard = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"]
    done = subprocess.run([*guard, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BakeError(f"mmdebstrap failed with status {done.returncode}:\n{lines}", hint="check the network")
    partial.rename(root)


def report(line: str) -> None:
    print(line, file=sys.stderr)


if __name__ == "__main__":
    try:
        main()
    except BakeError as error:
        sys.exit(f"error: {error}")
