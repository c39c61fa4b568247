"""Breaks clusters while they assemble, and sees whether they end up whole, once, with nothing lost.

`ROWS` is the list of kinds of faults. A trial's chance depends on the seed, the row and the trial's number alone, so
each can be repeated by itself. Exit code 1: a row failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, NoReturn

from generator.image.base import cache_folder, default_image
from tests.assembly import processes
from tests.assembly.miniature import Tools
from tests.chaos import report
from tests.chaos.rows import ROWS
from tests.chaos.runner import Runner, tell


def bin_dir() -> Path:
    """etcd and etcdctl: those in $BAKE_ETCD_BIN, else the base image's."""
    if stated := os.environ.get("BAKE_ETCD_BIN"):
        return Path(stated)
    found = default_image(cache_folder(), report=tell).bin_dir
    assert found is not None
    return found


def arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--row", action="append", choices=ROWS, metavar="NAME", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--trials", type=int, help="instead of each row's own number")
    parser.add_argument("--trial", type=int, help="that one alone, of one row")
    parser.add_argument("--seed", type=int, help="the same seed, the same trials (default: a new one)")
    parser.add_argument("--gate", action="store_true", help="a few trials of every row on loopback: about four minutes")
    parser.add_argument("--auth", action="store_true", help="on loopback, clusters with etcd's auth on")
    parser.add_argument("--jobs", type=int, default=3, help="trials at a time (default 3: they mostly wait)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the result as JSON")
    parser.add_argument("--write", action="store_true", help=f"keep the results in {report.PAGE.name} and beside it")
    parser.add_argument("--list", action="store_true", help="the rows and what they do")
    options = parser.parse_args(words)
    if options.trial is not None and len(options.row or ()) != 1:
        parser.error("--trial needs one --row")
    return options


def chosen(options: argparse.Namespace) -> dict[str, int]:
    """Row → how many trials. Without a name: every row on loopback; nodes and VMs are asked for by name."""
    names = options.row or [name for name, row in ROWS.items() if row.level == "loopback"]
    if options.gate:
        names = [name for name in names if ROWS[name].gate]
    return {name: options.trials or (ROWS[name].gate if options.gate else ROWS[name].trials) for name in names}


def run(options: argparse.Namespace, folder: Path, over: threading.Event) -> dict[str, Any]:
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1_000_000)
    programs = bin_dir()
    tools = Tools(bin_dir=programs, auth=options.auth)
    runner = Runner(seed=seed, folder=folder, tools=tools, jobs=options.jobs, over=over)
    rows = {}
    for name, trials in chosen(options).items():
        tell(f"{name}: {ROWS[name].what} (seed {seed})")
        result = runner.run(name, ROWS[name], trials=trials, only=options.trial)
        rows[name] = result.as_json(ROWS[name]) | {"seed": seed}
        tell(f"{name}: {result.trials} trials, {len(result.failures)} failed, {result.seconds:.0f} s")
        if options.out:  # each row as soon as it is there: a run may take hours
            options.out.write_text(report.text(seed, programs, rows))
    if options.write:
        report.write(seed, programs, rows)
    return report.document(seed, programs, rows)


def main(words: list[str] | None = None) -> int:
    options = arguments(words)
    if options.list:
        print("\n".join(f"{name:14} {row.level:9} {row.what}" for name, row in ROWS.items()))
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    over = threading.Event()
    with tempfile.TemporaryDirectory(prefix="bake-chaos-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch).resolve()
        try:
            found = run(options, folder, over)
        except KeyboardInterrupt:
            tell("interrupted; cleaning up")
            return 130
        finally:
            over.set()
            processes.sweep(folder)
    if not options.out:
        print(json.dumps(found, ensure_ascii=False))
    return 0 if all(row["holds"] for row in found["rows"].values()) else 1


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
