"""The shell scripts of the guest, under dash and busybox sh, with fakes of the programs that they call."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

GUEST = Path(__file__).parents[2] / "generator/seed/guest/usr/libexec/bake"
A, B = "1111111111111111", "2222222222222222"  # member ids
# Records its arguments, then runs answers/<n> at the n-th call. The last answer is repeated.
ETCDCTL = """#!/bin/sh
echo "$*" >>"$DESK/calls"
n=$(wc -l <"$DESK/calls")
while [ ! -e "$DESK/answers/$n" ]; do n=$((n - 1)); done
. "$DESK/answers/$n"
"""


@dataclass
class Desk:
    """A folder with fake programs on PATH, and the results of a hook."""

    root: Path
    shell: list[str]
    env: dict[str, str]
    answers: list[str] = field(default_factory=list)

    def program(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def answer(self, text: str = "", *, error: str = "") -> None:
        """Set the next answer of etcdctl: a text, or an error with exit code 1."""
        body = f"echo 'Error: {error}' >&2; exit 1\n" if error else f"cat <<'END'\n{text}\nEND\n"
        self.answers.append(body)
        folder = self.root / "answers"
        folder.mkdir(exist_ok=True)
        (folder / str(len(self.answers))).write_text(body)

    def run(self, hook: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [*self.shell, str(GUEST.parents[2] / hook if hook == "bootcmd" else GUEST / hook)]
        return subprocess.run(
            command, env=self.env | env, capture_output=True, text=True, timeout=180, cwd=self.root
        )

    @property
    def calls(self) -> list[str]:
        """etcdctl's arguments without the options that never change."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        constant = ("--endpoints=", "--dial-timeout=", "--command-timeout=")
        return [" ".join(word for word in line.split() if not word.startswith(constant)) for line in lines]

    @property
    def join_env(self) -> dict[str, str]:
        lines = (self.root / "run/join.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def data(self) -> Path:
        return self.root / "lib/etcd"

    def write_wal(self, content: bytes) -> None:
        wal = self.data / "member/wal/0000000000000000-0000000000000000.wal"
        wal.parent.mkdir(parents=True)
        (self.data / "member/snap").mkdir()
        with wal.open("wb") as file:
            file.write(b"\x04\x00\x00\x84" + content)
            file.truncate(64 << 20)


@pytest.fixture(params=["dash", "busybox"])
def desk(request: pytest.FixtureRequest, tmp_path: Path, tool: Callable[[str], str]) -> Desk:
    """Node etcd2 of two nodes. No port is open."""
    shell = [tool("busybox"), "sh"] if request.param == "busybox" else [tool("dash")]
    for name in ("bin", "run", "lib"):
        (tmp_path / name).mkdir()
    desk = Desk(tmp_path, shell, {})
    desk.program("etcdctl", ETCDCTL)
    desk.env |= {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "DESK": str(tmp_path),
        "BAKE_NAME": "etcd2",
        "BAKE_PEER_URL": "https://127.0.0.2:2380",
        "BAKE_CLIENT_URL": "https://127.0.0.2:2379",
        "BAKE_MEMBERS": "etcd1=https://127.0.0.1:1 etcd2=https://127.0.0.2:2380",
        "BAKE_CLIENT_URLS": "https://127.0.0.1:1 https://127.0.0.2:2379",
        "BAKE_BOOTSTRAP": "no",
        "BAKE_JOIN": "learner",
        "BAKE_DATA_DIR": f"{tmp_path}/lib/etcd",
        "BAKE_RUN_DIR": f"{tmp_path}/run",
        "BAKE_ETCDCTL": f"{tmp_path}/bin/etcdctl",
        "BAKE_POLL_SECONDS": "0",
    }
    return desk


# ── etcd-firewall ───────────────────────────────────────────────────────────────────────────────────────────

OPENINGS = {
    "BAKE_CLIENT_PORT": "2379",
    "BAKE_PEER_PORT": "2380",
    "BAKE_CLIENT_CIDRS": "0.0.0.0/0 ::/0",
    "BAKE_PEER_CIDRS": "192.168.20.0/24",
}


def firewall(desk: Desk, kind: str, **programs: str) -> list[str]:
    """Run the script, and return its commands and their input."""
    log = f'for word in "${{0##*/}}" "$@"; do echo "$word"; done >>"{desk.root}/log"\n'
    for name in ("firewall-cmd", "iptables", "ip6tables", "iptables-restore", "ip6tables-restore"):
        read = f'text=$(cat)\necho "$text" >>"{desk.root}/log"\n' if name.endswith("restore") else ""
        desk.program(name, f"#!/bin/sh\n{read}{log}{programs.get(name, '')}")
    (desk.root / "log").unlink(missing_ok=True)
    done = desk.run("etcd-firewall", BAKE_FIREWALL=kind, **OPENINGS)
    assert done.returncode == 0, done.stderr
    return (desk.root / "log").read_text().splitlines()


# A firewalld with an interface in a zone other than the default zone. A zone with only sources is an exception.
FIREWALLD = """
case $* in
    *--get-default-zone*) echo public ;;
    *--get-active-zones*) printf 'drop\n  sources: 10.1.1.1\ninternal\n  interfaces: eth0\n' ;;
    *--zone=internal*--list-rich-rules*) cat "$DESK/present" ;;
esac
"""


def test_firewalld_rules_are_permanent_and_firewalld_reloads_them(desk: Desk) -> None:
    foreign = 'rule family="ipv4" service name="ssh" accept'
    stale = 'rule priority="-2380" family="ipv4" source address="10.9.9.9" port port="2380" protocol="tcp" accept'
    (desk.root / "present").write_text(f"{foreign}\n{stale}\n")

    words = firewall(desk, "firewalld", **{"firewall-cmd": FIREWALLD})

    assert words[-2:] == ["firewall-cmd", "--reload"]
    assert [word for word in words if "--remove" in word] == [f"--remove-rich-rule={stale}"]
    added = [word for word in words if "--add" in word]
    own = 'family="ipv4" source address="192.168.20.0/24" port port="2380" protocol="tcp" accept'
    rest = 'priority="-2379" family="ipv6" port port="2380" protocol="tcp" reject type="tcp-reset"'
    for rule in (f'priority="-2380" {own}', rest):
        assert added.count(f"--add-rich-rule=rule {rule}") == 2  # in both zones
    assert {word for word in words if "zone=" in word} == {"--zone=public", "--zone=internal"}
    assert {word for word in words if not word.startswith("--")} == {"firewall-cmd"}


def test_firewalld_is_not_changed_if_all_rules_exist(desk: Desk) -> None:
    (desk.root / "present").touch()
    words = firewall(desk, "firewalld", **{"firewall-cmd": FIREWALLD})
    rules = [word.partition("=")[2] for word in words if word.startswith("--add")]
    (desk.root / "present").write_text("\n".join(reversed(rules[: len(rules) // 2])) + "\n")

    one_zone = FIREWALLD.replace("echo public", "echo internal")
    words = firewall(desk, "firewalld", **{"firewall-cmd": one_zone})

    assert not {"--reload", *rules} & {word.partition("=")[2] or word for word in words}


def test_a_firewalld_that_does_not_run_is_an_error(desk: Desk) -> None:
    desk.program("firewall-cmd", "#!/bin/sh\necho 'FirewallD is not running' >&2\nexit 252\n")
    done = desk.run("etcd-firewall", BAKE_FIREWALL="firewalld", **OPENINGS)
    assert (done.returncode, done.stderr) == (252, "FirewallD is not running\n")


@pytest.mark.parametrize("kind", ["iptables", "ufw"])
def test_iptables_rules_are_one_transaction_in_a_separate_chain(desk: Desk, kind: str) -> None:
    words = firewall(desk, kind, iptables="exit 1\n")
    assert "iptables-restore -w --noflush" in " ".join(words)
    assert words[words.index("*filter") : words.index("COMMIT")] == [
        "*filter",
        ":BAKE_ETCD - [0:0]",
        "-A BAKE_ETCD -i lo -p tcp --dport 2379 -j ACCEPT",
        "-A BAKE_ETCD -i lo -p tcp --dport 2380 -j ACCEPT",
        "-A BAKE_ETCD -s 0.0.0.0/0 -p tcp --dport 2379 -j ACCEPT",
        "-A BAKE_ETCD -s 192.168.20.0/24 -p tcp --dport 2380 -j ACCEPT",
        "-A BAKE_ETCD  -p tcp --dport 2379 -j REJECT --reject-with tcp-reset",
        "-A BAKE_ETCD  -p tcp --dport 2380 -j REJECT --reject-with tcp-reset",
        "-I INPUT -j BAKE_ETCD",
    ]  # fmt: skip


def test_iptables_rules_have_one_jump(desk: Desk) -> None:
    assert "-I INPUT -j BAKE_ETCD" not in firewall(desk, "iptables")


NFT = """case $1 in
    list) [ ! -s "$DESK/chain" ] || cat "$DESK/chain"; [ -e "$DESK/chain" ] ;;
    -f) cat >>"$DESK/ruleset" ;;
esac
"""
OWN_CHAIN = [
    "add chain inet filter bake_etcd",
    "flush chain inet filter bake_etcd",
    "add rule inet filter bake_etcd iif lo tcp dport 2379 accept",
    "add rule inet filter bake_etcd iif lo tcp dport 2380 accept",
    "add rule inet filter bake_etcd ip saddr 0.0.0.0/0 tcp dport 2379 accept",
    "add rule inet filter bake_etcd ip6 saddr ::/0 tcp dport 2379 accept",
    "add rule inet filter bake_etcd ip saddr 192.168.20.0/24 tcp dport 2380 accept",
    "add rule inet filter bake_etcd tcp dport 2379 reject with tcp reset",
    "add rule inet filter bake_etcd tcp dport 2380 reject with tcp reset",
]


@pytest.mark.parametrize(
    ("chain", "before", "after"),
    [
        (
            None,
            [
                "add table inet filter",
                "add chain inet filter input { type filter hook input priority 0; policy accept; }",
            ],
            ["insert rule inet filter input jump bake_etcd"],
        ),
        ("chain input { policy drop; }", [], ["insert rule inet filter input jump bake_etcd"]),
        ("chain input { jump bake_etcd }", [], []),
    ],
)
def test_nftables_rules_are_one_transaction_and_end_with_a_reject(
    desk: Desk, chain: str | None, before: list[str], after: list[str]
) -> None:
    if chain is not None:
        (desk.root / "chain").write_text(chain)
    desk.program("nft", f"#!/bin/sh\n{NFT}")
    done = desk.run("etcd-firewall", BAKE_FIREWALL="nftables", **OPENINGS)
    assert done.returncode == 0, done.stderr
    ruleset = (desk.root / "ruleset").read_text().splitlines()
    assert [" ".join(line.split()) for line in ruleset] == [*before, *OWN_CHAIN, *after]


def test_an_unknown_firewall_is_an_error(desk: Desk) -> None:
    assert desk.run("etcd-firewall", BAKE_FIREWALL="pf", **OPENINGS).returncode == 1


# ── etcd-start ──────────────────────────────────────────────────────────────────────────────────────────────


def started(desk: Desk, settings: str | None) -> dict[str, str]:
    """Return the environment of etcd without the variables of the unit."""
    if settings is not None:
        (desk.root / "run/join.env").write_text(settings)
    desk.program("etcd", f'#!/bin/sh\n[ "$*" = "" ] && env -0 >"{desk.root}/environment"\n')
    command = [*desk.shell, str(GUEST / "etcd-start"), str(desk.root / "bin/etcd")]
    subprocess.run(command, env=desk.env | {"ETCD_NAME": "from-etcd.conf"}, check=True)
    pairs = (desk.root / "environment").read_text().rstrip("\0").split("\0")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs) if name not in desk.env}


def test_etcd_starts_with_the_settings_of_join_env(desk: Desk) -> None:
    found = {
        "ETCD_NAME": "etcd2",
        "ETCD_INITIAL_CLUSTER": "etcd1=https://[fd00::1]:2380,etcd2=https://[fd00::2]:2380",
        "ETCD_INITIAL_CLUSTER_STATE": "existing",
        "ETCD_INITIAL_CLUSTER_TOKEN": "etcd-0123",
    }
    environment = started(desk, "".join(f"{name}={value}\n" for name, value in found.items()))
    assert {name: value for name, value in environment.items() if name.startswith("ETCD_")} == found


def test_a_member_starts_with_the_settings_of_etcd_conf(desk: Desk) -> None:
    assert started(desk, None)["ETCD_NAME"] == "from-etcd.conf"


def test_other_lines_of_join_env_are_ignored_and_nothing_is_executed(desk: Desk) -> None:
    """A member's name comes from the cluster, so it may contain any text."""
    name = f"$(touch {desk.root}/ran) `touch {desk.root}/ran`"
    environment = started(desk, f"LD_PRELOAD=/x.so\nETCD_DATA_DIR=/x\nETCD_NAME={name}\nexit 1\n")
    assert not {"LD_PRELOAD", "ETCD_DATA_DIR"} & environment.keys()
    assert environment["ETCD_NAME"] == name
    assert not (desk.root / "ran").exists()


# ── etcd-install, first-boot-done, bootcmd ──────────────────────────────────────────────────────────────────


def seed_with_archive(desk: Desk) -> dict[str, str]:
    release = desk.root / "etcd-v3.5.33-linux-amd64"
    release.mkdir()
    for name in ("etcd", "etcdctl", "etcdutl", "README.md"):
        (release / name).write_text(name)
    seed = desk.root / "seed"
    seed.mkdir()
    with tarfile.open(seed / "etcd.tar.gz", "w:gz") as archive:
        archive.add(release, release.name)
    digest = hashlib.sha256((seed / "etcd.tar.gz").read_bytes()).hexdigest()
    where = {"BAKE_SEED_DIR": str(seed), "BAKE_BIN_DIR": str(desk.root / "usr/bin")}
    return where | {"BAKE_ARCHIVE_NAME": "etcd.tar.gz", "BAKE_ARCHIVE_SHA256": digest}


def no_chown(desk: Desk) -> None:
    desk.program("chown", f'#!/bin/sh\necho "$*" >>"{desk.root}/chowned"\n')


def test_the_archive_can_be_installed_twice(desk: Desk) -> None:
    env = seed_with_archive(desk)
    no_chown(desk)
    for _ in "12":
        done = desk.run("etcd-install", **env)
        assert done.returncode == 0, done.stderr
    installed = {path.name: path.stat().st_mode & 0o777 for path in (desk.root / "usr/bin").iterdir()}
    assert installed == {"etcd": 0o755, "etcdctl": 0o755, "etcdutl": 0o755}
    given = [line.split(" ") for line in (desk.root / "chowned").read_text().splitlines()]
    assert [(owner, Path(path).name) for owner, path in given] == [
        ("0:0", name) for _ in "12" for name in ("etcd", "etcdctl", "etcdutl")
    ]


def test_a_program_that_cannot_be_given_to_root_is_not_installed(desk: Desk) -> None:
    env = seed_with_archive(desk)
    desk.program("chown", "#!/bin/sh\nexit 1\n")
    assert desk.run("etcd-install", **env).returncode != 0
    assert list((desk.root / "usr/bin").iterdir()) == []


def test_an_archive_with_another_sha256_installs_nothing(desk: Desk) -> None:
    env = seed_with_archive(desk) | {"BAKE_ARCHIVE_SHA256": "0" * 64}
    done = desk.run("etcd-install", **env)
    assert done.returncode == 1
    assert "does not have the sha256" in done.stderr
    assert list((desk.root / "usr/bin").iterdir()) == []


def test_a_seed_is_mounted_by_its_label_and_unmounted(desk: Desk) -> None:
    env = seed_with_archive(desk)
    archive, real = Path(env["BAKE_SEED_DIR"]) / "etcd.tar.gz", desk.root / "medium.tar.gz"
    shutil.move(archive, real)
    no_chown(desk)
    desk.program("mount", f'#!/bin/sh\necho "mount $*" >>"$DESK/log"; cp {real} {archive}\n')
    desk.program("umount", '#!/bin/sh\necho "umount $*" >>"$DESK/log"\n')
    assert desk.run("etcd-install", **env).returncode == 0
    seed = env["BAKE_SEED_DIR"]
    log = (desk.root / "log").read_text().splitlines()
    assert log == [f"mount -o ro LABEL=cidata {seed}", f"umount {seed}"]


def test_the_end_of_the_first_boot_is_marked_with_its_instance_id(desk: Desk) -> None:
    (desk.root / "instance-id").write_text("iid-1\n")
    places = {"BAKE_STATE_DIR": f"{desk.root}/state", "BAKE_INSTANCE_FILE": f"{desk.root}/instance-id"}
    done = desk.run("first-boot-done", BAKE_CONSOLE=f"{desk.root}/console", **places)
    assert done.returncode == 0, done.stderr
    assert (desk.root / "state/configured").read_text() == "iid-1\n"
    assert "phase=configured" in (desk.root / "console").read_text()


def test_the_mark_of_the_first_boot_is_written_after_all_other_data_is_synced(desk: Desk) -> None:
    """After a power cut, either there is no mark, or the mark and all earlier data are complete."""
    (desk.root / "instance-id").write_text("iid-1\n")
    log = 'exec >>"$DESK/synced"; echo "synced:" $(cat "$DESK"/state/* 2>&-); ls "$DESK/state"'
    desk.program("sync", f"#!/bin/sh\n{log}\n")
    places = {"BAKE_STATE_DIR": f"{desk.root}/state", "BAKE_INSTANCE_FILE": f"{desk.root}/instance-id"}
    assert desk.run("first-boot-done", BAKE_CONSOLE=f"{desk.root}/console", **places).returncode == 0
    lines = (desk.root / "synced").read_text().splitlines()
    assert lines == ["synced:", "synced: iid-1", "configured.new", "synced: iid-1", "configured"]


def test_a_first_boot_without_an_instance_id_is_not_marked_as_done(desk: Desk) -> None:
    places = {"BAKE_STATE_DIR": f"{desk.root}/state", "BAKE_INSTANCE_FILE": f"{desk.root}/missing"}
    assert desk.run("first-boot-done", BAKE_CONSOLE=f"{desk.root}/console", **places).returncode != 0
    assert not (desk.root / "state/configured").exists()
    assert not (desk.root / "console").exists()


@pytest.mark.parametrize("kept", [None, "old"])
@pytest.mark.parametrize("given", [None, "new"])
def test_the_network_config_of_the_configured_seed_is_kept(desk: Desk, kept: str | None, given: str | None) -> None:
    """If it is not known, an older one must not stay: apply-seed would compare a new seed with it."""
    (desk.root / "instance-id").write_text("iid-1\n")
    (desk.root / "state").mkdir()
    for name, text in (("state/network-config", kept), ("network-config", given)):
        if text:
            (desk.root / name).write_text(text)
    places = {"BAKE_STATE_DIR": f"{desk.root}/state", "BAKE_INSTANCE_FILE": f"{desk.root}/instance-id"}
    places |= {"BAKE_CONSOLE": f"{desk.root}/console", "BAKE_NETWORK_FILE": f"{desk.root}/network-config"}
    assert desk.run("first-boot-done", **places).returncode == 0
    found = desk.root / "state/network-config"
    assert (found.read_text() if found.exists() else None) == given
    assert {path.name for path in (desk.root / "state").iterdir()} <= {"configured", "network-config"}


@pytest.mark.parametrize("there", [False, True])
def test_bootcmd_copies_the_network_config(desk: Desk, there: bool) -> None:
    copy = desk.root / "run/bake/network-config"
    copy.parent.mkdir(parents=True)
    copy.write_text("of an earlier seed")
    boot(desk, medium={"meta-data": "", **({"network-config": "version: 2\n"} if there else {})})
    assert copy.exists() is there
    assert not there or copy.read_text() == "version: 2\n"


def boot(desk: Desk, *, medium: dict[str, str] | None = None) -> list[str]:
    """Run bootcmd like cloud-init, with its absolute paths below the desk's folder.

    `medium`: the files of the ISO that can be mounted. Return the calls of mount and umount.
    """
    text = (GUEST.parents[2] / "bootcmd").read_text()
    for place in ("/var/lib/", "/run/bake", "/etc/etcd", "/dev/console"):
        text = text.replace(place, f"{desk.root}{place}")
    seed, log = desk.root / "run/bake/seed", desk.root / "mounts"
    for name, content in (medium or {}).items():
        (desk.root / "medium").mkdir(exist_ok=True)
        (desk.root / "medium" / name).write_text(content)
    mount = f"cp {desk.root}/medium/* {seed}" if medium else "echo 'no such device' >&2; exit 32"
    desk.program("mount", f'#!/bin/sh\necho "mount $*" >>{log}; {mount}\n')
    desk.program("umount", f'#!/bin/sh\necho "umount $*" >>{log}; rm {seed}/*\n')
    (desk.root / "dev").mkdir(exist_ok=True)
    done = subprocess.run([*desk.shell, "-c", text], env=desk.env | {"INSTANCE_ID": "iid-1"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    return log.read_text().replace(f"{desk.root}", "").splitlines() if log.exists() else []


@pytest.mark.parametrize(("mark", "again"), [(None, True), ("iid-0", True), ("iid-1", False)])
def test_an_unfinished_first_boot_runs_every_module_again(desk: Desk, mark: str | None, again: bool) -> None:
    done_mark = desk.root / "var/lib/bake/configured"
    semaphore = desk.root / "var/lib/cloud/instances/iid-1/sem/config_runcmd"
    for path in (done_mark, semaphore):
        path.parent.mkdir(parents=True, exist_ok=True)
    semaphore.touch()
    if mark:
        done_mark.write_text(f"{mark}\n")
    boot(desk)
    assert semaphore.exists() is not again
    assert done_mark.exists() is not again
    assert (desk.root / "run/bake/instance-id").read_text() == "iid-1\n"
    name = os.uname().nodename.split(".")[0]
    assert (desk.root / "dev/console").read_text() == f"bake: node={name} phase=cloud-init\n"


def test_a_seed_that_cloud_init_applies_again_is_a_first_boot(desk: Desk) -> None:
    """forget-seed has removed cloud-init's records, so all modules run, and etcd must wait until it can read its keys.

    A further boot before the node has settled is a normal boot.
    """
    state = desk.root / "var/lib/bake"
    state.mkdir(parents=True)
    (state / "configured").write_text("iid-1\n")
    (state / "seed").write_text("")
    boot(desk)
    assert list(state.iterdir()) == []
    (state / "configured").write_text("iid-1\n")
    boot(desk)
    assert (state / "configured").exists()


def test_bootcmd_syncs_the_disk_first(desk: Desk) -> None:
    """After a power cut between cloud-init's record and the sync, the node would have no configuration."""
    desk.program("sync", '#!/bin/sh\nls "$DESK/run" "$DESK/dev" >>"$DESK/synced"\n')
    boot(desk)
    assert (desk.root / "synced").read_text().split() == [f"{desk.root}/dev:", f"{desk.root}/run:"], "both empty"


@pytest.mark.parametrize("there", [False, True])
def test_only_root_can_open_the_key_folder_while_cloud_init_writes_keys(desk: Desk, there: bool) -> None:
    pki = desk.root / "etc/etcd/pki"
    if there:
        pki.mkdir(parents=True)
        pki.chmod(0o755)
    boot(desk)
    assert pki.stat().st_mode & 0o7777 == 0o700


SEED = {"user-data": "#cloud-config", "bootstrap-permit": "etcd-1234\n"}
MOUNTED = ["mount -o ro LABEL=cidata /run/bake/seed", "umount /run/bake/seed"]


RESTORING = {**SEED, "snapshot.db": "data", "snapshot.json": "{}"}


def test_a_snapshot_is_copied_to_the_disk_for_root_only(desk: Desk) -> None:
    for _ in "12":
        boot(desk, medium=RESTORING)
        for name in ("snapshot.db", "snapshot.json"):
            copy = desk.root / "var/lib/bake" / name
            assert (copy.read_text(), copy.stat().st_mode & 0o777) == (RESTORING[name], 0o600)
        assert (desk.root / "var/lib/bake").stat().st_mode & 0o005 == 0o005, "etcd reads its copy there"
        assert (desk.root / "run/bake/bootstrap-permit").exists()


def test_without_a_copy_of_the_snapshot_there_is_no_permit(desk: Desk) -> None:
    """With the permit alone, the first node would start an empty cluster in place of the restored one."""
    desk.program("cp", '#!/bin/sh\ncase "$*" in */medium/*) /bin/cp "$@" ;; *) exit 1 ;; esac\n')
    boot(desk, medium=RESTORING)
    assert not (desk.root / "run/bake/bootstrap-permit").exists()
    assert 'phase=failed detail="cannot copy the snapshot' in (desk.root / "dev/console").read_text()


def test_a_copy_of_an_earlier_snapshot_is_removed(desk: Desk) -> None:
    """Otherwise a cluster that is started anew, without a snapshot, would get the data of the earlier one."""
    boot(desk, medium=RESTORING)
    shutil.rmtree(desk.root / "medium")
    boot(desk, medium=SEED)
    assert [path.name for path in (desk.root / "var/lib/bake").iterdir() if "snapshot" in path.name] == []
    assert (desk.root / "run/bake/bootstrap-permit").exists()


def test_the_permit_is_copied_from_the_iso_into_memory_only(desk: Desk) -> None:
    for _ in "12":
        assert boot(desk, medium=SEED)[-2:] == MOUNTED
        assert (desk.root / "run/bake/bootstrap-permit").read_text() == "etcd-1234\n"
        assert (desk.root / "run/bake/bootstrap-permit").stat().st_mode & 0o777 == 0o600
        assert list((desk.root / "run/bake/seed").iterdir()) == []
    shutil.rmtree(desk.root / "medium")
    assert [str(path.relative_to(desk.root)) for path in desk.root.rglob("bootstrap-permit")] == [
        "run/bake/bootstrap-permit"
    ]


@pytest.mark.parametrize("medium", [{"user-data": "#cloud-config"}, None], ids=["sealed", "no medium"])
def test_without_a_permit_on_the_iso_there_is_no_permit(desk: Desk, medium: dict[str, str] | None) -> None:
    boot(desk, medium=SEED)
    shutil.rmtree(desk.root / "medium")
    (desk.root / "mounts").unlink()
    assert boot(desk, medium=medium) == (MOUNTED if medium else MOUNTED[:1])
    assert not (desk.root / "run/bake/bootstrap-permit").exists()


@pytest.mark.parametrize("name", ["bootstrap-permit", "meta-data"])
def test_a_mounted_iso_is_used_and_stays_mounted(desk: Desk, name: str) -> None:
    there = desk.root / "run/bake/seed" / name
    there.parent.mkdir(parents=True)
    there.write_text("etcd-5678\n")
    assert boot(desk, medium=SEED) == []
    assert there.exists()
    assert (desk.root / "run/bake/bootstrap-permit").exists() is (name == "bootstrap-permit")
