"""Check the user's disk image (`--image FILE|URL`) before a VM uses it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from generator.errors import BakeError, InputError
from generator.image.base import BootImage
from generator.progress import Report, Work, working

_CHUNK = 1 << 20
_HEAD = 8192  # bytes of a disk in which a partition table begins
_CORRUPT = 2  # exit code of `qemu-img check`
_ALONE = "convert the image to a single file with qemu-img convert -O qcow2"
_URL = re.compile(r"^([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def custom_image(source: str, sha256: str | None, cache: Path, *, report: Report) -> BootImage:
    """Return the image at a path or URL. `kernel` is None, because the VM boots with the boot loader of the image.

    `sha256`: the expected digest. The cluster's configuration requires a digest for every URL.
    """
    if _URL.match(source):
        path, digest = _download(source, sha256, cache, report)
    else:
        path = _existing_file(source)
        digest = _verified(path, source, sha256)
    info = _inspect(path, source)
    return BootImage(disk=path, format=info["format"], virtual_size=info["virtual-size"], digest=digest)


def missing_image(source: str) -> str | None:
    """Return a warning if an image is a path of this machine without a file, or None."""
    if _URL.match(source) or Path(source).expanduser().is_file():
        return None
    return f"there is no file {source} on this machine"


def _refuse(source: str, problem: str, hint: str) -> InputError:
    return InputError.one("image", f"{source!r} {problem}", hint)


def _existing_file(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.exists():
        raise _refuse(source, "does not exist; it must be a file or an http(s) URL", "check the path")
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise _refuse(source, f"is {kind}; an image must be a regular file", "give the path of the disk image")
    try:
        with path.open("rb"):
            return path.resolve()
    except OSError as error:
        raise _refuse(source, f"cannot be read: {error.strerror}", "check its owner and mode") from None


def _verified(path: Path, source: str, expected: str | None) -> str:
    digest = _sha256_of(path)
    if expected not in (None, digest):
        raise _refuse(source, f"has sha256 {digest}, but {expected} is expected", "download the image again")
    return digest


def _sha256_of(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file, working(f"checking {path.name}", path.stat().st_size, "B") as work:
        while chunk := file.read(_CHUNK):
            total.update(chunk)
            work.advance(len(chunk))
    return total.hexdigest()


# --- inspecting the file ---


def _inspect(path: Path, source: str) -> dict[str, Any]:
    """Return qemu-img's description of the image. Raise InputError if a VM must not use the image."""
    info = _qemu_img_info(path, source)
    kind = info["format"]
    if kind == "raw" and not _has_partition_table(_head_of_file(path)):
        problem = "is not a disk image: neither qcow2, nor raw with an MBR or GPT partition table"
        raise _refuse(source, problem, "decompress the file if it is compressed, or download it again")
    if kind not in ("raw", "qcow2"):
        raise _refuse(
            source, f"has format {kind}, but only qcow2 and raw are supported", "convert it: qemu-img convert -O qcow2"
        )
    details = info.get("format-specific", {}).get("data", {})
    # If an image names a file of this machine as its backing file or data file, the VM can read that file.
    if "backing-filename" in info:
        raise _refuse(source, "has a backing file, which is not allowed", _ALONE)
    if "data-file" in details:
        raise _refuse(source, "has an external data file, which is not allowed", _ALONE)
    if info.get("encrypted") or details.get("corrupt"):
        state = "encrypted" if info.get("encrypted") else "marked as corrupt"
        raise _refuse(source, f"is {state}, so a node cannot boot from it", "use another image")
    if kind == "qcow2" and not _has_partition_table(_head_of_qcow2(path, source)):
        if _has_damaged_tables(path):
            raise _refuse(source, "is damaged: qemu-img check finds errors", "download it again")
        problem = "has no MBR or GPT partition table, so no VM can boot from it"
        raise _refuse(source, problem, "use the image of a whole disk with a boot loader, such as a cloud image")
    return info


def _qemu_img_info(path: Path, source: str) -> dict[str, Any]:
    if not shutil.which("qemu-img"):
        raise BakeError("qemu-img not found", hint="run scripts/setup image")
    command = ["qemu-img", "info", "-U", "--output=json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise _refuse(source, f"is not a disk image that QEMU can read: {reason}", "download it again")
    info: dict[str, Any] = json.loads(result.stdout)
    return info


def _head_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _head_of_qcow2(path: Path, source: str) -> bytes:
    """Return the first bytes of the disk in a qcow2 file."""
    with tempfile.TemporaryDirectory() as folder:
        head = Path(folder, "head")
        command = ["qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", f"bs={_HEAD}", "count=1"]
        command += [f"if={path}", f"of={head}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise _refuse(source, f"is damaged: {reason}", "download it again")
        return _head_of_file(head)


def _has_damaged_tables(path: Path) -> bool:
    """Return whether a qcow2 file is truncated or inconsistent. QEMU reads zeros behind the end of a truncated file."""
    command = ["qemu-img", "check", "-U", "-q", "-f", "qcow2", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode == _CORRUPT


def _has_partition_table(head: bytes) -> bool:
    """Return whether the disk that begins with `head` has a partition table (MBR or GPT).

    The signature of an MBR is at byte 510. The signature of a GPT is at the start of sector 1, which is at byte 512 or
    4096.
    """
    return head[510:512] == b"\x55\xaa" or b"EFI PART" in (head[512:520], head[4096:4104])


# --- downloading ---


def _download(url: str, expected: str | None, cache: Path, report: Report) -> tuple[Path, str]:
    scheme = url.split(":", 1)[0].lower()
    if scheme not in ("http", "https"):
        problem = f"has the scheme {scheme}, but only http and https are supported"
        raise _refuse(url, problem, "download the image, and give the path of the file")
    folder = cache.absolute() / "downloads"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}.img"
    if target.exists() and (digest := _sha256_of(target)) == expected:
        report(f"using {target}, which was downloaded from {url} earlier")
        return target, digest
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".download-") as partial:
        _fetch(url, partial, report)
        digest = _verified(Path(partial.name), url, expected)
        # Only a download with the expected digest gets its final name. `tempfile` deletes the temporary name.
        target.unlink(missing_ok=True)
        target.hardlink_to(partial.name)
    return target, digest


def _fetch(url: str, file: IO[bytes], report: Report) -> None:
    try:
        import requests
    except ImportError:
        problem = "the Python package requests, which downloads images, is missing"
        raise BakeError(problem, hint="run scripts/setup vm") from None
    try:
        with requests.get(url, stream=True, timeout=(10, 60)) as response:
            response.raise_for_status()
            total = int(response.headers.get("content-length") or 0)
            chunks = response.iter_content(_CHUNK)
            with working(f"downloading {url}", total, "B") as work:
                size = _copy(chunks, file, work, lambda text: report(f"downloading {url}: {text}"))
    except requests.RequestException as error:
        hint = "check the address and the network"
        raise BakeError(f"{url} cannot be downloaded: {error}", hint=hint) from None
    if total and size < total:
        raise BakeError(f"{url} ended after {size} of {total} bytes", hint="try again")


def _copy(chunks: Iterable[bytes], file: IO[bytes], work: Work, progress: Report) -> int:
    """Write the chunks to the file. Return their size in bytes.

    If no terminal shows the work, report progress ten times, or every 64 MiB if the size is unknown.
    """
    size, total = 0, work.total
    step = max(total // 10, 1) if total else 64 * _CHUNK
    for chunk in chunks:
        work.advance(len(chunk))
        if not work.shown and size // step != (size + len(chunk)) // step:
            progress(f"{(size + len(chunk)) >> 20} MiB" + (f" of {total >> 20}" if total else ""))
        size += len(chunk)
        file.write(chunk)
    file.flush()
    return size
