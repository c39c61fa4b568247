"""Measures each part of the base image's tuning: three emulated VMs boot without the part, and three with all parts.

The VMs have an empty user-data, or with --cluster-seeds the seeds of a new cluster. A boot lasts from power-on until
cloud-init has finished. The gain of a part is the additional processor time without the part, in percent. The elapsed
time varies more than the processor time. The VMs run with a high priority, so that other processes hardly disturb the
measurement.

tuning.py [--only NAME]... [--rounds N] [--cluster-seeds] [--write] [--list]      as root; see `scripts/tuning`
tuning.py --boot FOLDER ROUNDS [--cluster-seeds]      inside a lab: boots the variants in FOLDER, prints JSON
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench_boot import END, empty_seed, seconds_to

from generator.config.load import load
from generator.image.base import BootImage, cache_folder, default_image
from generator.image.build import DISK_SIZE, RECIPE
from generator.operations.bake import Baked, bake
from generator.store.folder import Store

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "image-tuning.md"
BEGIN, END_MARK = "<!-- tuning: made by scripts/tuning --write -->", "<!-- /tuning -->"
FULL = "full"  # the name of the image with every part
AUTOGROUP = Path("/proc/self/autogroup")  # sched(7), "The autogroup feature"
KEEP = 3.0  # minimum gain, in percent, of a part whose only purpose is speed

Undo = Callable[[Path], None]  # removes a part from the unpacked root file system in a folder


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the tuning, and how to make the image without this part."""

    title: str
    undo: Undo | None = None
    plain_initrd: bool = False


def remove(*paths: str) -> Undo:
    def undo(root: Path) -> None:
        for path in paths:
            (root / path).unlink()

    return undo


def unmask(listing: str, folder: str) -> Undo:
    """Remove links to /dev/null. The recipe's file `listing` contains the names of the links."""
    text = re.sub(r"#.*", "", (RECIPE / listing).read_text())
    return remove(*(f"{folder}/{name}" for name in text.split()))


def edit(path: str, old: str, new: str) -> Undo:
    def undo(root: Path) -> None:
        text = (root / path).read_text()
        if old not in text:
            raise SystemExit(f"tuning: {path} has no {old!r}")
        (root / path).write_text(text.replace(old, new))

    return undo


_STARTER = "usr/local/lib/base-image/cloud_init.py"
_MODULES = "etc/cloud/cloud.cfg.d/95_modules.cfg"

PARTS = {
    "initrd": Part("the initrd has only busybox and six modules", plain_initrd=True),
    "generators": Part("masked generators do not run", unmask("masked-generators", "etc/systemd/system-generators")),
    "udev-trigger": Part(
        "udev looks at few kinds of devices", remove("etc/systemd/system/systemd-udev-trigger.service.d/10-base.conf")
    ),
    "units": Part("masked units do not start", unmask("masked-units", "etc/systemd/system")),
    "modules": Part("a short list of cloud-init modules", remove(_MODULES)),
    "requests": Part("cloud-init does not import requests",
                     edit(_STARTER, "sys.modules.update({name: Deferred(name) for name in DEFERRED})", "pass")),
    "jsonschema": Part("cloud-init does not import jsonschema",
                       edit(_STARTER, 'sys.modules["jsonschema"] = None', "pass")),
    "libyaml": Part("cloud-init reads and writes YAML with libyaml",
                    edit(_STARTER, "= yaml.CSafeLoader, yaml.CSafeDumper", "= yaml.SafeLoader, yaml.SafeDumper")),
}  # fmt: skip


# --- the images -------------------------------------------------------------------------------------------------


def make_variants(names: list[str], folder: Path) -> None:
    """Write each variant of the image to `folder/NAME/`. variant.json has the paths and the kernel's command line."""
    full = default_image(cache_folder(), report=say)
    needs_plain = any(PARTS[name].plain_initrd for name in names)
    plain = default_image(cache_folder(), report=say, plain=True) if needs_plain else full
    for name in names:
        say(f"making the image without: {PARTS[name].title}")
        write_variant(folder, name, variant(PARTS[name], full, plain, folder / name))
    write_variant(folder, FULL, full)


def variant(part: Part, full: BootImage, plain: BootImage, folder: Path) -> BootImage:
    """Return the full image without one part. Write a changed disk to `folder`."""
    folder.mkdir()
    return replace(
        full,
        initrd=plain.initrd if part.plain_initrd else full.initrd,
        disk=disk_without(part.undo, full, folder) if part.undo else full.disk,
        digest=f"without-{folder.name}" if part.undo else full.digest,
    )


def disk_without(undo: Undo, full: BootImage, folder: Path) -> Path:
    """Make a disk with the root file system of the full image, changed by `undo`."""
    assert full.root_tar is not None
    root, raw, disk = folder / "root", folder / "disk.raw", folder / "disk.qcow2"
    root.mkdir()
    run("tar", "-C", root, "--numeric-owner", "-xf", full.root_tar)
    undo(root)
    for leftover in (*root.glob("boot/initrd.img-*"), *root.glob("boot/vmlinuz-*")):
        leftover.unlink()
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1",
        "-d", root, raw, DISK_SIZE)  # fmt: skip
    run("qemu-img", "convert", "-O", "qcow2", raw, disk)
    raw.unlink()
    shutil.rmtree(root)
    return disk


def write_variant(folder: Path, name: str, image: BootImage) -> None:
    (folder / name).mkdir(exist_ok=True)
    facts = {key: getattr(image, key) for key in ("format", "virtual_size", "digest", "cmdline")}
    paths = {key: str(getattr(image, key)) for key in ("disk", "kernel", "initrd")}
    (folder / name / "variant.json").write_text(json.dumps(facts | paths))


def read_variant(folder: Path) -> BootImage:
    facts = json.loads((folder / "variant.json").read_text())
    return BootImage(**{**facts, **{key: Path(facts[key]) for key in ("disk", "kernel", "initrd")}})


# --- booting, inside the lab ------------------------------------------------------------------------------------


def boot_all(folder: Path, rounds: int, *, cluster_seeds: bool) -> Iterator[dict[str, object]]:
    """Boot every variant once in each round. Boot the full image first, after every third variant and at the end."""
    names = sorted(path.parent.name for path in folder.glob("*/variant.json"))
    names.remove(FULL)
    spec = load(flags={"--name": (("name",), "tuning")}).spec
    baked = bake(spec, Store(folder / "out", spec.name), now=datetime.now(UTC), report=lambda _: None)
    nodes = [baked.folder / node.name for node in baked.plan.nodes]
    for node in nodes if not cluster_seeds else ():
        (node / "seed.iso").write_bytes(empty_seed(node))
    for name in [FULL, *(one for _ in range(rounds) for one in with_baselines(names))]:
        seconds, processor = boot_three(read_variant(folder / name), baked)
        say(f"{name}: {seconds:.1f} s, {processor:.1f} s of processor time")
        yield {"name": name, "seconds": seconds, "processor": processor}


def with_baselines(names: list[str]) -> Iterator[str]:
    """Yield the names, with the full image after every third name and at the end."""
    for number, name in enumerate(names, start=1):
        yield name
        if number % 3 == 0 or number == len(names):
            yield FULL


def boot_three(image: BootImage, baked: Baked) -> tuple[float, float]:
    """Boot three VMs. Return the seconds until cloud-init has finished on all VMs, and their processor seconds."""
    import libvirt

    from generator import vm

    connection, names = vm.connect(None), [node.name for node in baked.plan.nodes]
    engine = vm.LibvirtEngine(
        connection=connection, plan=baked.plan, cluster_id="tuning", seeds=baked.folder, load_image=lambda: image,
        report=lambda _: None, accel="tcg",
    )  # fmt: skip
    try:
        engine.create(*names)
        seconds = seconds_to(END["floor"], engine.console_logs(*names))
        domains = libvirt.open(None).listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return seconds, sum(domain.info()[4] for domain in domains) / 1e9  # info()[4] is cpuTime in nanoseconds
    finally:
        vm.LibvirtHosts(connection=connection).destroy(baked.plan.name, cluster_id="tuning")


def measure(names: list[str], rounds: int, *, cluster_seeds: bool) -> list[dict[str, object]]:
    """Make the variants, and boot them in a new lab. Stop the lab afterwards."""
    os.setpriority(os.PRIO_PROCESS, 0, -15)  # libvirt and the VMs inherit it
    if AUTOGROUP.exists():  # without this, the kernel divides its time between sessions, and priorities have no effect
        AUTOGROUP.write_text("-15")
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tuning-", dir=ROOT / "build") as scratch:
        folder = Path(scratch, "variants")
        folder.mkdir()
        make_variants(names, folder)
        lab, environment = ROOT / "scripts" / "lab", {**os.environ, "BAKE_LAB": f"{scratch}/lab"}
        subprocess.run([lab, "start"], check=True, env=environment)
        try:
            command = [str(lab), "exec", sys.executable, __file__, "--boot", str(folder), str(rounds)]
            command += ["--cluster-seeds"] if cluster_seeds else []
            done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        finally:
            subprocess.run([lab, "stop"], check=True, env=environment)
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- the page ---------------------------------------------------------------------------------------------------


def gains(samples: list[dict[str, object]], name: str, key: str) -> list[float]:
    """For each round, return how much longer the boots without the part took, in percent.

    The baseline of a boot is the mean of the full image's boots before and after it.
    """
    values = [float(str(one[key])) for one in samples]
    full = [place for place, one in enumerate(samples) if one["name"] == FULL]
    found = []
    for place in (place for place, one in enumerate(samples) if one["name"] == name):
        before, after = max(one for one in full if one < place), min(one for one in full if one > place)
        found.append((values[place] / statistics.mean((values[before], values[after])) - 1) * 100)
    return found


def row(samples: list[dict[str, object]], name: str) -> str:
    processor, clock = gains(samples, name, "processor"), gains(samples, name, "seconds")
    spread = f"{min(processor):+.1f} to {max(processor):+.1f}"
    return (
        f"| `{name}` | {PARTS[name].title} | {statistics.median(processor):+.1f} % | {spread} "
        f"| {statistics.median(clock):+.1f} % |"
    )


def table(samples: list[dict[str, object]], rounds: int) -> str:
    names = [name for name in PARTS if any(one["name"] == name for one in samples)]
    full = [float(str(one["processor"])) for one in samples if one["name"] == FULL]
    when = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {rounds} rounds; the full image took "
        f"{statistics.median(full):.0f} s of processor time ({min(full):.0f} to {max(full):.0f})."
    )
    head = ["| part | what it does | gain | range | elapsed time |", "| --- " * 5 + "|"]
    return "\n".join([when, "", *head, *(row(samples, name) for name in names)])


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"})


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/tuning", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=PARTS, metavar="NAME", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--cluster-seeds", action="store_true", help="boot seeds of a cluster, not an empty user-data")
    parser.add_argument("--write", action="store_true", help=f"write the table to {PAGE.relative_to(ROOT)}")
    parser.add_argument("--list", action="store_true", help="list the parts")
    parser.add_argument("--boot", nargs=2, metavar=("FOLDER", "ROUNDS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:22} {part.title}" for name, part in PARTS.items()))
        return 0
    if options.boot:
        for sample in boot_all(Path(options.boot[0]), int(options.boot[1]), cluster_seeds=options.cluster_seeds):
            print(json.dumps(sample), flush=True)
        return 0
    samples = measure(options.only or list(PARTS), options.rounds, cluster_seeds=options.cluster_seeds)
    text = table(samples, options.rounds)
    print(text)
    if options.write:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END_MARK}{rest.partition(END_MARK)[2]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
