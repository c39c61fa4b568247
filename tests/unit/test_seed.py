"""The seed, as PyYAML, cloud-init's schema, xorriso and blkid read it."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from generator import pki
from generator.artifact import Artifact
from generator.config.load import load, profile_names
from generator.errors import InputError
from generator.level import Level
from generator.plan import ClusterPlan, plan_cluster
from generator.seed import guest_files, iso
from generator.seed.seed_level import SeedChange, compare_seeds

Plan = Callable[..., ClusterPlan]
ROOT = Path(__file__).parents[2]
ARCHIVE = {
    "--archive": (("install", "archive"), "etcd.tar.gz"),
    "--archive-sha256": (("install", "sha256"), "0" * 64),
}
KEYS = ("--key-type", (("pki", "keyType"), "ecdsa-p256"))


def trusted(authority: pki.Credential) -> guest_files.Trust:
    return guest_files.Trust(identity="0" * 32, ca_pem=authority.cert_pem)


def seed_of(plan: ClusterPlan, now: Any, index: int = 0) -> tuple[Artifact, ...]:
    authority = pki.create_authority(plan, now=now)
    credentials = list(pki.issue_nodes(plan, authority, now=now))[index]
    node = plan.nodes[index]
    return iso.seed_files(plan, node, guest_files.guest_files(plan, node, trusted(authority), credentials))


@pytest.fixture(scope="module")
def files(plan: Plan, now: Any) -> tuple[Artifact, ...]:
    return seed_of(plan(), now)


@pytest.fixture
def iso_file(files: tuple[Artifact, ...], tmp_path: Path) -> Path:
    path = tmp_path / "seed.iso"
    path.write_bytes(iso.pack(files).data)
    return path


def content(files: tuple[Artifact, ...], name: str) -> Any:
    return yaml.safe_load(next(file.data for file in files if file.path.name == name))


# ── the three files ─────────────────────────────────────────────────────────────────────────────────────────


def test_user_data_is_a_cloud_config_and_a_secret(files: tuple[Artifact, ...]) -> None:
    user_data = files[0]
    assert user_data.data.startswith(b"#cloud-config\n")
    assert (user_data.mode, user_data.secret) == (0o600, True)
    assert "PRIVATE" not in repr(user_data)


def test_user_data_has_the_guest_files_unchanged(plan: Plan, now: Any) -> None:
    wanted = plan(nodes=1)
    authority = pki.create_authority(wanted, now=now)
    guest = list(
        guest_files.guest_files(
            wanted, wanted.nodes[0], trusted(authority), next(pki.issue_nodes(wanted, authority, now=now))
        )
    )
    user_data = iso.seed_files(wanted, wanted.nodes[0], guest)[0].data
    assert iso.written_files(user_data, where="") == {str(file.path): file.data for file in guest}
    modes = {file["path"]: file["permissions"] for file in yaml.safe_load(user_data)["write_files"]}
    assert modes == {str(file.path): f"{file.mode:04o}" for file in guest}
    assert {mode for path, mode in modes.items() if path.endswith(".key")} == {"0600"}


def test_user_data_has_configuration_first_and_scripts_last(files: tuple[Artifact, ...]) -> None:
    config = content(files, "user-data")
    assert [*config] == ["hostname", "fqdn", "write_files", "bootcmd", "runcmd"]
    paths = [file["path"] for file in config["write_files"]]
    assert paths[:2] == ["/etc/etcd/etcd.conf", "/etc/etcd/bake.env"]
    folders = [folder for folder, _ in itertools.groupby(str(PurePosixPath(path).parent) for path in paths)]
    assert folders == [
        "/etc/etcd", "/etc/etcd/pki", "/etc/systemd/system", "/etc/udev/rules.d", "/usr/libexec/bake"
    ]  # fmt: skip


@pytest.mark.parametrize("profile", profile_names())
def test_the_head_of_user_data_lists_its_parts_in_their_order(profile: str, now: Any) -> None:
    flags = dict([KEYS, *(ARCHIVE.items() if profile == "rhel" else ())])
    seed = seed_of(plan_cluster(load(profile=profile, flags=flags).spec), now)
    head = [line for line in seed[0].data.decode().split("\nhostname:")[0].splitlines()[3:] if line.startswith("#  ")]
    assert max(map(len, head)) <= 100
    text = " ".join(line.removeprefix("#").strip() for line in head)
    config = content(seed, "user-data")
    listed = [
        f"{folder}/{name}"
        for folder, names in re.findall(r"write_files, [a-z ]+ in (\S+): (.*?)(?= write_files| bootcmd)", text)
        for name in names.split(", ")
    ]
    assert listed == [file["path"] for file in config["write_files"]]
    assert list(dict.fromkeys(re.findall(r"(?:^| )(packages|write_files|bootcmd|runcmd)[,:]", text))) == [
        key for key in config if key not in ("hostname", "fqdn", "package_update")
    ]


def test_another_order_of_the_same_files_costs_a_node_nothing(files: tuple[Artifact, ...]) -> None:
    new = {file.path.name: file.data for file in files}
    data = content(files, "user-data")
    turned = {**dict(reversed(data.items())), "write_files": data["write_files"][::-1]}
    old = {**new, "user-data": b"#cloud-config\n" + yaml.safe_dump(turned, sort_keys=False).encode()}
    assert old["user-data"] != new["user-data"]
    assert compare_seeds(old, new, node="etcd1") == SeedChange(level=Level.NONE)


def test_the_network_is_matched_by_a_quoted_lower_case_mac(files: tuple[Artifact, ...], plan: Plan) -> None:
    node = plan().nodes[0]
    network = content(files, "network-config")
    assert network["version"] == 2
    ethernet = network["ethernets"]["eth0"]
    assert ethernet["match"] == {"macaddress": node.mac}
    assert node.mac == node.mac.lower()
    assert f'"{node.mac}"'.encode() in files[2].data
    assert ethernet["addresses"] == ["192.168.20.31/24"]
    assert ethernet["routes"] == [{"to": "0.0.0.0/0", "via": "192.168.20.1"}]


@pytest.mark.parametrize(
    ("network", "to"),
    [({"subnet": "fd00::/64"}, "::/0"), ({"mode": "isolated"}, None)],
    ids=["IPv6", "isolated"],
)
def test_routes_depend_on_the_network_mode(plan: Plan, now: Any, network: dict[str, str], to: str | None) -> None:
    ethernet = content(seed_of(plan(network=network), now), "network-config")["ethernets"]["eth0"]
    assert [route["to"] for route in ethernet.get("routes", [])] == ([to] if to else [])


def test_the_instance_id_depends_on_the_content_and_the_node(plan: Plan, now: Any) -> None:
    wanted, guest = plan(), [Artifact(PurePosixPath("/a"), b"1")]
    ids = [content(iso.seed_files(wanted, node, guest), "meta-data")["instance-id"] for node in wanted.nodes]
    assert len(set(ids)) == 3
    assert content(iso.seed_files(wanted, wanted.nodes[0], guest), "meta-data")["instance-id"] == ids[0]
    changed = iso.seed_files(wanted, wanted.nodes[0], [Artifact(PurePosixPath("/a"), b"2")])
    assert content(changed, "meta-data")["instance-id"] != ids[0]


@pytest.mark.parametrize("profile", profile_names())
def test_user_data_passes_the_schema_of_the_oldest_cloud_init(profile: str, now: Any) -> None:
    flags = dict([KEYS, *(ARCHIVE.items() if profile == "rhel" else ())])
    user_data = content(seed_of(plan_cluster(load(profile=profile, flags=flags).spec), now), "user-data")
    schema = json.loads((ROOT / "tests/data/cloud-config-22.4.2.schema.json").read_text())
    jsonschema.Draft4Validator(schema).validate(user_data)
    known = {
        name
        for part in schema["allOf"]
        for name in schema["$defs"][part["$ref"].rpartition("/")[2]]["properties"]
    }
    assert set(user_data) <= known


def test_the_schema_refuses_wrong_user_data() -> None:
    schema = json.loads((ROOT / "tests/data/cloud-config-22.4.2.schema.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(schema).validate({"write_files": [{"path": "/a", "permissions": 420}]})


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TRICKY = st.sampled_from(
    "no 0640 12:30 1e3 ~ null = << - ? #x 0x1F .inf 2020-01-01 !!x &a *a {a} [a] %x `x @x | > ''".split()  # noqa: SIM905
)


@given(st.lists(st.one_of(TEXT, TRICKY, TEXT.map("a\n{}\n".format)), max_size=8))
def test_dumped_text_loads_as_the_same_text(texts: list[str]) -> None:
    dumped = iso._dump({"texts": texts})
    assert yaml.safe_load(dumped) == {"texts": texts}
    assert yaml.load(dumped, Loader=yaml.SafeLoader) == {"texts": texts}
    assert dumped.isascii()


@pytest.mark.parametrize(
    "data", [b"", b"[", b"- a", b"a: 1", b"\xff", b"write_files: [{path: /a}]"], ids=repr
)
def test_a_foreign_user_data_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="etcd1/user-data: is not user-data that bake wrote"):
        iso.written_files(data, where="etcd1/user-data")


# ── the ISO ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_blkid_finds_the_nocloud_label(iso_file: Path, tool: Callable[[str], str]) -> None:
    shown = subprocess.run(
        [tool("blkid"), "-p", "-o", "export", iso_file], capture_output=True, text=True, check=True
    ).stdout
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(shown.splitlines())


@pytest.mark.parametrize("without", ["nojoliet", "norock"])
def test_xorriso_reads_the_files_back(
    iso_file: Path, files: tuple[Artifact, ...], tool: Callable[[str], str], tmp_path: Path, without: str
) -> None:
    words = [
        tool("xorriso"),
        "-read_fs",
        without,
        "-osirrox",
        "on",
        "-indev",
        iso_file,
        "-extract",
        "/",
        tmp_path / "read",
    ]
    subprocess.run(words, capture_output=True, check=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "read").iterdir()} == {
        file.path.name: file.data for file in files
    }


@pytest.fixture
def elsewhen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Return an ISO that was packed on another day in another time zone."""
    later = time.time() + 400 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    yield
    monkeypatch.undo()
    os.environ.pop("TZ", None)
    time.tzset()


@pytest.fixture
def packed_today(files: tuple[Artifact, ...]) -> bytes:
    return iso.pack(files).data


def test_an_iso_does_not_depend_on_date_and_time_zone(
    packed_today: bytes, elsewhen: None, files: tuple[Artifact, ...]
) -> None:
    assert time.localtime().tm_gmtoff == 20700
    assert iso.pack(files).data == packed_today


def test_the_fixed_date_applies_only_to_packing(packed_today: bytes) -> None:
    assert packed_today
    modules = [module for name, module in sys.modules.items() if name.startswith("pycdlib.")]
    dated = [module.time for module in modules if hasattr(module, "time")]
    assert dated
    assert all(each is time for each in dated)


def test_an_iso_is_secret_and_has_the_extra_files(files: tuple[Artifact, ...]) -> None:
    extra = Artifact(PurePosixPath("etcd.tar.gz"), os.urandom(100_000))
    packed = iso.pack((*files, extra))
    assert (packed.mode, packed.secret) == (0o600, True)
    assert extra.data in packed.data


def test_unpacked_files_give_the_same_iso(files: tuple[Artifact, ...]) -> None:
    given = (*files, Artifact(iso.SEED_PERMIT, b"etcd-1\n"), Artifact(PurePosixPath("etcd.tar.gz"), os.urandom(99_999)))
    packed = iso.pack(given)
    found = iso.unpack(packed.data)
    assert [(file.path, file.data) for file in found] == [(file.path, file.data) for file in given]
    assert all(file.secret for file in found)
    assert iso.pack(found) == packed
    for spoilt in (b"", b"x" * 40_000, packed.data[: packed.data.index(b"etcd-1") + 2]):
        with pytest.raises(InputError, match=r"etcd1/seed\.iso: is not an ISO that bake wrote"):
            iso.unpack(spoilt, where="etcd1/seed.iso")
