"""Incus: which member gets a node, what bake asks Incus to make, and what it says about an Incus that refuses."""

from __future__ import annotations

import io
import json
import socketserver
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from generator import pki
from generator.config.hosts import EngineKind, IncusSpec
from generator.config.spec import ClusterSpec, NetworkMode, NetworkSpec, NodeSpec, VmSpec
from generator.engine import State
from generator.errors import BakeError, InputError
from generator.image.base import BootImage
from generator.incus import connect, find_remote
from generator.incus.client import Incus, IncusError
from generator.incus.console import new_part
from generator.incus.image import ContainerImage
from generator.incus.instances import definition, list_instances, network_file, nic, redefined
from generator.incus.members import Member, choose_target, removed_unless_off, require_section
from generator.incus.remote import Remote
from generator.incus.tags import Claim, Tag, generation_of, instance_name, read_tag
from generator.incus.volumes import backup
from generator.plan import ClusterPlan, plan_cluster
from generator.progress import Work
from generator.seed.first_boot import first_boot_commands
from generator.seed.guest_files import Trust, guest_files

TAG = Tag(cluster="etcd", id="abc", node="etcd1", version="1")


def plan_of(**more: Any) -> ClusterPlan:
    fields = {"network": NetworkSpec(mode=NetworkMode.BRIDGE, bridge="br0"), **more}
    return plan_cluster(ClusterSpec(engine=EngineKind.INCUS, **fields))


# --- placement ------------------------------------------------------------------------------------------------


def members(*domains: str, off: Sequence[int] = (), groups: Sequence[str] = ()) -> list[Member]:
    """Return the members m1, m2, … with these failure domains. `groups`: texts such as `g=m1,m2`."""
    names = {text.partition("=")[0]: text.partition("=")[2].split(",") for text in groups}
    return [
        Member(
            name=f"m{number}", online=number not in off, failure_domain=domain,
            groups=frozenset(group for group, has in names.items() if f"m{number}" in has),
        )
        for number, domain in enumerate(domains, start=1)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "used", "target"),
    [
        (members("a", "b", "c"), [], ""),  # Incus chooses
        (members("a", "b", "c"), ["m1"], "m2"),
        (members("a", "b", "c"), ["m1", "m2"], "m3"),
        (members("a", "b", "c"), ["m1", "m2", "m3"], ""),
        (members("default", "default", "default"), ["m1", "m2"], "m3"),  # without failure domains, each member is one
        (members("a", "a", "b", "b"), ["m1"], "m3"),
        (members("a", "a", "b", "b", groups=["rack=m3,m4"]), ["m1"], "@rack"),  # Incus chooses among m3 and m4
        (members("a", "a", "b", "b", groups=["rack=m2,m3,m4"]), ["m1"], "m3"),
        (members("a", "a", "b"), ["m1", "m3"], ""),
        (members("a", "b", "c", off=[3]), ["m1"], "m2"),
        (members("a", "a", "b", off=[3]), ["m1", "m3"], ""),
        (members("a", "b", "b"), ["m1", "m3", "m1"], "m2"),
    ],
)
def test_a_node_gets_the_failure_domain_with_the_fewest_nodes(
    known: list[Member], used: list[str], target: str
) -> None:
    assert choose_target(known, used) == target


def test_a_pin_and_a_group_decide() -> None:
    known = members("a", "b", "c", groups=["g=m2,m3"])
    assert choose_target(known, ["m1"], pin="m1") == "m1"
    assert choose_target(known, ["m1"], group="g") == "@g"
    assert choose_target(known, ["m1", "m2"], group="g") == "m3"
    with pytest.raises(BakeError, match="no member of the Incus cluster group h"):
        choose_target(known, [], group="h")


def test_a_server_without_a_cluster_chooses() -> None:
    assert choose_target([Member(name="", online=True)], ["", ""]) == ""


@pytest.mark.parametrize("nodes", range(1, 8))
def test_no_domain_has_two_nodes_more_than_another(nodes: int) -> None:
    known, used = members("a", "a", "b", "c", "c"), []
    for _ in range(nodes):
        target = choose_target(known, used)
        used.append(target or known[0].name)
    counts = [sum(one.domain == domain for name in used for one in known if one.name == name) for domain in "abc"]
    assert max(counts) - min(counts) <= 1


# --- names and tags -------------------------------------------------------------------------------------------


def test_a_tag_survives_the_configuration() -> None:
    assert read_tag({"limits.cpu": "1", **TAG.config}) == TAG
    assert read_tag({"limits.cpu": "1"}) is None
    assert Claim(cluster="etcd", cluster_id="abc").covers(TAG)
    assert Claim(cluster="etcd").covers(TAG)
    assert not Claim(cluster="etcd", cluster_id="abd").covers(TAG)
    assert not Claim(cluster="etce").covers(TAG)


def test_the_name_of_an_instance_has_its_generation() -> None:
    assert [instance_name("c", "n", number) for number in (1, 2, 12)] == ["c-n", "c-n-R2", "c-n-R12"]
    assert [generation_of("c", "n", name) for name in ("c-n", "c-n-R2", "c-n-R12")] == [1, 2, 12]
    assert [generation_of("c", "n", name) for name in ("c-n-2", "c-n-r2", "c-n2", "cxn", "c-n-R2x")] == [0] * 5


class Listing:
    """An Incus that knows only a list of instances."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = found

    def get(self, *_path: str, **_query: str) -> Any:
        return self.found


def entry(name: str, location: str, status: str = "Running", **config: str) -> dict[str, Any]:
    return {"name": name, "location": location, "status": status, "config": config, "devices": {}}


def test_the_instances_of_a_member_that_is_off_are_known_by_their_names() -> None:
    own = {"user.bake.cluster": "c", "user.bake.id": "1", "user.bake.node": "n"}
    incus: Any = Listing(
        entry("c-n", "m1", "Error"), entry("c-n-R2", "m2", **own), entry("c-m", "m2"), entry("other", "m1", "Error"),
        entry("c-gone", "m2", "Stopped", **{**own, "user.bake.node": "gone"}),
    )  # fmt: skip
    found = list_instances(incus, Claim(cluster="c", cluster_id="1"), ["n", "m"], ["m1"])
    assert [(one.node, one.name, one.state) for one in found] == [
        ("gone", "c-gone", State.STOPPED), ("m", "c-m", State.FOREIGN), ("n", "c-n-R2", State.RUNNING),
        ("n", "c-n", State.UNKNOWN),
    ]  # fmt: skip


# --- what bake asks for ---------------------------------------------------------------------------------------


def test_an_instance_starts_only_when_bake_starts_it() -> None:
    plan = plan_of(vm=VmSpec(memory=800, cpus=2, disk=5))
    wanted = definition(plan, plan.nodes[0], TAG)
    assert wanted["config"]["boot.autostart"] == "false"
    assert wanted["config"]["cluster.evacuate"] == "stop"
    assert (wanted["config"]["limits.memory"], wanted["config"]["limits.cpu"]) == ("800MiB", "2")
    assert wanted["devices"]["root"] == {"type": "disk", "path": "/", "pool": "default", "size": "5GiB"}
    assert wanted["profiles"] == []


def test_the_network_of_an_instance() -> None:
    plan = plan_of()
    mac = plan.nodes[0].mac
    common = {"type": "nic", "name": "eth0", "hwaddr": mac}
    assert nic(plan, plan.nodes[0]) == {**common, "nictype": "bridged", "parent": "br0"}
    plan = plan_of(
        incus=IncusSpec(nic="macvlan"), network=NetworkSpec(mode=NetworkMode.BRIDGE, bridge="eth0", vlan=5)
    )
    assert nic(plan, plan.nodes[0]) == {**common, "nictype": "macvlan", "parent": "eth0", "vlan": "5"}
    plan = plan_of(network=NetworkSpec(mode=NetworkMode.NETWORK, name="net0"))
    assert nic(plan, plan.nodes[0]) == {**common, "network": "net0"}
    assert network_file(plan, plan.nodes[0]).splitlines() == [
        "[Match]", "Name=eth0", "[Network]", "Address=192.168.20.31/24", "Gateway=192.168.20.1", "IPv6AcceptRA=no"
    ]  # fmt: skip


def test_a_container_has_no_units_for_a_data_disk(now: datetime) -> None:
    """Incus mounts the volume, and systemd would wait for a disk."""
    plan = plan_of()
    ca = pki.create_authority(plan, now=now)
    issued = {pki.Role.CA: ca, **next(pki.issue_nodes(plan, ca, now=now))}
    trust = Trust(identity="0" * 32, ca_pem=ca.cert_pem)
    files = {str(file.path): file.data for file in guest_files(plan, plan.nodes[0], trust, issued)}
    assert not [path for path in files if "etcd-data" in path or path.endswith("var-lib-etcd.mount")]
    assert b"var-lib-etcd.mount" not in files["/etc/systemd/system/etcd.service"]
    assert "chown -R etcd: /var/lib/etcd" in "\n".join(first_boot_commands(plan))


def test_an_instance_as_wanted_is_not_changed() -> None:
    plan = plan_of()
    node = plan.nodes[0]
    wanted = definition(plan, node, TAG)
    data = {**wanted, "name": "etcd-etcd1", "location": "m1", "status": "Stopped", "ephemeral": False}
    (one,) = list_instances(Listing(data), Claim(cluster="etcd"), ["etcd1"], [])  # type: ignore[arg-type]
    assert redefined(one, wanted) is None
    body = redefined(one, definition(plan_of(vm=VmSpec(cpus=3)), node, TAG))
    assert body is not None
    assert body["config"] == {**wanted["config"], "limits.cpu": "3"}
    assert set(body) == {"config", "description", "devices", "ephemeral", "profiles"}


def test_a_seed_becomes_a_volume_that_only_root_reads() -> None:
    files = {"user-data": b"keys", "meta-data": b"id"}
    with tarfile.open(fileobj=io.BytesIO(backup("v", "p", files, TAG))) as archive:
        found = {entry.name: entry for entry in archive.getmembers()}
        index = yaml.safe_load(archive.extractfile("backup/index.yaml").read())  # type: ignore[union-attr]
        keys = archive.extractfile("backup/volume/user-data").read()  # type: ignore[union-attr]
    assert keys == b"keys"
    assert index["config"]["volume"]["config"] == TAG.config
    assert {entry.mode & 0o077 for entry in found.values()} == {0}
    assert "keys" not in json.dumps(index)


def test_the_fingerprint_is_that_of_the_uploaded_files(tmp_path: Path) -> None:
    (tmp_path / "root.tar").write_bytes(b"root")
    base = BootImage(disk=tmp_path / "d", format="qcow2", virtual_size=1, digest="x", root_tar=tmp_path / "root.tar")
    image = ContainerImage(base=base, tag=TAG)
    with tarfile.open(fileobj=io.BytesIO(image.description)) as archive:
        names = set(archive.getnames())
        metadata = yaml.safe_load(archive.extractfile("metadata.yaml").read())  # type: ignore[union-attr]
    assert {f"templates/{one['template']}" for one in metadata["templates"].values()} | {"metadata.yaml"} == names
    assert read_tag(metadata["properties"]) == TAG
    assert image.fingerprint == ContainerImage(base=base, tag=TAG).fingerprint
    body = b"".join(image._parts(Work("image", 1)))
    assert body.count(b"--bake-image") == 3
    assert image.description in body
    with pytest.raises(BakeError, match="no root file system"):
        _ = ContainerImage(base=BootImage(disk=tmp_path / "d", format="", virtual_size=1, digest=""), tag=TAG).root


@pytest.mark.parametrize(
    ("before", "data", "new"),
    [
        (b"", b"abc", b"abc"),
        (b"abc", b"", b""),
        (b"abc", b"xy", b"xy"),  # Incus returns each part once
        (b"\n", b"\nxy", b"\nxy"),
        (b"a" * 64, b"a" * 64 + b"new", b"new"),
        (b"a" * 5000 + b"end", b"a" * 4500 + b"endnew", b"new"),  # the log has lost its begin
        (b"a" * 5000, b"b" * 5000, b"b" * 5000),
    ],
)
def test_a_console_shows_each_part_once(before: bytes, data: bytes, new: bytes) -> None:
    assert new_part(before, data) == new


# --- how bake finds Incus -------------------------------------------------------------------------------------


def test_a_remote_is_one_of_the_program_incus(tmp_path: Path) -> None:
    (tmp_path / "servercerts").mkdir()
    (tmp_path / "servercerts" / "lab.crt").write_text("pem")
    (tmp_path / "config.yml").write_text(
        "remotes:\n  lab: {addr: 'https://h1:8443', auth_type: tls}\n  sso: {addr: 'https://h1', auth_type: oidc}\n"
    )
    environment = {"INCUS_CONF": str(tmp_path)}
    found = find_remote("lab", ["https://h2:8443", "https://h1:8443"], environment)
    assert found.addresses == ("https://h1:8443", "https://h2:8443")
    assert (found.certificate, found.pinned) == (tmp_path / "client.crt", tmp_path / "servercerts" / "lab.crt")
    assert find_remote("local", (), environment).addresses == ("unix:/var/lib/incus/unix.socket",)
    for name, words in (("none", "no remote 'none'"), ("sso", "'oidc'")):
        with pytest.raises(BakeError, match=words):
            find_remote(name, (), environment)


# --- an Incus that refuses ------------------------------------------------------------------------------------


class Server(socketserver.ThreadingUnixStreamServer):
    """An HTTP server on a socket that gives prepared answers, each once and the last one always."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        super().__init__(str(path), Handler)

    def say(self, path: str, *answers: Any, code: int = 200) -> None:
        kind = "sync" if code < 400 else "error"
        found = [(code, {"type": kind, "metadata": one, "error": one, "error_code": code}) for one in answers]
        self.answers.setdefault(path, []).extend(found)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        waiting = self.server.answers.get(self.path.partition("?")[0], [(404, {"type": "error", "error": "not found"})])
        code, answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        data = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "test"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "socket") as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        found.say("/1.0", {"auth": "trusted", "environment": {"server_clustered": True}})
        found.say("/1.0/projects/p", {})
        yield found
        found.shutdown()
        thread.join()


def remote(server: Server) -> Remote:
    return Remote(name="r", addresses=(f"unix:{server.server_address!s}",))


@pytest.fixture
def incus(server: Server) -> Iterator[Incus]:
    found = Incus(remote=remote(server), project="p")
    yield found
    found.close()


def test_an_incus_that_does_not_trust_the_client_is_named(server: Server) -> None:
    server.answers.clear()
    server.say("/1.0", {"auth": "untrusted"})
    with pytest.raises(BakeError, match="does not trust the certificate"):
        connect(remote(server), "p")


def test_a_project_without_permission_is_named(server: Server) -> None:
    server.say("/1.0/projects/q", "Certificate is restricted", code=403)
    with pytest.raises(BakeError, match=r"incus\.project.*'q', or you may not use it"):
        connect(remote(server), "q")


def test_a_silent_incus_is_named(tmp_path: Path) -> None:
    addresses = (f"unix:{tmp_path}/none", f"unix:{tmp_path}/nothing")
    with pytest.raises(IncusError, match=r"none: No such file.*; cannot connect to Incus at unix:.*nothing"):
        connect(Remote(name="r", addresses=addresses), "p")


def test_another_address_is_used_if_the_first_is_silent(server: Server, tmp_path: Path) -> None:
    both = Remote(name="r", addresses=(f"unix:{tmp_path}/none", f"unix:{server.server_address!s}"))
    found = connect(both, "p")
    assert found.get()["auth"] == "trusted"
    found.close()


def test_a_call_is_repeated_while_the_members_elect_a_leader(
    server: Server, incus: Incus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generator.incus.client.time.sleep", lambda _: None)
    server.say("/1.0/instances", "no available dqlite leader server found", code=500)
    server.say("/1.0/instances", ["one"])
    assert incus.get("instances") == ["one"]


def test_an_error_says_what_incus_says(server: Server, incus: Incus) -> None:
    assert incus.find("instances", "none") is None
    server.say("/1.0/instances/x", "Forbidden by rule", code=403)
    with pytest.raises(IncusError, match="Incus: Forbidden by rule") as raised:
        incus.get("instances", "x")
    assert "project p" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"pool": "fast"}, r"incus\.pool: the project p .* has no storage pool 'fast'"),
        ({"profile": "big"}, r"incus\.profile: .* has no profile 'big'"),
        ({"group": "rack9"}, r"incus\.group: .* no cluster group 'rack9'"),
    ],
)
def test_what_incus_does_not_have_is_named(server: Server, incus: Incus, section: dict[str, str], words: str) -> None:
    server.say("/1.0/storage-pools/default", {})
    server.say("/1.0/profiles/small", {})
    server.say("/1.0/cluster/members", [{"server_name": "m1", "status": "Online", "groups": ["default"]}])
    spec = plan_of(incus=IncusSpec(**section)).spec
    with pytest.raises(InputError, match=words):
        require_section(incus, spec)


def test_an_unknown_member_is_named(server: Server, incus: Incus) -> None:
    server.say("/1.0/storage-pools/default", {})
    server.say("/1.0/cluster/members", [{"server_name": "m1", "status": "Online"}])
    spec = plan_of(nodes=(NodeSpec(name="a", host="m2"),)).spec
    with pytest.raises(InputError, match=r"nodes\[0\]\.host: a: the Incus cluster has no member 'm2'"):
        require_section(incus, spec)


def refuse() -> list[str]:
    raise IncusError("Incus: Server isn't ready yet")


def test_a_member_that_has_just_failed_counts_as_off(server: Server, incus: Incus) -> None:
    """Incus reports it as online for some more seconds, and refuses the call meanwhile."""
    server.say("/1.0/cluster/members", [{"server_name": "m1", "status": "Offline"}])
    off = {"m2"}
    assert removed_unless_off(incus, "m1", off, refuse) == []
    assert off == {"m1", "m2"}
    assert removed_unless_off(incus, "m2", off, lambda: pytest.fail("m2 is off")) == []
    assert removed_unless_off(incus, "m3", off, lambda: ("a",)) == ["a"]


def test_an_error_of_a_member_that_is_online_names_it(server: Server, incus: Incus) -> None:
    server.say("/1.0/cluster/members", [{"server_name": "m1", "status": "Online"}])
    with pytest.raises(BakeError, match="host m1: Incus: Server isn't ready yet"):
        removed_unless_off(incus, "m1", set(), refuse)


# --- the server's certificate ---------------------------------------------------------------------------------


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[str]:
    """The address of a server that answers each request. Its certificate is in `own.crt`, another in `other.crt`."""
    for name in ("own", "other"):
        words = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN={name}"
        files = ["-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.crt"]
        subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"type": "sync", "metadata": {"auth": "trusted"}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "own.crt", tmp_path / "own.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_only_the_certificate_that_was_trusted_before_is_accepted(tls_server: str, tmp_path: Path) -> None:
    def remote(name: str) -> Remote:
        return Remote(name="lab", addresses=(tls_server,), pinned=tmp_path / f"{name}.crt")

    assert connect(remote("own"), "bake").get()["auth"] == "trusted"
    with pytest.raises(BakeError, match="its certificate is not the one that was trusted before"):
        connect(remote("other"), "bake")
