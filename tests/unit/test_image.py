"""The base image's recipe and cache, and the images that `--image` refuses."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from generator.errors import BakeError, InputError
from generator.image import base, build, custom

needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="a build creates namespaces, which only root can do"
)


def quiet(_: str) -> None:
    return


def make_qcow2(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), "1M"], check=True)
    return path


def make_raw(path: Path) -> Path:
    content = bytearray(1 << 20)
    content[510:512] = b"\x55\xaa"
    path.write_bytes(content)
    return path


def complete_image(folder: Path) -> Path:
    folder.mkdir(parents=True)
    facts = {
        "disk": "disk.qcow2",
        "format": "qcow2",
        "virtual_size": 1,
        "digest": folder.name,
        "cmdline": "quiet",
    }
    (folder / "image.json").write_text(json.dumps({**facts, "kernel": "vmlinuz", "initrd": "initrd.img"}))
    return folder


def refusal(source: Path | str, tmp_path: Path, sha256: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        custom.custom_image(str(source), sha256, tmp_path / "cache", report=quiet)
    [problem] = caught.value.problems
    assert problem.hint
    return str(problem)


# --- the default image ---


def test_the_digest_changes_with_every_file_of_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe"
    (recipe / "files").mkdir(parents=True)
    (recipe / "files" / "a").write_text("1")
    before = base.recipe_digest(recipe, plain=False)
    # Python writes bytecode when a test imports a file of the recipe.
    (recipe / "tuned/__pycache__").mkdir(parents=True)
    (recipe / "tuned/__pycache__/cloud_init.cpython-311.pyc").write_bytes(b"bytecode")
    assert base.recipe_digest(recipe, plain=False) == before
    (recipe / "files" / "a").write_text("2")
    changed = base.recipe_digest(recipe, plain=False)
    (recipe / "files" / "a").rename(recipe / "files" / "b")
    renamed = base.recipe_digest(recipe, plain=False)
    assert len({before, changed, renamed, base.recipe_digest(recipe, plain=True)}) == 4


def test_a_cached_image_is_not_built_again(tmp_path: Path) -> None:
    digest = base.recipe_digest(build.RECIPE, plain=False)
    folder = complete_image(tmp_path / "images" / digest)
    found = base.default_image(tmp_path, report=lambda text: pytest.fail(text))
    assert (found.disk, found.digest, found.cmdline) == (folder / "disk.qcow2", digest, "quiet")


def test_a_folder_without_image_json_is_no_image(tmp_path: Path) -> None:
    assert base.load_image(tmp_path) is None


@needs_root
def test_a_failed_build_leaves_no_files_and_reports_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        build, "mmdebstrap_command", lambda *_, **__: ["sh", "-c", "echo E: no mirror; exit 9"]
    )
    folder = tmp_path / "images" / "abc"
    with build.exclusive(folder, quiet) as lock, pytest.raises(BakeError, match="E: no mirror"):
        build.build(folder, lock, quiet, plain=False)
    assert [path.name for path in folder.parent.iterdir()] == [".abc.lock"]


@needs_root
def test_a_build_removes_the_folders_of_interrupted_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "mmdebstrap_command", lambda *_, **__: ["false"])
    images = tmp_path / "images"
    for name in (".abc.building", ".dead.building", ".alive.building"):
        (images / name / "half").mkdir(parents=True)
    with (images / ".alive.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with build.exclusive(images / "abc", quiet) as lock, pytest.raises(BakeError):
            build.build(images / "abc", lock, quiet, plain=False)
    assert [path.name for path in images.glob("*.building")] == [".alive.building"]


@needs_root
def test_the_programs_of_a_build_hold_the_lock_of_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = f"flock --nonblock {tmp_path}/images/.abc.lock true || echo E: taken; exit 1"
    monkeypatch.setattr(build, "mmdebstrap_command", lambda *_, **__: ["sh", "-c", probe])
    with (
        build.exclusive(tmp_path / "images" / "abc", quiet) as lock,
        pytest.raises(BakeError, match="E: taken"),
    ):
        build.build(tmp_path / "images" / "abc", lock, quiet, plain=False)


def test_nothing_is_removed_through_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "images" / ".abc.building"
    (stale / "root" / "proc").mkdir(parents=True)
    mountinfo = f"36 35 0:5 / {stale}/root/proc rw - proc proc rw\n"
    read_text = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a: mountinfo if path.name == "mountinfo" else read_text(path, *a)
    )
    with (
        build.exclusive(tmp_path / "images" / "abc", quiet) as lock,
        pytest.raises(BakeError, match="mounted"),
    ):
        build.build(tmp_path / "images" / "abc", lock, quiet, plain=False)
    assert (stale / "root" / "proc").exists()


def test_only_the_default_variant_is_tuned() -> None:
    def hooks(*, plain: bool) -> list[str]:
        command = build.mmdebstrap_command(Path("root.tar"), [], [], plain=plain)
        return [word for word in command if word.startswith("--customize-hook")]

    assert any("tune.sh" in hook for hook in hooks(plain=False))
    assert not any("tune.sh" in hook for hook in hooks(plain=True))


# --- the user's image ---


def convert(raw: Path, *options: str) -> Path:
    path = raw.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", *options, str(raw), str(path)], check=True)
    return path


@needs_qemu_img
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=512"]])
def test_a_qcow2_image_boots_through_its_boot_loader(tmp_path: Path, options: list[str]) -> None:
    path = convert(make_raw(tmp_path / "own.raw"), *options)
    found = custom.custom_image(str(path), None, tmp_path / "cache", report=quiet)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.disk, found.format, found.virtual_size, found.digest) == (path, "qcow2", 1 << 20, digest)
    assert found.kernel is None


@needs_qemu_img
def test_a_raw_image_with_a_partition_table_is_accepted(tmp_path: Path) -> None:
    path = make_raw(tmp_path / "own.raw")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert custom.custom_image(str(path), digest, tmp_path / "cache", report=quiet).format == "raw"


@needs_qemu_img
@pytest.mark.parametrize("sector", [512, 4096])
def test_a_qcow2_image_with_a_gpt_is_accepted(tmp_path: Path, sector: int) -> None:
    raw = tmp_path / "own.raw"
    raw.write_bytes(bytes(sector) + b"EFI PART" + bytes(1 << 20))
    custom.custom_image(str(convert(raw)), None, tmp_path / "cache", report=quiet)


@needs_qemu_img
@pytest.mark.parametrize("content", ["an empty disk", "a file system", "two sectors"])
def test_a_disk_without_a_partition_table_is_refused(
    tmp_path: Path, content: str, tool: Callable[[str], str]
) -> None:
    """A VM would start and print nothing on its console."""
    raw = tmp_path / "own.raw"
    raw.write_bytes(bytes(1024 if content == "two sectors" else 8 << 20))
    if content == "a file system":
        subprocess.run([tool("mke2fs"), "-q", "-t", "ext4", str(raw)], check=True)
    assert "neither qcow2, nor raw with an MBR or GPT partition table" in refusal(raw, tmp_path)
    image = convert(raw)
    before = image.read_bytes()
    assert "own.qcow2' has no MBR or GPT partition table, so no VM can boot from it" in refusal(image, tmp_path)
    assert image.read_bytes() == before


@needs_qemu_img
def test_a_damaged_qcow2_image_is_refused(tmp_path: Path) -> None:
    path = convert(make_raw(tmp_path / "own.raw"))
    content = bytearray(path.read_bytes())
    table = int.from_bytes(content[40:48], "big")  # where the L1 table is (qcow2's specification)
    content[table : table + 8] = (1 << 55 | 1 << 40).to_bytes(8, "big")  # the table says that data is behind the end
    path.write_bytes(content)
    assert "own.qcow2' is damaged: qemu-img check finds errors" in refusal(path, tmp_path)


@needs_qemu_img
def test_a_truncated_qcow2_image_is_refused(tmp_path: Path) -> None:
    """QEMU reads zeros where the file ends."""
    raw = tmp_path / "own.raw"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + b"data" * (1 << 20))
    path = convert(raw)
    path.write_bytes(path.read_bytes()[: 5 << 16])  # the first five clusters: headers and tables
    assert "own.qcow2' is damaged: qemu-img check finds errors" in refusal(path, tmp_path)


@needs_qemu_img
def test_a_qcow2_image_whose_first_cluster_cannot_be_read_is_refused(tmp_path: Path) -> None:
    raw = tmp_path / "own.raw"
    raw.write_bytes(bytes(510) + b"\x55\xaa" + b"data" * (1 << 20))
    path = convert(raw, "-c")
    content = bytearray(path.read_bytes())
    tables = int.from_bytes(content[40:48], "big")
    table = int.from_bytes(content[tables : tables + 8], "big") & ((1 << 56) - (1 << 9))
    data = int.from_bytes(content[table : table + 8], "big") & ((1 << 54) - 1)  # of a compressed cluster of 64 KiB
    content[data : data + 16] = b"\xff" * 16
    path.write_bytes(content)
    assert "own.qcow2' is damaged: " in (text := refusal(path, tmp_path))
    assert "Input/output error" in text


@needs_qemu_img
def test_a_text_file_is_not_an_image(tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text("<html>404</html>" * 100)
    assert "is not a disk image" in refusal(path, tmp_path)


@needs_qemu_img
def test_a_backing_file_is_refused(tmp_path: Path) -> None:
    base = make_qcow2(tmp_path / "base.qcow2")
    assert "backing file" in refusal(
        make_qcow2(tmp_path / "top.qcow2", "-b", str(base), "-F", "qcow2"), tmp_path
    )


@needs_qemu_img
def test_an_external_data_file_is_refused(tmp_path: Path) -> None:
    path = make_qcow2(tmp_path / "own.qcow2", "-o", f"data_file={tmp_path / 'data.raw'}")
    assert "data file" in refusal(path, tmp_path)


@needs_qemu_img
def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", str(path), "1M"], check=True)
    assert "vmdk" in refusal(path, tmp_path)


def test_a_wrong_sha256_is_refused(tmp_path: Path) -> None:
    path = make_raw(tmp_path / "own.raw")
    assert "sha256" in refusal(path, tmp_path, "0" * 64)


def test_an_image_must_be_a_regular_file(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    subprocess.run(["mkfifo", str(fifo)], check=True)
    assert "not a regular file" in refusal(fifo, tmp_path)
    assert "a directory" in refusal(tmp_path, tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere", tmp_path)


def test_only_http_and_https_are_supported(tmp_path: Path) -> None:
    assert "ftp" in refusal("ftp://127.0.0.1/own.qcow2", tmp_path)


def test_another_architecture_cannot_build_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_NEEDED", ())
    other = os.uname_result(("Linux", "host", "6.1", "#1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: other)
    with pytest.raises(BakeError, match="can only be built on x86_64, and this machine is aarch64"):
        build.check_machine()
