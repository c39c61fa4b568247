"""Build the base image: mmdebstrap creates the root file system, and the recipe's scripts create a disk from it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from generator.errors import BakeError
from generator.image import apt_sources
from generator.progress import Report

RECIPE = Path(__file__).resolve().parent / "recipe"
RELEASE = "trixie"
DISK_SIZE = "4G"
FORMAT_VERSION = 1
MACHINE, _DEBIAN_MACHINE = "x86_64", "amd64"  # the VMs' architecture: the kernel's name and Debian's name
# The image depends on PARAMETERS and on the recipe's files.
PARAMETERS = (FORMAT_VERSION, RELEASE, DISK_SIZE, _DEBIAN_MACHINE)
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_EXCLUDED = ("doc", "man", "locale", "info", "lintian")  # folders in /usr/share that the image omits
_QCOW2 = ("-c", "-o", "compression_type=zstd")
# Each build program runs in its own mount and PID namespaces. When bake ends or is killed, the kernel kills the
# program's processes and removes the program's mounts. Each process holds the build's lock until the process ends.
_GUARD = (
    *("setpriv", "--pdeathsig", "KILL", "--"),
    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--"),
)
_NEEDED = ("mmdebstrap", "mke2fs", "qemu-img", "setpriv", "unshare", "xz", "tar")
# mmdebstrap does not read this machine's apt.conf. bake passes apt's options for network access to mmdebstrap.
_APT_ACCESS = ("Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::https::CAInfo ")
_ENVIRONMENT_KEPT = ("HOME", "http_proxy", "https_proxy", "no_proxy")


def check_machine() -> None:
    """Raise BakeError if this machine cannot build the image."""
    missing = [tool for tool in _NEEDED if not shutil.which(tool, path=_environment()["PATH"])]
    if missing:
        problem = f"the base image cannot be built: {', '.join(missing)} not found"
        raise BakeError(problem, hint="run scripts/setup image")
    if (machine := os.uname().machine) != MACHINE:
        hint = f"run `bake image` on an {MACHINE} machine, or use your own image with --image"
        raise BakeError(f"the base image can only be built on {MACHINE}, and this machine is {machine}", hint=hint)
    if os.geteuid() != 0:
        hint = "run `bake image` once as root with the same BAKE_CACHE, or use your own image with --image"
        raise BakeError("only root can build the base image", hint=hint)


@contextmanager
def exclusive(folder: Path, report: Report) -> Iterator[IO[str]]:
    """Lock this image for a build. The programs of the build inherit the lock and hold it even if bake is killed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock_of(folder.parent, folder.name).open("w") as lock:
        if not _try_lock(lock):
            report("waiting for another build of the base image")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def build(folder: Path, lock: IO[str], report: Report, *, plain: bool) -> None:
    """Build the image in a temporary folder, and rename the folder at the end. The cache has only complete images."""
    scratch = folder.parent / f".{folder.name}.building"
    _remove_stale(folder.parent, scratch)
    scratch.mkdir()
    try:
        _run_recipe(scratch, lock, report, plain=plain)
        facts = json.dumps(_facts(scratch, folder.name, plain=plain), indent=2)
        (scratch / "image.json").write_text(facts + "\n")
        scratch.rename(folder)
    finally:
        if scratch.exists():
            _remove(scratch)


def mmdebstrap_command(tarball: Path, mirrors: list[str], apt: list[str], *, plain: bool) -> list[str]:
    """Return the mmdebstrap command that creates the root file system as a tarball."""
    hooks = ["customize.sh"] if plain else ["customize.sh", "tune.sh"]
    return [
        *["mmdebstrap", "--mode=root", "--variant=apt", "--format=tar", f"--architectures={_DEBIAN_MACHINE}"],
        f"--keyring={_KEYRING}",
        '--aptopt=APT::Install-Recommends "false"',
        *[f"--aptopt={option}" for option in apt],
        *[f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED],
        f'--essential-hook=sh "{RECIPE}/essential.sh" "$1"',
        *[f'--customize-hook=sh "{RECIPE}/{hook}" "$1"' for hook in hooks],
        f"--include={','.join(_packages())}",
        *[RELEASE, str(tarball), *mirrors],
    ]


def _packages() -> list[str]:
    lines = (RECIPE / "packages").read_text().replace("@ARCH@", _DEBIAN_MACHINE).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _lock_of(images: Path, digest: str) -> Path:
    return images / f".{digest}.lock"


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_stale(images: Path, own: Path) -> None:
    """Remove the folders of interrupted builds, but not the locked folders of running builds."""
    for stale in images.glob(".*.building"):
        with _lock_of(images, stale.name.split(".")[1]).open("w") as lock:
            if stale == own or _try_lock(lock):
                _remove(stale)


def _remove(scratch: Path) -> None:
    """Remove a build's folder. Raise BakeError if a file system is still mounted in the folder, for example /proc."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if inside := [point for point in mounted if point.startswith(f"{scratch}/")]:
        raise BakeError(f"{inside[0]} is still mounted", hint=f"unmount it, then remove {scratch}")
    shutil.rmtree(scratch)


def _run_recipe(scratch: Path, lock: IO[str], report: Report, *, plain: bool) -> None:
    report(f"building the base image (Debian {RELEASE}), about a minute")
    own_release = apt_sources.own_release(Path("/etc/os-release").read_text())
    mirrors = apt_sources.mirrors(apt_sources.load_sources(Path("/etc/apt")), own_release, RELEASE)
    # INITRD=No skips the build of Debian's initrd, because assemble.sh builds the initrd of the variant `tuned`.
    settings = {"TMPDIR": str(scratch), **({} if plain else {"INITRD": "No"})}
    run = partial(_run, settings=settings, lock=lock, report=report)
    run(mmdebstrap_command(scratch / "root.tar", mirrors, apt_access(), plain=plain))
    report("creating the file system of the base image")
    variant = "plain" if plain else "tuned"
    run(["sh", f"{RECIPE}/assemble.sh", f"{scratch}/root.tar", str(scratch), DISK_SIZE, variant])
    # The disk is compressed because `bake up` uploads it into the storage pool of each cluster.
    run(["qemu-img", "convert", "-O", "qcow2", *_QCOW2, f"{scratch}/disk.raw", f"{scratch}/disk.qcow2"])
    (scratch / "disk.raw").unlink()


def _run(command: list[str], *, settings: Mapping[str, str], lock: IO[str], report: Report) -> None:
    """Run a build program. If the program fails, raise BakeError with the last lines of the program's output."""
    with subprocess.Popen(
        [*_GUARD, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**_environment(), **settings},
        pass_fds=[lock.fileno()],
    ) as process:
        try:
            output = _follow(process, report)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        lines = "\n".join(output[-15:])
        hint = f"the lines above are from {command[0]}; check the network and the free disk space"
        raise BakeError(f"{command[0]} failed with status {process.returncode}:\n{lines}", hint=hint)


def _follow(process: subprocess.Popen[str], report: Report) -> list[str]:
    """Report mmdebstrap's progress lines, and return all lines of the program's output."""
    lines: list[str] = []
    for line in process.stdout or ():
        lines.append(line.rstrip())
        if line.startswith("I: ") and "hook" not in line:
            report(f"  {line[3:].strip()}")
    return lines


def _environment() -> dict[str, str]:
    """Return the environment of the build's programs, without variables that could change the image."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT_KEPT if name in os.environ}
    return {**kept, "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}


def apt_access() -> list[str]:
    """Return this machine's apt options for network access, such as `Acquire::http::Proxy "…"`."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    return [line.removesuffix(";") for line in dump.splitlines() if line.startswith(_APT_ACCESS)]


def _facts(scratch: Path, digest: str, *, plain: bool) -> dict[str, object]:
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", str(scratch / "disk.qcow2")], capture_output=True, check=True
    )
    listing = scratch / "packages"
    packages = dict(line.split(" ", 1) for line in listing.read_text().splitlines())
    listing.unlink()
    cmdline = (RECIPE / ("cmdline.plain" if plain else "cmdline")).read_text().strip()
    return {
        "format_version": FORMAT_VERSION,
        "digest": digest,
        "release": RELEASE,
        "architecture": _DEBIAN_MACHINE,
        "variant": "plain" if plain else "tuned",
        "disk": "disk.qcow2",
        "format": "qcow2",
        "virtual_size": json.loads(info.stdout)["virtual-size"],
        "kernel": "vmlinuz",
        "initrd": "initrd.img",
        "cmdline": cmdline,
        "packages": packages,
    }
