"""`bake show`: the files of a node, as they are on the node after its first boot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]


@pytest.fixture
def baked(bake: Bake) -> Bake:
    assert bake("--nodes", 2).code == 0
    return bake


def written(node: str = "etcd1") -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = yaml.safe_load(Path(f"out/etcd/{node}/user-data").read_text())["write_files"]
    return files


def listed(bake: Bake, *words: str) -> dict[str, dict[str, Any]]:
    return {file["path"]: file for file in json.loads(bake("show", "etcd1", "-o", "json", *words).out)["files"]}


def test_it_lists_every_file_of_the_seed_in_its_order(baked: Bake) -> None:
    shown = listed(baked)
    assert [*shown] == [file["path"] for file in written()]
    assert [file["size"] for file in shown.values()] == [len(file["content"]) for file in written()]
    lines = baked("show", "etcd1").out.splitlines()
    assert lines[0].split() == ["MODE", "OWNER", "SIZE", "PATH", "CONTAINS"]
    assert [line.split()[3] for line in lines[1:]] == [*shown]


def test_every_file_is_printed_unchanged_and_no_private_key(baked: Bake, picture: Picture, tmp_path: Path) -> None:
    before, keys = picture(tmp_path), []
    for file in written():
        result = baked("show", "etcd1", file["path"])
        assert "PRIVATE KEY" not in result.out + result.err
        if "PRIVATE KEY" in file["content"]:
            keys.append(file["path"])
            assert (result.code, result.out) == (2, "")
            assert f"error: PATH: {file['path']} is a private key\n  hint: to print it, add --private-key" in result.err
        else:
            assert (result.code, result.out) == (0, file["content"])
    assert keys == [f"/etc/etcd/pki/{name}.key" for name in ("etcd-server", "etcd-peer", "etcd-client")]
    assert [path for path, file in listed(baked).items() if file["private"]] == keys
    assert picture(tmp_path) == before


def test_a_private_key_is_printed_only_with_the_flag(baked: Bake) -> None:
    path = "/etc/etcd/pki/etcd-peer.key"
    (content,) = [file["content"] for file in written() if file["path"] == path]
    assert baked("show", "etcd1", path, "--private-key").out == content
    assert json.loads(baked("show", "etcd1", path, "--private-key", "-o", "json").out)["content"] == content
    refused = baked("show", "etcd1", path, "-o", "json")
    assert (refused.code, "BEGIN" in refused.out + refused.err) == (2, False)
    assert "BEGIN" not in baked("show", "etcd1", "--private-key").out, "the list has no content"


@pytest.mark.parametrize(
    ("settings", "file", "facts"),
    [
        ({}, "etcd-peer.key", ("0400", "etcd", [])),
        ({}, "etcd-ca.pem", ("0400", "etcd", [])),
        ({"pki": {"permissions": "acl"}}, "etcd-peer.key", ("0640", "root", ["u:etcd:r"])),
        ({"pki": {"permissions": "acl"}}, "etcd-peer.pem", ("0644", "root", [])),
        ({"access": {"readers": ["backup"]}}, "etcd-client.key", ("0440", "etcd", ["u:backup:r"])),
        ({"access": {"readers": ["backup"]}}, "etcd-server.key", ("0400", "etcd", [])),
        (
            {"pki": {"permissions": "acl"}, "access": {"readers": ["backup"]}},
            "etcd-client.key", ("0640", "root", ["u:etcd:r", "u:backup:r"]),
        ),
    ],
)  # fmt: skip
def test_keys_have_the_owner_and_mode_of_the_running_node(
    bake: Bake, settings: dict[str, Any], file: str, facts: tuple[Any, ...]
) -> None:
    Path("cluster.yaml").write_text(yaml.safe_dump({"nodes": 1, **settings}))
    bake("--config", "cluster.yaml")
    found = listed(bake)[f"/etc/etcd/pki/{file}"]
    assert (found["mode"], found["owner"], found["acl"]) == facts


def test_the_end_of_a_path_is_enough_if_it_is_clear(baked: Bake) -> None:
    (conf,) = [file["content"] for file in written() if file["path"] == "/etc/etcd/etcd.conf"]
    assert baked("show", "etcd1", "etcd.conf").out == baked("show", "etcd1", "etcd/etcd.conf").out == conf
    facts = json.loads(baked("show", "etcd1", "etcd.conf", "-o", "json").out)
    assert (facts["content"], facts["path"], facts["mode"]) == (conf, "/etc/etcd/etcd.conf", "0600")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["etcd9"], "NODE: there is no node 'etcd9'\n  hint: use one of etcd1, etcd2"),
        (["../etcd1"], "NODE: there is no node '../etcd1'"),
        (["etcd1", "etcd.con"], "PATH: the seed has no file 'etcd.con'\n  hint: did you mean /etc/etcd/etcd.conf?"),
        (["etcd1", "/etc/passwd"], "leave out PATH to list the files"),
        (["etcd1", "conf"], "PATH: the seed has no file 'conf'"),
        (["etcd1", "--name", "prod"], "--name: there is no cluster 'prod'"),
    ],
)
def test_wrong_input(baked: Bake, words: list[str], says: str) -> None:
    result = baked("show", *words)
    assert (result.code, result.out) == (2, "")
    assert says in result.err


def test_a_damaged_seed_is_an_error(baked: Bake) -> None:
    path = Path("out/etcd/etcd1/user-data")
    path.write_text("x: [")
    assert (baked("show", "etcd1").code, "is not user-data that bake wrote" in baked("show", "etcd1").err) == (2, True)
    path.unlink()
    assert "user-data: is missing" in baked("show", "etcd1").err
