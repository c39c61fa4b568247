"""Change a source file in one place, run the file's fast tests, and count the changes that make a test fail.

In Python files, the operators of cosmic-ray make the changes. The script calls the operators directly, because
cosmic-ray itself reads only files with the suffix `.py`. The script's own operator removes a call or a `raise`
statement. In shell files, the script replaces one command with `:`.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import parso
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator
from cosmic_ray.testing import TestOutcome, run_tests

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "mutate" / f"tree-{os.getpid()}"
RESULTS = ROOT / "docs" / "reference" / "mutation.json"
PAGE = ROOT / "docs" / "reference" / "mutation.md"
BEGIN, END = "<!-- scores: made by scripts/mutate --write -->", "<!-- /scores -->"
COPIED = ("generator", "tests", "profiles", "scripts", "docs", "pyproject.toml", "README.md", "SECURITY.md")
UNIT = "tests/unit/test_"

# The files to change, each with its fast tests and the options for pytest.
TARGETS = {
    "generator/store/folder.py": f"{UNIT}store.py {UNIT}folders.py {UNIT}syscalls.py",
    "generator/store/permissions.py": f"{UNIT}folders.py",
    "generator/store/manifest.py": f"{UNIT}folders.py {UNIT}store.py",
    "generator/operations/rotate_ca.py": f"{UNIT}rotation.py",
    "generator/vm/seed_drive.py": f"{UNIT}hypervisor.py",
    "generator/seed/guest/usr/libexec/bake/peers.py": f"{UNIT}peers.py",
    "generator/seed/guest/usr/libexec/bake/node.py": f"{UNIT}join.py",
    "generator/seed/guest/usr/libexec/bake/cluster.py": f"{UNIT}join.py",
    "generator/seed/guest/usr/libexec/bake/join_decision.py": f"{UNIT}join_decision.py {UNIT}join.py",
    "generator/seed/guest/usr/libexec/bake/etcd-join": f"{UNIT}join.py",
    "generator/seed/guest/usr/libexec/bake/etcd-promote": f"{UNIT}join.py",
    "generator/seed/guest/usr/libexec/bake/etcd-restart": f"{UNIT}join.py -k restart",
    "generator/seed/guest/usr/libexec/bake/etcd-auth": f"{UNIT}join.py -k 'auth or users or seed'",
    "generator/seed/guest/usr/libexec/bake/apply-seed": f"{UNIT}guest_seed.py {UNIT}guest_levels.py",
    "generator/seed/guest/usr/libexec/bake/seed_change.py": f"{UNIT}file_levels.py {UNIT}guest_levels.py",
    "generator/seed/guest/usr/libexec/bake/seed_files.py": f"{UNIT}guest_seed.py {UNIT}guest_levels.py",
    "generator/seed/guest/usr/libexec/bake/forget-seed": f"{UNIT}guest_seed.py",
    "generator/seed/guest/bootcmd": f"{UNIT}guest_hooks.py",
    "generator/seed/guest/usr/libexec/bake/first-boot-done": f"{UNIT}guest_hooks.py",
    "generator/seed/guest/usr/libexec/bake/etcd-install": f"{UNIT}guest_hooks.py",
    "generator/seed/guest/usr/libexec/bake/etcd-firewall": f"{UNIT}guest_hooks.py",
}
# cosmic-ray has more operators, but most of their mutants crash or behave like the original program.
OPERATORS = (
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "NumberReplacer", "RemoveDecorator",
    "ZeroIterationForLoop", "ReplaceUnaryOperator_Delete_Not", "ReplaceBinaryOperator_Add_Sub",
    "ReplaceBinaryOperator_Sub_Add", "ReplaceBinaryOperator_FloorDiv_Mul",
    *(f"ReplaceComparisonOperator_{old}_{new}" for old, new in (
        ("Eq", "NotEq"), ("NotEq", "Eq"), ("Lt", "LtE"), ("LtE", "Lt"), ("Gt", "GtE"), ("GtE", "Gt"),
        ("Is", "IsNot"), ("IsNot", "Is"),
    )),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A source file with one change."""

    path: str
    line: int
    change: str  # the removed line and the added line
    text: str


class RemoveStatement(Operator):
    """Remove a call whose result is not used, or a `raise` statement."""

    def mutation_positions(self, node: object) -> Iterator[tuple[object, object]]:
        if self._is_effect(node):
            yield node.start_pos, node.end_pos

    @staticmethod
    def _is_effect(node: object) -> bool:
        if getattr(node.parent, "type", "") != "simple_stmt":
            return False
        return node.type == "raise_stmt" or (
            node.type == "atom_expr" and node.children[-1].type == "trailer" and node.children[-1].children[0] == "("
        )

    def mutate(self, node: object, index: int) -> object:
        return parso.parse(f"{node.get_first_leaf().prefix}pass")

    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


def mutants(path: str) -> list[Mutant]:
    """Return all mutants of a file, without duplicates."""
    old = (ROOT / path).read_text()
    texts = _of_shell(old) if old.startswith(("#!/bin/sh", "# Runs on every boot")) else _of_python(old)
    found = {text: Mutant(path, *_difference(old, text), text) for text in texts if text != old}
    return list(found.values())


def _of_python(old: str) -> Iterator[str]:
    for operator in (RemoveStatement(), *(get_operator(f"core/{name}")() for name in OPERATORS)):
        number = 0
        while (text := mutate_code(old, operator, number)) is not None:
            number += 1
            yield text


def _of_shell(old: str) -> Iterator[str]:
    """For each line that is a complete command, yield the script with `:` instead of this line."""
    lines = old.splitlines(keepends=True)
    for number, line in enumerate(lines):
        words = line.split()
        if words and words[0][0] != "#":
            indent = line[: len(line) - len(line.lstrip())]
            text = "".join([*lines[:number], f"{indent}:\n", *lines[number + 1 :]])
            if subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False).returncode == 0:
                yield text


def _difference(old: str, new: str) -> tuple[int, str]:
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))
    number = int(lines[2].split()[1].strip("-").split(",")[0])
    return number, "\n".join(line for line in lines[3:] if not line.startswith("@@"))


# ── running ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def copy_tree() -> None:
    """Copy the tree. Only the copy contains mutants, even after an interrupted run."""
    COPY.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, COPY / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, COPY / name)


def score(path: str, tests: str, chosen: list[Mutant], total: int) -> dict[str, object]:
    """Run the tests on each mutant. The time limit depends on the time of a run with the unchanged file."""
    os.environ["PYTHONPATH"] = str(COPY)
    os.chdir(COPY)
    command = f"{ROOT / '.venv/bin/python'} -m pytest -q -x -p no:cacheprovider {tests}"
    began = time.monotonic()
    outcome, output = run_tests(command, 600)
    if outcome is not TestOutcome.SURVIVED:
        raise SystemExit(f"mutate: the tests of {path} fail with the unchanged file:\n{output}")
    limit = 3 * (time.monotonic() - began) + 30
    survivors = []
    for mutant in chosen:
        target = COPY / mutant.path
        kept = target.read_text()
        target.write_text(mutant.text)
        outcome, _ = run_tests(command, limit)
        target.write_text(kept)
        print(f"{outcome.value:9} {mutant.path}:{mutant.line}", file=sys.stderr)
        if outcome is TestOutcome.SURVIVED:
            survivors.append({key: value for key, value in asdict(mutant).items() if key in ("line", "change")})
    return {
        "tests": tests, "mutants": total, "sample": len(chosen), "killed": len(chosen) - len(survivors),
        "survivors": survivors, "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }  # fmt: skip


def table(files: dict[str, dict[str, object]]) -> str:
    rows = [
        f"| `{path.removeprefix('generator/')}` | {one['mutants']} | {one['sample']} | {one['killed']} "
        f"| {100 * one['killed'] / one['sample']:.0f} % | {one['date']} |"
        for path, one in files.items()
        if one["sample"]
    ]
    tried, killed = (sum(one[key] for one in files.values()) for key in ("sample", "killed"))
    total = sum(one["mutants"] for one in files.values())
    rows.append(f"| all | {total} | {tried} | {killed} | {100 * killed / tried:.0f} % | |")
    return "\n".join(["| file | mutants | tried | killed | score | measured |", "| --- " * 6 + "|", *rows])


def write(files: dict[str, dict[str, object]], seed: int) -> None:
    kept = json.loads(RESULTS.read_text())["files"] if RESULTS.exists() else {}
    merged = {path: {**kept, **files}[path] for path in TARGETS if path in {**kept, **files}}
    command = f"scripts/mutate --only FILE --sample TRIED --seed {seed} --write"
    record = {
        "format_version": "1.0", "command": command, "cosmic-ray": version("cosmic-ray"), "files": merged,
    }  # fmt: skip
    RESULTS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    facts = f"- command: `{command}`\n- cosmic-ray {record['cosmic-ray']}"
    PAGE.write_text(f"{before}{BEGIN}\n\n{facts}\n\n{table(merged)}\n\n{END}{rest.partition(END)[2]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("--only", action="append", choices=TARGETS, metavar="FILE", help="change only this file")
    parser.add_argument("--sample", type=int, help="number of mutants to test for each file (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random sample (default: 1)")
    parser.add_argument("--write", action="store_true", help="write the scores to docs/reference")
    parser.add_argument("--list", action="store_true", help="list the files, their mutants and their tests")
    options = parser.parse_args()
    if options.list:
        for path, tests in TARGETS.items():
            print(f"{path:40} {len(mutants(path)):4}  {tests}")
        return 0
    copy_tree()
    atexit.register(shutil.rmtree, COPY, ignore_errors=True)
    scored: dict[str, dict[str, object]] = {}
    for path in options.only or TARGETS:
        every = mutants(path)
        count = min(options.sample or len(every), len(every))
        chosen = random.Random(f"{options.seed} {path}").sample(every, count)  # noqa: S311  repeatable
        scored[path] = score(path, TARGETS[path], chosen, len(every))
        if options.write:  # write after each file, because a run may take hours
            write(scored, options.seed)
    print(json.dumps({"format_version": "1.0", "files": scored}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
