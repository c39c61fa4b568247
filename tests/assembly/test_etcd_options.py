"""A real etcd refuses the option values that bake refuses, and starts with the option values that bake accepts.

`BAKE_ETCD_BIN` selects an etcd that is not from the base image. scripts/etcd-from downloads such an etcd.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from generator.config.etcd_options import REFUSED, RESERVED, known_options, variable
from tests.assembly.etcd_values import ACCEPTED, IGNORED, REJECTED

pytestmark = pytest.mark.etcd
URL = "http://127.0.0.1:0"
URLS = [f"--{name}={URL}" for name in ("listen-client-urls", "advertise-client-urls", "listen-peer-urls")]


@pytest.fixture(scope="module")
def series(bin_dir: Path) -> str:
    shown = subprocess.run([bin_dir / "etcd", "--version"], capture_output=True, check=True, text=True).stdout
    (found,) = re.findall(r"^etcd Version: (3\.\d+)\.", shown)
    return str(found)


def starts(bin_dir: Path, folder: Path, options: dict[str, Any]) -> tuple[bool, str]:
    """Return whether an etcd with these options sends READY to systemd, and return its log."""
    folder.mkdir()
    stated = {variable(name): _text(value) for name, value in options.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
    environment |= {**stated, "NOTIFY_SOCKET": str(folder / "notify")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, (folder / "log").open("wb") as log:
        ready.bind(environment["NOTIFY_SOCKET"])
        ready.settimeout(0.05)
        etcd = subprocess.Popen(
            [bin_dir / "etcd", "--data-dir", folder / "data", *URLS], env=environment, stdout=log, stderr=log
        )
        try:
            return _is_ready(ready, etcd), (folder / "log").read_text()
        finally:
            etcd.kill()
            etcd.wait()


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _is_ready(ready: socket.socket, etcd: subprocess.Popen[bytes]) -> bool:
    while etcd.poll() is None:
        try:
            if b"READY=1" in ready.recv(4096):
                return True
        except TimeoutError:
            continue
    return False


def of_series(rows: Sequence[dict[str, Any]], series: str) -> Iterator[dict[str, Any]]:
    """Return the rows without the options that this version of etcd does not have."""
    known = known_options(series)
    yield from filter(None, ({name: value for name, value in row.items() if name in known} for row in rows))


def test_etcd_starts_with_what_is_accepted(bin_dir: Path, series: str, tmp_path: Path) -> None:
    for number, options in enumerate(of_series(ACCEPTED, series)):
        ready, said = starts(bin_dir, tmp_path / str(number), options)
        assert ready, (options, said)
        assert "unrecognized environment variable" not in said, said


def test_etcd_refuses_what_it_is_said_to_refuse(bin_dir: Path, series: str, tmp_path: Path) -> None:
    for number, options in enumerate(of_series(REJECTED, series)):
        ready, said = starts(bin_dir, tmp_path / str(number), options)
        assert not ready, (options, said)
        assert "address already in use" not in said, said


def test_etcd_starts_with_what_it_is_said_to_ignore(bin_dir: Path, series: str, tmp_path: Path) -> None:
    for number, options in enumerate(of_series(IGNORED, series)):
        assert starts(bin_dir, tmp_path / str(number), options)[0], options


def test_v2_deprecation_depends_on_the_series(bin_dir: Path, series: str, tmp_path: Path) -> None:
    ready, said = starts(bin_dir, tmp_path / "one", {"v2-deprecation": "not-yet"})
    assert ready == (series == "3.5"), said


def test_every_flag_of_etcds_help_has_its_place(bin_dir: Path, series: str) -> None:
    shown = subprocess.run([bin_dir / "etcd", "--help"], capture_output=True, check=True, text=True).stdout
    flags = set(re.findall(r"^ +--([a-z0-9-]+)", shown, re.MULTILINE))
    old = {flag for flag in flags if series != "3.5" and flag.startswith("experimental-")}
    assert flags - old <= known_options(series).keys() | RESERVED | REFUSED.keys()


def test_every_option_is_a_flag(bin_dir: Path, series: str) -> None:
    for name in known_options(series):
        words = [bin_dir / "etcd", f"--{name}=", "--version"]
        said = subprocess.run(words, capture_output=True, check=False, text=True).stderr
        assert "flag provided but not defined" not in said, name
