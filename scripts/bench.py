"""Measure the figures of docs/reference/performance.md. Most figures compare bake with a baseline in the same round.

`FIGURES` lists the figures. A figure yields one `Sample` per round. The script stores the results in
docs/reference/performance.json, and writes the page's table from performance.json. Figures that are not measured keep
their stored results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BAKE = Path(sys.executable).with_name("bake")
WORK = ROOT / "scripts" / "bench_work.py"
RESULTS = ROOT / "docs" / "reference" / "performance.json"
PAGE = ROOT / "docs" / "reference" / "performance.md"
BEGIN, END = "<!-- figures: made by scripts/bench --write -->", "<!-- /figures -->"


@dataclass(frozen=True, slots=True)
class Run:
    """The time and memory that one process used."""

    seconds: float
    cpu: float  # CPU seconds of the process and its children
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one round. `value`: the figure's value. `parts`: the measurements that give the value."""

    value: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure. `goal`: the comparison and the limit for the median of all rounds, such as (≤, 1.2)."""

    title: str
    unit: str
    goal: tuple[str, float]
    rounds: int
    sample: Callable[[Path], Sample]
    warm_up: bool = True  # first run a round that does not count, to fill the caches

    def holds(self, value: float) -> bool:
        comparison, limit = self.goal
        return value >= limit if comparison == "≥" else value <= limit


def run(*command: str | Path, cwd: Path) -> Run:
    """Run a command and return its time and memory. The memory is the highest peak of a single process."""
    # Remove Python's environment variables, because some disable defaults such as storing bytecode.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("BAKE_", "PYTHON"))}
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=cwd, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        errors = process.stderr.read() if process.stderr else b""
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"bench: {command} failed:\n{errors.decode()}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def versus(ours: Run, theirs: Run, *, faster: bool = False) -> Sample:
    value = theirs.seconds / ours.seconds if faster else ours.seconds / theirs.seconds
    parts = {"bake_s": ours.seconds, "other_s": theirs.seconds, "bake_cpu_s": ours.cpu, "other_cpu_s": theirs.cpu}
    return Sample(value, {**parts, "bake_mib": ours.rss_mib})


# ── the figures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def against_document(folder: Path) -> Sample:
    theirs = run(ROOT / "scripts/baseline-document.sh", folder / "shell", cwd=folder)
    return versus(bake(folder, "--nodes", "3"), theirs, faster=True)


def against_p256(folder: Path) -> Sample:
    theirs = run(ROOT / "scripts/baseline-p256.sh", folder / "shell", "3", cwd=folder)
    return versus(bake(folder, "--nodes", "3"), theirs)


def hundred_nodes(folder: Path) -> Sample:
    theirs = run(ROOT / "scripts/baseline-p256.sh", folder / "shell", "100", cwd=folder)
    return versus(fleet(folder, 100), theirs, faster=True)


def thousand_nodes(folder: Path) -> Sample:
    """Compare the time per node of 1,000 nodes with the time per node of 100 nodes.

    First subtract the time of one node, which is mostly start-up time.
    """
    start, hundred, thousand = (fleet(folder / str(count), count) for count in (1, 100, 1000))
    per_node = [(some.seconds - start.seconds) / (count - 1) for some, count in ((hundred, 100), (thousand, 1000))]
    parts = {"ms_each_of_100": per_node[0] * 1000, "ms_each_of_1000": per_node[1] * 1000, "bake_mib": thousand.rss_mib}
    return Sample(per_node[1] / per_node[0], parts)


def memory(folder: Path) -> Sample:
    runs = {count: fleet(folder / str(count), count) for count in (100, 1000)}
    return Sample(runs[1000].rss_mib, {f"mib_of_{count}": some.rss_mib for count, some in runs.items()})


def rsa(folder: Path) -> Sample:
    """Bake seven nodes, which need 23 keys. An RSA key takes a random time, so the figure needs many keys."""
    theirs = run(sys.executable, WORK, "keys", "23", cwd=folder)
    return versus(bake(folder, "--nodes", "7", "--key-type", "rsa-4096"), theirs)


def help_text(folder: Path) -> Sample:
    ours = run(BAKE, "--help", cwd=folder)
    return Sample(ours.seconds, {"bake_mib": ours.rss_mib})


def loopback(folder: Path) -> Sample:
    """Start etcd and the scripts of three nodes at the same time on loopback, as tests/assembly does."""
    sys.path.insert(0, str(ROOT))
    from generator.image.base import cache_folder, default_image
    from tests.assembly.miniature import Tools, bake_miniature

    bin_dir = default_image(cache_folder(), report=say).bin_dir
    assert bin_dir is not None
    cluster = bake_miniature(folder, "127.90.0.0/24", 3, Tools(bin_dir=bin_dir))
    try:
        cluster.start()
        return Sample(cluster.wait_all_voting(60), {})
    finally:
        cluster.stop()


def nspawn(folder: Path) -> Sample:
    """Boot three nodes and measure the time from power-on to three voters."""
    sys.path.insert(0, str(ROOT))
    from generator.config.load import load
    from generator.image.base import cache_folder, default_image
    from generator.operations.bake import bake as bake_files
    from generator.store.folder import Store
    from tests.assembly.nspawn_lab import NspawnLab, extract_root

    archive = default_image(cache_folder(), report=say).root_tar
    assert archive is not None
    baked = bake_files(load().spec, Store(folder / "out", "etcd"), now=datetime.now(UTC), report=say)
    names = [node.name for node in baked.plan.nodes]
    root = extract_root(archive, archive.with_name("root"))
    with NspawnLab(baked.plan, baked.folder, root=root, work=folder / "nodes") as lab:
        lab.start(*names)
        return Sample(lab.wait_for("voting", *names, timeout=120), {})


def boot(kind: str, folder: Path) -> float:
    """Return the seconds until three VMs in a separate lab reach their goal. Build the image before the lab starts."""
    images = [sys.executable, "-m", "generator.cli", "image", "-q", *(["--plain"] if kind == "plain" else [])]
    subprocess.run(images, cwd=ROOT, check=True)
    lab = ROOT / "scripts" / "lab"
    environment = {**os.environ, "BAKE_LAB": str(folder / "lab")}
    subprocess.run([lab, "start"], check=True, env=environment)
    try:
        command = [lab, "exec", sys.executable, ROOT / "scripts" / "bench_boot.py", kind, folder / kind]
        done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
        return float(done.stdout)
    finally:
        subprocess.run([lab, "stop"], check=True, env=environment)


def vms(folder: Path) -> Sample:
    floor, cluster = boot("floor", folder), boot("cluster", folder)
    return Sample(cluster / floor, {"cluster_s": cluster, "floor_s": floor})


def hosts(folder: Path) -> Sample:
    """`bake up` of three nodes on three hosts, and on one host, both over ssh."""
    spread, together = up_on_hosts(folder / "three", 3), up_on_hosts(folder / "one", 1)
    return Sample(spread / together, {"three_hosts_s": spread, "one_host_s": together})


def up_on_hosts(folder: Path, count: int) -> float:
    """Return the seconds of `bake up` of three nodes on the hosts of a new lab."""
    folder.mkdir()
    environment, config = {**os.environ, "BAKE_LAB": str(folder / "lab")}, folder / "cluster.yaml"
    lab = [ROOT / "scripts" / "lab", "hosts"]
    subprocess.run([BAKE, "image", "-q"], cwd=ROOT, check=True)
    subprocess.run([*lab, str(count)], check=True, env=environment)
    try:
        config.write_text(f"nodes: 3\nvm: {{memory: 768}}\n{(folder / 'lab' / 'hosts.yaml').read_text()}")
        started = time.perf_counter()
        command = [*lab, "exec", BAKE, "up", "--config", config, "--out", folder / "out", "--wait", "900", "-q"]
        subprocess.run(command, check=True, env=environment)
        return time.perf_counter() - started
    finally:
        subprocess.run([*lab, "stop"], check=True, env=environment)


def floor(folder: Path) -> Sample:
    tuned, plain = boot("floor", folder), boot("plain", folder)
    return Sample(tuned / plain, {"floor_s": tuned, "plain_s": plain})


def say(line: str) -> None:
    print(line, file=sys.stderr)


def bake(folder: Path, *options: str) -> Run:
    return run(BAKE, *options, "--out", folder / "out", cwd=folder)


def fleet(folder: Path, nodes: int) -> Run:
    folder.mkdir(exist_ok=True)
    return run(sys.executable, WORK, "fleet", str(nodes), folder / "out", cwd=folder)


FIGURES = {
    "document": Figure(
        "bake of 3 nodes: how many times faster than the procedure's commands in a shell (RSA-4096)",
        "×", ("≥", 20), 7, against_document,
    ),
    "p256": Figure(
        "bake of 3 nodes: time, divided by the time of the shell commands with P-256 and certificates per node",
        "", ("≤", 0.4), 15, against_p256,
    ),
    "hundred": Figure(
        "bake of 100 nodes: how many times faster than the shell commands with P-256", "×", ("≥", 30), 3, hundred_nodes,
    ),
    "thousand": Figure(
        "bake of 1,000 nodes: time per node, divided by the time per node of 100 nodes",
        "", ("≤", 1.1), 5, thousand_nodes,
    ),
    "memory": Figure("bake of 1,000 nodes: peak memory", " MiB", ("≤", 120), 1, memory),
    "rsa": Figure(
        "bake of 7 nodes with rsa-4096: time, divided by the time to generate only the 23 keys", "", ("≤", 1.2), 7, rsa,
    ),
    "help": Figure("time of bake --help", " s", ("≤", 0.1), 15, help_text),
    "loopback": Figure("3 etcd processes on loopback: time from the start to 3 voters", " s", ("≤", 8), 5, loopback),
    "nspawn": Figure("3 booted nspawn nodes: time from power-on to 3 voters", " s", ("≤", 20), 3, nspawn),
    "vms": Figure(
        "3 emulated VMs: time from the start to 3 voters, divided by the floor", "", ("≤", 1.25), 1, vms, warm_up=False,
    ),
    "hosts": Figure(
        "3 emulated VMs on three hosts over ssh: time of bake up, divided by the time on one host",
        "", ("≤", 1.25), 1, hosts, warm_up=False,
    ),
    "floor": Figure(
        "the floor (3 VMs with an empty user-data, until cloud-init's end), divided by the same time without tuning",
        "", ("≤", 0.8), 1, floor, warm_up=False,
    ),
}  # fmt: skip


# ── measuring and writing the page ──────────────────────────────────────────────────────────────────────────────────


def measure(name: str, rounds: int | None, scratch: Path) -> dict[str, object]:
    """Measure all rounds of a figure, each in a new folder, and return the result."""
    figure = FIGURES[name]
    load = os.getloadavg()[0]
    samples = list(_samples(figure, (rounds or figure.rounds) + figure.warm_up, scratch))[figure.warm_up :]
    values = sorted(sample.value for sample in samples)
    parts = {part: [sample.parts[part] for sample in samples] for part in samples[0].parts}
    value = statistics.median(values)
    is_real_time = os.sched_getscheduler(0) == os.SCHED_FIFO
    return {
        "value": round(value, 3),
        "low": round(values[0], 3),
        "high": round(values[-1], 3),
        "holds": figure.holds(value),
        "rounds": len(samples),
        "full_rounds": figure.rounds,
        "medians": {part: round(statistics.median(numbers), 3) for part, numbers in parts.items()},
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": round(load, 1),  # read before the measurement, so it is the load of other work
        "priority": "real time" if is_real_time else "normal",
        "command": command(name, len(samples), is_real_time=is_real_time),
    }


def command(name: str, rounds: int, *, is_real_time: bool) -> str:
    """Return the command that repeats a measurement."""
    own = "" if rounds == FIGURES[name].rounds else f" --rounds {rounds}"
    return f"{'chrt -f 10 ' if is_real_time else ''}scripts/bench --only {name}{own} --write"


def _samples(figure: Figure, rounds: int, scratch: Path) -> Iterator[Sample]:
    """Yield the samples. Keep all files until the end, because ext4 creates files more slowly after many deletions."""
    for _ in range(rounds):
        yield figure.sample(Path(tempfile.mkdtemp(dir=scratch)))


def conditions() -> dict[str, str]:
    """Return the facts about this machine that a reader needs to compare figures."""
    cpu = next(
        (line.split(":")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), ""
    )
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True).stdout
    from cryptography import __version__ as cryptography

    return {
        "cpu": f"{cpu.strip()}, {os.cpu_count()} cores",
        "system": platform.freedesktop_os_release()["PRETTY_NAME"],
        "versions": f"Python {platform.python_version()}, cryptography {cryptography}, {' '.join(openssl.split()[:2])}",
    }


def row(name: str, result: dict[str, object]) -> str:
    figure = FIGURES[name]
    comparison, limit = figure.goal
    medians = result["medians"]
    assert isinstance(medians, dict)
    shown = ", ".join(f"{part.replace('_', ' ')} {value:g}" for part, value in medians.items())
    verdict = f"{'yes' if result['holds'] else '**no**'} (rounds: {result['rounds']}, default: {result['full_rounds']})"
    measured = f"{result['date']}, load {result['load']:g}: `{result['command']}`"
    return (
        f"| `{name}` | {figure.title} | {comparison} {limit:g}{figure.unit} | {result['value']:g}{figure.unit} "
        f"| {result['low']:g}–{result['high']:g} | {verdict} | {shown} | {measured} |"
    )


def table(results: dict[str, dict[str, object]]) -> str:
    names = "| name | figure | goal | median | range | goal met | medians of the parts | measured |"
    head = [names, "| --- " * 8 + "|"]
    return "\n".join(head + [row(name, results[name]) for name in FIGURES if name in results])


def page(text: str, kept: dict[str, dict[str, object]]) -> str:
    """Return the text of the page with new facts about the machine and a new table."""
    facts = "\n".join(f"- {name}: {value}" for name, value in kept["conditions"].items())
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{facts}\n\n{table(kept['figures'])}\n\n{END}{rest.partition(END)[2]}"


def write(results: dict[str, dict[str, object]]) -> None:
    """Add new results to the stored results, and write the table of all results into the page."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"figures": {}}
    kept = {"format_version": "1.1", "conditions": conditions(), "figures": {**kept["figures"], **results}}
    RESULTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(PAGE.read_text(), kept))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="NAME", help=f"one of {', '.join(FIGURES)}")
    parser.add_argument("--rounds", type=int, help="number of rounds for each figure; each figure has its own default")
    parser.add_argument(
        "--write", action="store_true", help=f"store the results in {RESULTS.relative_to(ROOT)} and the page"
    )
    parser.add_argument("--list", action="store_true", help="list the figures")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{name:10} {figure.title}" for name, figure in FIGURES.items()))
        return 0
    for tool in ("openssl", "cloud-localds"):
        if shutil.which(tool) is None:
            raise SystemExit(f"bench: {tool} is missing; install the Debian packages openssl and cloud-image-utils")
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory(prefix="bake-bench-") as scratch:
        for name in options.only or FIGURES:
            results[name] = measure(name, options.rounds, Path(scratch))
            print(f"{name}: {json.dumps(results[name])}", file=sys.stderr)
    if options.write:
        write(results)
    print(json.dumps({"format_version": "1.1", "conditions": conditions(), "figures": results}, ensure_ascii=False))
    return 0 if all(result["holds"] for result in results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
