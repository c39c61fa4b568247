"""Rows about whole nodes: real systemd and cloud-init from real seeds, cut off in the middle of their first boot."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import yaml

from generator.config.load import load
from generator.etcd.client import Etcd, EtcdError
from generator.etcd.tls_probe import ClientFiles
from generator.image.base import BootImage, cache_folder, default_image
from generator.operations.bake import bake
from generator.store.folder import Store
from tests.assembly.nspawn_lab import NspawnLab, extract_root
from tests.chaos.runner import tell
from tests.chaos.trial import Outcome, Row, Trial
from tests.chaos.witness import PREFIX, Writer
from tests.chaos.world import Interrupted, TrialError
from tests.vm.conftest import Lab, enter_network

NAMES = ("etcd1", "etcd2", "etcd3")
FIRST_BOOT = 8.0  # seconds until three nspawn nodes vote, about, undisturbed
LIMIT = 480.0  # seconds that they may take after the last cut, on a machine that others use too
VM_FIRST_BOOT = 150.0  # the same of emulated VMs
VM_LIMIT = 900
CALL = "from generator.cli import main; main()"


# ── nspawn ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def power_cuts(trial: Trial) -> Outcome:
    cuts = [_cut(trial.rng, 0.2, FIRST_BOOT) for _ in range(2 if trial.rng.random() < 0.3 else 1)]
    trial.label = "; ".join(f"{'+'.join(victims)} off at {at:.1f} s" for at, victims in cuts)
    image = _image()
    assert image.root_tar is not None
    root = extract_root(image.root_tar, image.root_tar.with_name("root"))
    baked = bake(load().spec, Store(trial.folder / "out", "etcd"), now=datetime.now(UTC), report=lambda _: None)
    with NspawnLab(baked.plan, baked.folder, root=root, work=trial.folder / "nodes") as lab, _writer(lab) as writer:
        took = _boot_and_cut(trial, lab, cuts)
        writer.stop()
        _must_verify(lab)
        _must_be_configured(lab)
        _must_be_kept(lab, writer)
    return Outcome(label=f"{len(cuts)} cut{'s' * (len(cuts) > 1)}", seconds=took)


def _cut(rng: random.Random, earliest: float, latest: float) -> tuple[float, list[str]]:
    """A moment after power-on, and who is cut off then: one, two or all."""
    return rng.uniform(earliest, latest), sorted(rng.sample(NAMES, rng.choice((1, 2, 3))))


def _boot_and_cut(trial: Trial, lab: NspawnLab, cuts: list[tuple[float, list[str]]]) -> float:
    """Seconds from the last power-on until all vote."""
    lab.start(*NAMES)
    wanted = dict.fromkeys(NAMES, 1)  # how often each has to say that it votes: once since its last power-on
    for at, victims in cuts:
        _sleep(trial, at)
        for node in victims:
            lab.cut_power(node)
        for node in victims:
            wanted[node] = lab.phases(node).count("voting") + 1
            lab.start(node)
    started = time.monotonic()

    def missing() -> list[str]:
        return [node for node in NAMES if lab.phases(node).count("voting") < wanted[node]]

    while waiting := missing():
        if time.monotonic() - started > max(trial.limit, LIMIT):
            raise TrialError(_story(lab, f"{', '.join(waiting)} did not vote"))
        _sleep(trial, 0.1)
    return time.monotonic() - started


def _sleep(trial: Trial, seconds: float) -> None:
    if trial.over.wait(seconds):
        raise Interrupted


def _story(lab: NspawnLab, what: str) -> str:
    return "\n".join([what, *(f"--- {node}\n{lab.console(node)[-1500:]}" for node in NAMES)])


def _files(lab: NspawnLab) -> ClientFiles:
    pki = lab.folder / "pki"
    return ClientFiles(ca=pki / "etcd-ca.pem", cert=pki / "etcd-client.pem", key=pki / "etcd-client.key")


@contextmanager
def _writer(lab: NspawnLab) -> Iterator[Writer]:
    """Writes through the nodes from the first moment on, where an operator would be."""
    urls = [node.client_url for node in lab.plan.nodes]
    writer = Writer(urls, _files(lab), prepare=lambda: _enter(lab.hub))
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter_network(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread alone, in that network."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _enter(namespace)
        yield
    finally:
        enter_network(home)
        os.close(home)


def _must_verify(lab: NspawnLab) -> None:
    """Sealed, as `bake up` would have by now; then every check of `bake verify`."""
    lab.seal(NAMES[0])
    for command in ("seal", "verify"):
        done = lab.run(sys.executable, "-c", CALL, command, "-o", "json", "--out", str(lab.folder.parent), check=False)
        if done.returncode:
            raise TrialError(_story(lab, f"bake {command}: {_flaws(done.stdout)}\n{done.stderr}"))


def _flaws(text: str) -> str:
    with suppress(ValueError):
        return "; ".join(
            f"{check['name']}: {check['detail']}" for check in json.loads(text)["checks"] if check["result"] != "ok"
        )
    return text


def _must_be_configured(lab: NspawnLab) -> None:
    """Every file of the seed is on the disk, whole: nothing is left of a first boot that was cut off."""
    for node in NAMES:
        stated = yaml.safe_load((lab.folder / node / "user-data").read_text())["write_files"]
        disk = lab.work / node / "upper"
        wrong = [entry["path"] for entry in stated if _read(disk / entry["path"].lstrip("/")) != entry["content"]]
        if wrong:
            raise TrialError(_story(lab, f"{node} is half configured: {', '.join(wrong)}"))


def _read(path: Path) -> str | None:
    return path.read_text(errors="replace") if path.exists() else None


def _must_be_kept(lab: NspawnLab, writer: Writer) -> None:
    """Whatever was acknowledged in between is on every node."""
    with _inside(lab.hub):
        for node in lab.plan.nodes:
            try:
                with Etcd(node.client_url, _files(lab)) as etcd:
                    kept = {item.key for item in etcd.get(PREFIX, prefix=True, keys_only=True).items}
            except EtcdError as error:
                raise TrialError(f"the end check got no answer: {error}") from None
            if lost := writer.acknowledged.keys() - kept:
                raise TrialError(f"{node.name} has lost {len(lost)} of {len(writer.acknowledged)} acknowledged writes")


def _image() -> BootImage:
    return default_image(cache_folder(), report=tell)


# ── VMs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def vm_power_cuts(trial: Trial) -> Outcome:
    """In a lab of its own: `bake up`, SIGKILL of QEMU during the first boot, and `bake up` again."""
    at, victims = _cut(trial.rng, 2.0, VM_FIRST_BOOT)
    trial.label = f"{'+'.join(victims)} off at {at:.0f} s"
    _image()  # the lab reaches no archive
    lab = Lab(trial.folder / "lab")
    lab.run("start")
    try:
        up = _bake(trial, lab, "up", "--nodes", len(NAMES), "--wait", VM_LIMIT)
        try:
            pids = [lab.folder / "run/libvirt/qemu" / f"chaos-{node}.pid" for node in NAMES]
            _until(trial, lambda: all(pid.exists() for pid in pids), 600, "all VMs run", up)
            _sleep(trial, at)
            for node in victims:
                lab.cut_power(f"chaos-{node}")
        finally:
            _end(up)  # the operator's own bake goes as well, and starts anew
        started = time.monotonic()
        for words in (("up", "--nodes", len(NAMES), "--wait", VM_LIMIT), ("verify",)):
            _finish(trial, _bake(trial, lab, *words), words[0])
            if words[0] == "up":
                took = time.monotonic() - started
        return Outcome(label=f"{len(victims)} of {len(NAMES)}", seconds=took)
    finally:
        lab.run("stop")


def _bake(trial: Trial, lab: Lab, command: str, *words: object) -> subprocess.Popen[str]:
    """A command of bake in the lab's network, in a process group of its own."""
    (trial.folder / "said").mkdir(parents=True, exist_ok=True)
    common = ("--name", "chaos", "--out", str(trial.folder / "out"))
    line = [sys.executable, "-c", CALL, command, *common, *map(str, words)]
    environment = {**os.environ, "BAKE_LAB": str(lab.folder), "PYTHONPATH": str(_ROOT)}
    environment.pop("BAKE_IN_LAB", None)
    with (trial.folder / "said" / command).open("w") as said:
        return subprocess.Popen(
            [_ROOT / "scripts/lab", "exec", *line], stdout=said, stderr=said, text=True, env=environment,
            process_group=0,
        )  # fmt: skip


_ROOT = Path(__file__).resolve().parents[2]


def _until(
    trial: Trial, condition: Callable[[], bool], seconds: float, what: str, process: subprocess.Popen[str]
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline or process.poll() is not None:
            raise TrialError(f"not within {seconds:g} s: {what}\n{_said(trial, 'up')}")
        _sleep(trial, 0.1)


def _finish(trial: Trial, process: subprocess.Popen[str], command: str) -> None:
    try:
        while process.poll() is None:
            _sleep(trial, 0.2)
    finally:
        _end(process)
    if process.returncode:
        raise TrialError(f"bake {command}: exit code {process.returncode}\n{_said(trial, command)}")


def _said(trial: Trial, command: str) -> str:
    return (trial.folder / "said" / command).read_text(errors="replace")[-4000:]


def _end(process: subprocess.Popen[str]) -> None:
    """SIGKILL to all of it: what bake was at must be completed by its next run."""
    with suppress(ProcessLookupError):
        while True:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(0.05)


ROWS = {
    "power-cuts": Row(
        what="one, two or all of three booted nspawn nodes lose power 0.2–8 s after power-on, some of them twice",
        goal="every node is a voter and verified; every file of the seed is in its place", trials=100, gate=0,
        run=power_cuts, level="nspawn", alone=True,
    ),
    "vm-power-cuts": Row(
        what="one, two or all QEMUs of three VMs get a SIGKILL 2–150 s into the first boot, then `bake up` runs again",
        goal="every node is a voter, and `bake verify` passes", trials=6, gate=0, run=vm_power_cuts, level="vm",
        alone=True,
    ),
}  # fmt: skip
