"""Cluster files that bake accepts, any of them, and what a guest and an operator's shell make of what comes out."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from generator.config.auth import RESERVED_NAMES
from generator.config.spec import FirewallKind
from generator.layout import FOLDER_NAMES
from generator.plan import ClusterPlan

LABELS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=64)
CANARY = "touch canary"  # each is this command, where somebody runs it
CANARIES = (
    f"$({CANARY})",
    f"`{CANARY}`",
    f";{CANARY};",
    f"';{CANARY};'",
    f'";{CANARY};"',
    f"&& {CANARY} #",
    f"| {CANARY}",
    f"\n{CANARY}\n",
    f"\r{CANARY}",
    f'"\n- {CANARY}',
    f"x\nExecStartPre=/bin/{CANARY}",
    f"${{IFS+$({CANARY})}}",
    f"{{{{ lipsum.__globals__.os.popen('{CANARY}') }}}}",
    f"{{% include '{CANARY}' %}}",
    f"%n {CANARY}",
    f"!!python/object/apply:os.system ['{CANARY}']",
    "a: b",
    "1e3",
)
TEXT = st.one_of(PRINTABLE, st.sampled_from([text for text in CANARIES if text.isprintable()]))
DOMAINS = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
MACS = st.from_regex(r"[0-9a-f][02468ace](:[0-9a-f]{2}){4}:[0-9a-f][1-9a-f]", fullmatch=True)
DIGESTS = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
PACKAGES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9.+:~=_-]{0,30}", fullmatch=True)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A section with any of its fields."""
    return st.fixed_dictionaries({}, optional=fields)


NODE_NAMES = LABELS.filter(lambda label: label not in {*FOLDER_NAMES, *RESERVED_NAMES})
NODES = st.one_of(
    st.integers(1, 7),
    st.lists(
        st.fixed_dictionaries({"name": NODE_NAMES}, optional={"mac": MACS}),
        min_size=1, max_size=7, unique_by=(lambda node: node["name"], lambda node: node.get("mac", node["name"])),
    ),
)  # fmt: skip
KEY = st.from_regex(r"[A-Za-z0-9._/:@+=,-]{1,256}", fullmatch=True)
KEYS = st.one_of(some(prefix=KEY), some(key=KEY)).filter(bool)
ACCESS = st.sampled_from(["read", "write", "readwrite"])
PERMISSIONS = st.builds(lambda key, access: {**key, "access": access}, KEYS, ACCESS)
ACCOUNTS = st.fixed_dictionaries(
    {
        "enabled": st.just(True),
        "users": st.lists(
            st.fixed_dictionaries({"name": st.from_regex(r"[A-Z][A-Za-z0-9._-]{0,63}", fullmatch=True)},
                                  optional={"roles": st.lists(st.sampled_from(["app", "root"]), max_size=2)}),
            max_size=3, unique_by=lambda user: user["name"],
        ),
        "roles": st.just([{"name": "app"}]) | PERMISSIONS.map(lambda one: [{"name": "app", "permissions": [one]}]),
    }
)  # fmt: skip
OPTIONS = some(
    **{
        "heartbeat-interval": st.integers(1, 200),
        "election-timeout": st.integers(1000, 50000),
        "pre-vote": st.booleans(),
        "host-whitelist": st.from_regex(r"[A-Za-z0-9._:/,*=@{}\[\]+-]{1,64}", fullmatch=True),
        "log-level": st.sampled_from(["debug", "info"]),
    }
)
MODES = st.sampled_from(
    [{}, {"mode": "nat"}, {"mode": "isolated"}, {"mode": "network", "name": "lan"}, {"mode": "bridge", "bridge": "br0"}]
)
IPV4 = {
    "network": st.builds(
        lambda network, mode: {**network, **mode},
        some(
            subnet=st.sampled_from(["10.0.0.0/8", "172.16.5.0/24", "192.168.20.0/28"]),
            dns=st.lists(st.ip_addresses(v=4).map(str), max_size=3),
        ),
        MODES,
    ),
    "firewall": some(
        kind=st.sampled_from([str(kind) for kind in FirewallKind]),
        clientCidrs=st.lists(st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32"]), max_size=3),
    ),
}
IPV6_NETWORK = some(dns=st.just(["fd00:20::53"])).map(lambda network: {"subnet": "fd00:20::/64", **network})
IPV6_FIREWALL = some(
    kind=st.sampled_from([str(kind) for kind in FirewallKind]), clientCidrs=st.just(["fd00::/8", "::/0"])
)
READERS = st.from_regex(r"[A-Za-z_][A-Za-z0-9._-]{0,31}", fullmatch=True).filter(lambda x: x not in ("root", "etcd"))
COMMON = {
    "name": LABELS,
    "nodes": NODES,
    "pki": some(
        keyType=st.sampled_from(["ecdsa-p256", "ecdsa-p384"]),  # RSA keys take seconds
        leafDays=st.integers(2, 3650),
        certificates=st.sampled_from(["per-node", "shared"]),
        extensions=st.sampled_from(["strict", "document"]),
        nameConstraints=st.sampled_from(["none", "names", "all"]),
        permissions=st.sampled_from(["owner", "acl"]),
        domain=DOMAINS,
        singleLabelNames=st.booleans(),
        subject=some(
            country=st.from_regex("[A-Z]{2}", fullmatch=True),
            state=TEXT, locality=TEXT, organization=TEXT, clientOrganization=TEXT,
        ),
    ),
    "etcd": some(
        version=st.sampled_from(["3.5", "3.6"]),
        clientPort=st.integers(3000, 65535),
        dataDir=st.from_regex(r"/var/lib/etcd(/[A-Za-z0-9_][A-Za-z0-9._-]{0,20}){1,3}", fullmatch=True),
        token=st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True),
        tlsMinVersion=st.sampled_from(["1.2", "1.3"]),
        options=OPTIONS,
    ),
    "install": st.one_of(
        st.fixed_dictionaries({"method": st.just("archive"), "archive": TEXT, "sha256": DIGESTS}),
        st.fixed_dictionaries({"method": st.just("package"), "packages": st.lists(PACKAGES, min_size=1, max_size=4)}),
        some(packages=st.lists(PACKAGES, max_size=2)),
    ),
    "auth": st.one_of(st.booleans(), ACCOUNTS),
    "access": some(readers=st.lists(READERS, max_size=3)),
    "join": st.sampled_from(["learner", "voter"]),
    "vm": some(
        memory=st.integers(256, 99999),
        cpus=st.integers(1, 256),
        disk=st.integers(2, 999),
        image=TEXT.filter(lambda text: "://" not in text),
        firmware=st.sampled_from(["bios", "efi"]),
    ),
}  # fmt: skip
SPECS = st.one_of(
    some(**COMMON, **IPV4),
    st.fixed_dictionaries({"network": IPV6_NETWORK}, optional={**COMMON, "firewall": IPV6_FIREWALL}),
)


class Consumers:
    """What reads bake's files on a node and at the operator's, the real ones, a few hundred files at a time.

    `folder` is an empty folder in which a canary would lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        self.root = folder / "root"
        shutil.copytree("/usr/lib/systemd/system", self.root / "usr/lib/systemd/system", symlinks=True)
        _put_program(self.root / "sbin/agetty")
        self.envs: list[tuple[str, dict[str, str]]] = []  # each text, and what it must mean
        self.units: set[tuple[str, str]] = set()  # name and text
        self.scripts: set[str] = set()

    def add(self, env: bytes, values: dict[str, str]) -> None:
        """An env file and what it must mean; its names are made unique, so that many fit into one file."""
        prefix = f"E{len(self.envs)}_"
        text = re.sub(r"(?m)^(export )?([A-Z_0-9]+=)", rf"\1{prefix}\2", env.decode())
        self.envs.append((text, {prefix + name: value for name, value in values.items()}))
        if len(self.envs) == 200:
            self.flush()

    def flush(self) -> None:
        envs, self.envs = self.envs, []
        _compare(self._by_sh(envs), envs)
        units = [(text, values) for text, values in envs if not text.startswith("export ")]  # a shell's alone
        _compare(self._by_systemd(units), units)
        self._verify()
        for script in self.scripts:
            for shell in (["dash"], ["busybox", "sh"]):
                subprocess.run([*shell, "-n"], input=script, text=True, check=True)
        self.units, self.scripts = set(), set()
        assert [path.name for path in self.work.iterdir()] == ["all.env"], "a canary"

    def _by_sh(self, envs: list[tuple[str, dict[str, str]]]) -> dict[str, str]:
        (self.work / "all.env").write_text("".join(text for text, _ in envs))
        script = "set -a; . ./all.env; exec env -0"
        done = subprocess.run(["sh", "-euc", script], cwd=self.work, capture_output=True, check=True, text=True)
        return dict(line.split("=", 1) for line in done.stdout.split("\0") if line)

    def _by_systemd(self, envs: list[tuple[str, dict[str, str]]]) -> dict[str, str]:
        """By the parser of EnvironmentFile=, which systemd uses for environment.d too."""
        (self.folder / "environment.d").mkdir(exist_ok=True)
        (self.folder / "environment.d/all.conf").write_text("".join(text for text, _ in envs))
        generator = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"
        environment = {"XDG_CONFIG_HOME": str(self.folder), "PATH": "/usr/bin:/bin"}
        done = subprocess.run([generator], cwd=self.work, env=environment, capture_output=True, check=True, text=True)
        assert done.stderr == "", done.stderr
        return dict(word.split("=", 1) for word in shlex.split(done.stdout))

    def _verify(self) -> None:
        """Each unit under a name of its own, beside one of every kind under the names that they call each other by."""
        folder, services = self.root / "etc/systemd/system", []
        folder.mkdir(parents=True, exist_ok=True)
        for number, (name, text) in enumerate(sorted(self.units)):
            stem, _, kind = name.rpartition(".")
            (folder / name).write_text(text)
            if kind == "service":
                services.append(f"{stem}-{number}.service")
                (folder / services[-1]).write_text(text)
            for program in re.findall(r"(?m)^Exec\w+=[-+!@:]*(/\S+)", text):
                _put_program(self.root / program[1:])
        if services:
            words = ["systemd-analyze", "verify", "--man=no", f"--root={self.root}", *services]
            done = subprocess.run(words, cwd=self.work, capture_output=True, check=False, text=True)
            assert (done.returncode, done.stderr) == (0, ""), done


def _compare(found: dict[str, str], envs: list[tuple[str, dict[str, str]]]) -> None:
    meant = {name: value for _, values in envs for name, value in values.items()}
    wrong = {name: (value, found.get(name)) for name, value in meant.items() if found.get(name) != value}
    assert not wrong, wrong


def _put_program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def conf_values(plan: ClusterPlan, number: int) -> dict[str, str]:
    """What a node's etcd.conf must mean, of what a user can say."""
    node, etcd = plan.nodes[number], plan.spec.etcd
    return {"ETCD_NAME": node.name, "ETCD_DATA_DIR": etcd.data_dir, "ETCD_LISTEN_PEER_URLS": node.peer_url}
