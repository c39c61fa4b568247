"""`bake status --watch` in a pseudo-terminal, with real etcd in network namespaces."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.assembly import processes
from tests.assembly.change_lab import ChangeLab, most_nodes
from tests.assembly.miniature import Tools
from tests.assembly.process_lab import ProcessMachines
from tests.terminal import Terminal
from tests.unit.test_tunnel import FAKE_SSH

pytestmark = pytest.mark.etcd
NODES = ("etcd1", "etcd2", "etcd3")
ENV = {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture
def lab(tmp_path: Path, bin_dir: Path) -> Iterator[ChangeLab]:
    """Machines with the seeds of three nodes. `assemble` starts the nodes."""
    machines = ProcessMachines(
        most_nodes(), tmp_path / "out/etcd", tools=Tools(bin_dir=bin_dir), work=tmp_path / "nodes"
    )
    with ChangeLab.blank(machines, tmp_path) as here:
        here.make_seeds(len(NODES))
        yield here


@pytest.fixture
def trio(lab: ChangeLab) -> ChangeLab:
    lab.assemble(*NODES)
    return lab


def watch_command(lab: ChangeLab, *words: object) -> list[str]:
    bake = ["ip", "netns", "exec", lab.lab.hub, sys.executable, "-m", "generator.cli", "status", "--watch"]
    return [*bake, "--out", str(lab.store.out), *map(str, words)]


def watch(lab: ChangeLab, *words: object, **size: int) -> Terminal:
    """Watch in the nodes' network. `size`: the columns and lines of the terminal."""
    return Terminal(watch_command(lab, *words), folder=lab.store.out.parent, env=ENV, **size)


def all_answer(terminal: Terminal) -> None:
    terminal.wait(lambda: sorted(states(terminal)) == ["leader", "voter", "voter"], "all members answer")


def states(terminal: Terminal) -> list[str]:
    """Return the word after each node's name, in the order of the lines."""
    return [line.split()[1] for line in terminal.text.splitlines() if re.match(r"etcd\d +\S", line)]


def number_in(terminal: Terminal, node: str, column: str) -> str:
    """Return the text of a right-aligned column, or "" while the terminal does not show it."""
    header, row = terminal.row("NODE"), terminal.row(node)
    end = header.find(column) + len(column)
    return row[:end].split("  ")[-1].strip() if row and column in header else ""


def revision(terminal: Terminal, node: str) -> int:
    """Return the revision in a node's row, or 0 if the row has none, because the node answers late."""
    text = number_in(terminal, node, "REVISION")
    return int(text) if text.isdecimal() else 0


def test_a_member_that_dies_keeps_its_row_and_comes_back(trio: ChangeLab) -> None:
    with watch(trio, "--interval", "0.5") as terminal:
        all_answer(terminal)
        assert [line.split()[0] for line in terminal.text.splitlines() if re.match(r"etcd\d ", line)] == [*NODES]
        assert re.search(r"\d KiB +\d+ KiB", terminal.row("etcd2"))
        assert re.search(r" 36\d d", terminal.row("etcd1"))
        assert "next certificate to expire: " in terminal.text
        terminal.wait(lambda: number_in(terminal, "etcd3", "LAG") == "0", "etcd3 has every log entry")
        before = int(trio.ask("etcd.get(b'key').revision"))
        terminal.wait(lambda: revision(terminal, "etcd1") >= before, "the revision is shown")
        trio.ask("etcd.put(b'key', b'value')")
        terminal.wait(lambda: revision(terminal, "etcd1") > before, "the revision grows")

        trio.lab.cut_power("etcd3")
        terminal.wait(lambda: "connection refused, for" in terminal.row("etcd3"), "the row has the reason")
        terminal.wait(lambda: states(terminal)[2:] == ["unreachable"], "the member is unreachable")
        trio.lab.start("etcd3")
        terminal.wait(lambda: states(terminal)[2:] in (["voter"], ["leader"]), "the member is back")
        terminal.wait(lambda: "unreachable" not in terminal.text, "no member is unreachable")

        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.is_restored()
        assert b"\x1b[?1049h" in terminal.raw


def test_without_a_quorum_the_survivor_and_the_reasons_are_shown(trio: ChangeLab) -> None:
    with watch(trio, "--interval", "0.5", columns=80, lines=24) as terminal:
        all_answer(terminal)
        for node in NODES[1:]:
            trio.lab.cut_power(node)
        terminal.wait(lambda: states(terminal)[1:] == ["unreachable"] * 2, "two members are gone")
        terminal.wait(lambda: "no leader" in terminal.text, "the survivor reports that it has no leader")
        assert states(terminal)[0] == "voter"
        assert max(map(len, terminal.text.splitlines())) <= 80
        terminal.resize(120, 24)
        terminal.wait(lambda: "connection refused, for" in terminal.row("etcd2"), "the table uses a wider terminal")
        terminal.press("\x03")
        assert terminal.ended() == 0
        assert terminal.is_restored()


def test_alarms_and_members_outside_the_plan_are_shown(trio: ChangeLab, bin_dir: Path) -> None:
    """The new member never starts, so it has no name. etcd adds it when all members are connected for 5 s."""
    pki, url = trio.store.folder / "pki", trio.lab.plan.nodes[0].client_url
    files = ("--cacert", pki / "etcd-ca.pem", "--cert", pki / "etcd-client.pem", "--key", pki / "etcd-client.key")
    add = ("member", "add", "foreign", "--learner", "--peer-urls", "https://192.168.20.99:2380")
    command = list(map(str, (bin_dir / "etcdctl", "--endpoints", url, *files, *add)))
    trio.wait_until(lambda: trio.lab.run(*command, check=False).returncode == 0)
    number = trio.ask("next(one.id for one in etcd.members() if one.name == 'etcd2')")
    trio.ask(f"etcd._call('Maintenance/Alarm', action=1, memberID={number}, alarm=1)")
    with watch(trio, "--interval", "0.5", columns=120) as terminal:
        terminal.wait(lambda: "alarm NOSPACE" in terminal.row("etcd2"), "the alarm is in the member's row")
        assert "alarm NOSPACE on etcd2: the database has reached its quota" in terminal.text
        terminal.wait(lambda: "is not one of the nodes" in terminal.row("(not started)"), "the member has a row")
        assert "learner" in terminal.row("(not started)")
        assert "to do: the member (not started)" in terminal.text
        terminal.press("q")
        assert terminal.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_restores_the_terminal_although_no_node_answers(lab: ChangeLab, number: signal.Signals) -> None:
    with watch(lab) as terminal:
        terminal.wait(lambda: states(terminal) == ["unreachable"] * 3, "no member answers")
        assert "to do: " in terminal.text
        os.kill(terminal.process.pid, number)  # `setsid` and `ip` have replaced themselves with bake
        assert terminal.ended() == 0
        assert terminal.is_restored()


def test_an_error_restores_the_terminal_and_is_shown_on_it(lab: ChangeLab) -> None:
    with watch(lab) as terminal:
        terminal.wait(lambda: states(terminal) == ["unreachable"] * 3, "no member answers")
        (lab.store.folder / "ca-change").write_text("nonsense\n")
        assert terminal.ended() == 2
        assert terminal.is_restored()
        last = terminal.raw.rpartition(b"\x1b[?1049l")[2].decode()
        assert re.search(r"error: .*ca-change: ", last)


def test_a_client_that_is_refused_is_the_reason_in_each_row(trio: ChangeLab) -> None:
    """The operator's certificate is of another CA."""
    assert trio.bake("--nodes", "1", "--name", "other").code == 0
    for name in ("etcd-client.pem", "etcd-client.key"):
        shutil.copy(trio.store.out / "other/pki" / name, trio.store.folder / "pki" / name)
    with watch(trio) as terminal:
        terminal.wait(lambda: states(terminal) == ["unreachable"] * 3, "the members refuse the certificate")
        assert "unknown ca" in terminal.row("etcd1")
        terminal.press("q")
        assert terminal.ended() == 0


def test_a_paused_member_is_shown_and_does_not_delay_the_end(trio: ChangeLab) -> None:
    with watch(trio, "--interval", "0.5") as terminal:
        all_answer(terminal)
        paused = [one.pid for one in processes.below(trio.lab.work / "etcd2") if one.kind == "etcd"]
        assert paused
        for number in paused:
            os.kill(number, signal.SIGSTOP)
        try:
            terminal.wait(lambda: states(terminal)[1] == "unreachable", "the paused member does not answer")
            assert "no answer in time" in terminal.row("etcd2")
            terminal.press("q")
            assert terminal.ended() == 0
        finally:
            for number in paused:
                os.kill(number, signal.SIGCONT)


def test_ctrl_z_gives_the_shell_its_terminal_and_fg_brings_the_table_back(lab: ChangeLab) -> None:
    shell = ["bash", "--norc", "--noprofile", "-i"]
    with Terminal(shell, folder=lab.store.out.parent, env=ENV | {"PS1": "ready> "}, columns=160) as terminal:
        terminal.wait(lambda: "ready>" in terminal.text, "the shell is ready")
        terminal.press(f"{' '.join(watch_command(lab))}\n")
        terminal.wait(lambda: states(terminal) == ["unreachable"] * 3, "the table is there")
        terminal.press("\x1a")
        terminal.wait(lambda: "Stopped" in terminal.text, "the shell has the terminal")
        assert terminal.raw.rfind(b"\x1b[?1049l") > terminal.raw.rfind(b"\x1b[?1049h")
        begin = len(terminal.raw)
        terminal.press("echo $((40 + 2))\n")
        terminal.wait(lambda: b"42" in terminal.raw[begin:], "the shell prints")
        terminal.press("fg\n")
        terminal.wait(lambda: b"\x1b[?1049h" in terminal.raw[begin:], "the table is back")
        terminal.press("q")
        terminal.wait(lambda: terminal.raw.rfind(b"\x1b[?1049l") > terminal.raw.rfind(b"\x1b[?1049h"), "it has ended")
        terminal.press("exit $?\n")
        assert terminal.ended() == 0


def test_the_members_are_watched_through_their_host(trio: ChangeLab, tmp_path: Path) -> None:
    """bake has no network. The program in place of ssh connects from the nodes' network."""
    (tmp_path / "forward").write_text(FAKE_SSH.format(python=sys.executable))
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\nexec ip netns exec {trio.lab.hub} {sys.executable} {tmp_path}/forward "$@"\n')
    program.chmod(0o755)
    uri = f"qemu+ssh://host1/system?command={program}"
    bake = [sys.executable, "-m", "generator.cli", "status", "--watch", "--interval", "0.5", "--connect", uri]
    with Terminal(["unshare", "--net", *bake, "--out", trio.store.out], folder=tmp_path, env=ENV) as terminal:
        all_answer(terminal)
        trio.lab.cut_power("etcd1")
        terminal.wait(lambda: states(terminal)[0] == "unreachable", "the row of a dead member changes")
        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.is_restored()
    assert b"connecting through host1 with ssh" in terminal.raw


# --- bake up ----------------------------------------------------------------------------------------------------


def test_bake_up_shows_each_node_in_the_plans_order_with_its_times(lab: ChangeLab) -> None:
    """The nodes are processes without a firewall, so `bake verify` finds a fault at the end (exit code 3)."""
    driver = [sys.executable, "-m", "tests.assembly.apply_driver", lab.socket, lab.lab.work]
    command = ["ip", "netns", "exec", lab.lab.hub, *driver, "up", "--out", lab.store.out, "--wait", "600"]
    with Terminal(command, folder=Path(ENV["PYTHONPATH"]), env=ENV, columns=100, lines=60) as terminal:
        terminal.wait(lambda: "joining" in terminal.text and "PHASE" in terminal.text, "a node joins")
        assert re.fullmatch(r"NODE +PHASE +FOR +TOTAL", terminal.row("NODE"))
        assert terminal.ended() in (0, 3)
        rows = [line.split() for line in terminal.text.splitlines() if re.match(r"etcd\d  ━", line)]
        assert [row[0] for row in rows] == [*NODES]
        assert [row[2] for row in rows] == ["settled"] * 3
        assert all(re.fullmatch(r"\d+ s", " ".join(row[3:5])) for row in rows)
        assert "etcd1: sealed" in terminal.text
        assert not re.search(r"\[/?(bold|dim|red|green)", terminal.text)
        assert terminal.is_restored()
