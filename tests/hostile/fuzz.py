"""Coverage-guided fuzzing of the loader: bytes of a cluster file → a spec, its rules, its plan; or a refusal.

    python -m tests.hostile.fuzz CORPUS... [LIBFUZZER FLAG]...

Anything but an `InputError` is a finding: libFuzzer prints it and keeps the input in `-artifact_prefix`.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.hostile.report import ROOT

LOADER = {
    "errors": "errors", "yaml12": "config.yaml12", "fields": "config.fields", "values": "config.values",
    "spec": "config.spec", "etcd_values": "config.etcd_values", "etcd_options": "config.etcd_options",
    "plan": "plan", "rules": "config.rules", "load": "config.load",
}  # fmt: skip
MEMORY, SLOWEST = 512, 5  # MiB, seconds: more is a finding too
# libFuzzer's limit reads ru_maxrss, which `exec` takes over from the process that called it: without a
# small process between them, the memory of a test runner would be counted as the fuzzer's.
IN_BETWEEN = ["sh", "-c", '"$@"; exit $?', "sh"]


def main() -> None:
    import atheris  # there is not a wheel for every Python

    with atheris.instrument_imports(include=["generator", "yaml"]):
        modules = {name: importlib.import_module(f"generator.{module}") for name, module in LOADER.items()}
    refused = modules["errors"].InputError

    with Path(f"/proc/self/fd/{os.memfd_create('cluster.yaml')}").open("r+b", buffering=0) as file:

        def try_one(data: bytes) -> None:
            file.seek(0)
            file.truncate()
            file.write(data)
            try:
                check(file.name, modules)
            except refused:
                return

        atheris.Setup(sys.argv, try_one)
        atheris.Fuzz()


def check(path: str, modules: Any) -> None:
    """Read it as bake does. What is accepted must also dump, and load back as the same spec."""
    spec = modules["load"].load(profile=path).spec
    modules["plan"].plan_cluster(spec)
    shown = modules["yaml12"].dump(modules["fields"].plain(spec))
    again, wrong = modules["spec"].read_spec(modules["yaml12"].load_text(shown, "f.yaml").value)
    assert (again, wrong) == (spec, []), shown


def seeds(folder: Path) -> None:
    """What to begin with: the profiles, and every kind of the catalogue that is a file."""
    from tests.hostile.catalogue import KINDS  # imports the loader, which `main` has to do itself

    folder.mkdir()
    for path in (ROOT / "profiles").glob("*.yaml"):
        (folder / path.name).write_bytes(path.read_bytes())
    for number, kind in enumerate(KINDS.values()):
        if kind.file is not None and len(kind.file) < 4096:
            (folder / f"kind-{number}").write_bytes(kind.file.encode() if isinstance(kind.file, str) else kind.file)


def words(path: Path) -> None:
    """libFuzzer's dictionary: every field's and every option's name."""
    names = set(re.findall(r"`([A-Za-z0-9.\[\]/-]+)`", (ROOT / "profiles/README.md").read_text()))
    parts = {part.strip("[]") for name in names for part in name.split(".") if part.strip("[]")}
    path.write_text("".join(f'"{part}"\n' for part in sorted(parts)))


def measure(count: int, scratch: Path) -> dict[str, Any]:
    """`count` seconds of it."""
    seeds(scratch / "corpus")
    words(scratch / "words")
    command = [*IN_BETWEEN, sys.executable, "-m", "tests.hostile.fuzz", scratch / "corpus", f"-max_total_time={count}"]
    command += [f"-dict={scratch / 'words'}", f"-artifact_prefix={scratch}/found-", "-max_len=4096"]
    command += [f"-rss_limit_mb={MEMORY}", f"-timeout={SLOWEST}", "-print_final_stats=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")
    failures = [f"{path.name}: {path.read_bytes()[:500]!r}" for path in scratch.glob("found-*")]
    if done.returncode and not failures:
        failures = [f"exit code {done.returncode}"]
    if failures:
        failures.append(said[-4000:])
    runs = re.search(r"number_of_executed_units:\s+(\d+)", said)
    memory = re.search(r"peak_rss_mb:\s+(\d+)", said)
    coverage = re.findall(r"cov: (\d+)", said)
    figures = {
        "coverage": [int(coverage[0]), int(coverage[-1])] if coverage else None,
        "peak_mib": int(memory[1]) if memory else None,
        "seconds": count,
    }
    return {"trials": int(runs[1]) if runs else 0, "failures": failures, "figures": figures}


if __name__ == "__main__":
    main()
