"""A program that stands in for etcdctl: it counts the calls of each hook, and does to one of them what it is told."""

from __future__ import annotations

import shlex

from tests.assembly.miniature import Node

# A call of a hook leaves its words in a file named after the hook and the call's number; creating that file is what
# draws the number. What happens to a call is a shell fragment in a file of the same name with "fault." before it.
_SHIM = r"""#!/bin/sh
DESK=@DESK@ REAL=@REAL@
hook=operator n=1
{ read -r parent </proc/$PPID/cmdline || :; } 2>/dev/null
case $parent in *etcd-join*) hook=join ;; *etcd-promote*) hook=promote ;; esac
set -C
until { printf '%s\n' "$*" >"$DESK/$hook.$n"; } 2>/dev/null; do n=$((n + 1)); done
set +C
[ ! -e "$DESK/fault.$hook.$n" ] || . "$DESK/fault.$hook.$n"
case " $* " in *" member add "*) [ ! -e "$DESK/fault.$hook.add" ] || . "$DESK/fault.$hook.add" ;; esac
exec "$REAL" "$@"
"""
_FIRED = ': >"$DESK/fired"\n'
# The hook leads its process group, and etcdctl is in it: the group is what systemd would kill.
KILL = _FIRED + 'read -r stat </proc/$PPID/stat; stat=${stat##*) }; set -- $stat; kill -KILL "-$3"; exec sleep 60\n'
HANG_BEFORE = _FIRED + "exec sleep 60\n"
HANG_AFTER = '"$REAL" "$@" >/dev/null 2>&1 || :\n' + HANG_BEFORE

# Once, when the member is added: etcdctl may run out of time after that, as it then asks a cluster without a quorum.
HANG_AFTER_ADD = """said=$("$REAL" "$@" 2>&1 >/dev/null); code=$?
case $said in *etcdserver:*) printf '%s\\n' "$said" >&2; exit "$code" ;; esac
rm "$DESK/fault.$hook.add"
""" + HANG_BEFORE


def fails_with(text: str, *, log: str = "") -> str:
    """etcdctl's way to say no: what its client logged, then the error."""
    lines = [log] if log else []
    return _FIRED + f"printf '%s\\n' {shlex.join([*lines, f'Error: {text}'])} >&2; exit 1\n"


def fails_after_all(text: str) -> str:
    """The command went through, and its answer was lost."""
    return '"$REAL" "$@" >/dev/null 2>&1 || :\n' + fails_with(text)


def says(plain: str, json: str) -> str:
    """Exit code 0, and this on stdout: the second text for whoever asked for JSON."""
    return _FIRED + (
        f"case \" $* \" in *json*) printf '%s\\n' {shlex.quote(json)} ;;\n"
        f"*) printf '%s\\n' {shlex.quote(plain)} ;; esac\nexit 0\n"
    )


NOTHING = _FIRED + "exit 0\n"
HALF = _FIRED + 'text=$("$REAL" "$@") || exit; printf %s "$text" | head -c $((${#text} / 2)); exit 0\n'


class Desk:
    """The shim of one node."""

    def __init__(self, node: Node) -> None:
        self.folder = node.root / "desk"
        self.folder.mkdir()
        env = node.root / "etc/etcd/bake.env"
        lines = env.read_text().splitlines()
        (place,) = (number for number, line in enumerate(lines) if line.startswith("BAKE_ETCDCTL="))
        real = shlex.split(lines[place].partition("=")[2])[0]
        shim = self.folder / "etcdctl"
        shim.write_text(_SHIM.replace("@DESK@", shlex.quote(str(self.folder))).replace("@REAL@", shlex.quote(real)))
        shim.chmod(0o755)
        lines[place] = f'BAKE_ETCDCTL="{shim}"'
        env.write_text("\n".join(lines) + "\n")

    def plant(self, hook: str, call: int | str, fault: str) -> None:
        """`call`: its number, or `add` for the one that adds a member, whichever number it has."""
        (self.folder / f"fault.{hook}.{call}").write_text(fault)

    def clear(self) -> None:
        """No more faults."""
        for path in self.folder.glob("fault.*"):
            path.unlink()

    @property
    def fired(self) -> bool:
        return (self.folder / "fired").exists()

    def call(self, hook: str, number: int | str) -> str:
        """The words of that call; empty if there was none."""
        path = self.folder / f"{hook}.{number}"
        return path.read_text().strip() if path.exists() else ""
