"""bake refuses folders and files that another user can change, and a manifest that bake did not write."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.errors import InputError
from generator.store import permissions
from generator.store.folder import Store

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]
Change = Callable[[Path], object]
STRANGER = 12345
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")


def give_away(path: Path) -> None:
    os.lchown(path, STRANGER, STRANGER)


def with_mode(mode: int) -> Change:
    return lambda path: path.chmod(mode)


def with_group(name: str, mode: int) -> Change:
    def change(path: Path) -> None:
        os.chown(path, -1, grp.getgrnam(name).gr_gid)
        path.chmod(mode)

    return change


def with_unknown_group(path: Path) -> None:
    os.chown(path, -1, 54321)
    path.chmod(0o770)


def with_acl(path: Path) -> None:
    subprocess.run(["setfacl", "-m", f"u:{STRANGER}:rwx", path], check=True)


def with_acl_to_read(path: Path) -> None:
    subprocess.run(["setfacl", "-m", f"u:{STRANGER}:rx", path], check=True)


def applied_below(change: Change) -> Change:
    """Return a function that applies `change` to every file below a path."""
    return lambda path: [change(each) for each in path.rglob("*")]


def moved_behind_a_foreign_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")
    give_away(path)


def moved_behind_a_link_into_an_open_folder(path: Path) -> None:
    real = path.with_name("open") / path.name
    real.parent.mkdir()
    path.rename(real)
    path.symlink_to(real.absolute())
    real.parent.chmod(0o777)


def moved_behind_a_link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


# A path below tmp/parent/out/etcd, a change to the path, and the message.
REFUSED: dict[str, tuple[str, Change, str]] = {
    "another user's out": ("parent/out", give_away, "parent/out: belongs to uid 12345, but bake runs as root (uid 0)"),
    "another user's parent": ("parent", give_away, "parent: belongs to uid 12345"),
    "another user's cluster folder": ("parent/out/etcd", give_away, "out/etcd: belongs to uid 12345"),
    "another user's files": ("parent/out/etcd", applied_below(give_away), "belongs to uid 12345"),
    "a parent for every user": ("parent", with_mode(0o777), "parent: mode 0777 lets every user change it"),
    "an out for every user": ("parent/out", with_mode(0o757), "out: mode 0757 lets every user change it"),
    "a cluster folder for every user": ("parent/out/etcd", with_mode(0o777), "etcd: mode 0777 lets every user"),
    "a sticky cluster folder": ("parent/out/etcd", with_mode(0o1777), "etcd: mode 1777 lets every user"),
    "a group with a member": ("parent", with_group("daemon", 0o770), "lets the group daemon (daemon) change it"),
    "a group without a name": ("parent", with_unknown_group, "lets the group 54321 change it"),
    "an ACL": ("parent", with_acl, "lets the users of its ACL change it"),
    "another user's link": ("parent/out", moved_behind_a_foreign_link, "parent/out: belongs to uid 12345"),
    "a link into an open folder": (
        "parent/out", moved_behind_a_link_into_an_open_folder, "open: mode 0777 lets every user change it"
    ),
    "a link below the cluster folder": (
        "parent/out/etcd/pki", moved_behind_a_link, "etcd/pki: is a symlink, but bake follows no symlinks below --out"
    ),
    "a link to a file": (
        "parent/out/etcd/identity", moved_behind_a_link,
        "etcd/identity: is a symlink, but bake follows no symlinks below --out",
    ),
}  # fmt: skip


@pytest.fixture
def baked(bake: Bake, tmp_path: Path, picture: Picture) -> Bake:
    Path("parent").mkdir(mode=0o755)
    assert bake("--nodes", 1, "--out", "parent/out").code == 0
    return bake


@root_only
@pytest.mark.parametrize(("where", "change", "says"), REFUSED.values(), ids=REFUSED)
def test_files_that_another_user_can_change_are_refused(
    baked: Bake, picture: Picture, where: str, change: Change, says: str
) -> None:
    change(Path(where))
    before = picture(Path())
    for words in (("--nodes", 1, "--leaf-days", 9), ("seal", "--yes"), ("certs",)):
        result = baked(*words, "--out", "parent/out")
        assert (result.code, says in result.err) == (2, True), result.err
        assert "hint: " in result.err
    assert picture(Path()) == before


@root_only
@pytest.mark.parametrize("name", ["pki/etcd-ca.key", "etcd1/user-data", "cluster.yaml", "identity", "etcdctl.env"])
@pytest.mark.parametrize(
    ("change", "says"), [(give_away, "belongs to uid 12345"), (with_mode(0o666), "mode 0666 lets every user change it")]
)
def test_a_file_that_another_user_can_change_is_not_written_again(
    baked: Bake, picture: Picture, name: str, change: Change, says: str
) -> None:
    change(Path("parent/out/etcd", name))
    before = picture(Path())
    for words in (("seal", "--yes"), ("--nodes", 1, "--leaf-days", 9)):
        result = baked(*words, "--out", "parent/out")
        assert (result.code, f"{name}: {says}" in result.err) == (2, True), result.err
    assert picture(Path()) == before


@root_only
def test_a_folder_of_the_sudo_user_is_refused(baked: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", str(STRANGER))
    give_away(Path("parent"))
    result = baked("--nodes", 1, "--out", "parent/out")
    assert result.code == 2
    assert "parent: belongs to uid 12345, but bake runs as root (uid 0)" in result.err
    assert "run bake as the folder's owner, or give an --out that only you and root can change" in result.err


@root_only
def test_nothing_is_written_to_a_refused_folder(bake: Bake) -> None:
    Path("open").mkdir()
    Path("open").chmod(0o777)
    assert bake("--nodes", 1, "--out", "open/new/out").code == 2
    assert list(Path("open").iterdir()) == []


# Changes to the output folder's parent that result in an ordinary folder.
ACCEPTED: dict[str, Change] = {
    "0755": with_mode(0o755),
    "sticky": with_mode(0o1777),
    "the group of root": with_mode(0o775),
    "a group without members": with_group("operator", 0o2775),
    "an ACL to read": with_acl_to_read,
}


@root_only
@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_ordinary_folders_are_accepted(baked: Bake, change: Change) -> None:
    change(Path("parent"))
    assert baked("--nodes", 1, "--out", "parent/out", "--leaf-days", 9).code == 0


@root_only
def test_a_symlink_of_this_user_as_output_folder_is_accepted(baked: Bake) -> None:
    moved_behind_a_link(Path("parent/out"))
    assert baked("--nodes", 1, "--out", "parent/out", "--leaf-days", 9).code == 0
    assert baked("seal", "--yes", "--out", "parent/../parent/out").code == 0


@root_only
def test_a_home_folder_with_a_private_group_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With umask 002 on Debian, the user is the only member of the folder's group."""
    user = pwd.getpwnam("games")
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, user.pw_uid, user.pw_gid)
    home.chmod(0o775)
    monkeypatch.setattr(os, "geteuid", lambda: user.pw_uid)
    permissions.check_parents(home / "out")
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("daemon").pw_uid)
    with pytest.raises(InputError, match="belongs to games"):
        permissions.check_parents(home / "out")


@root_only
def test_folders_of_the_host_are_accepted_in_a_rootless_container(tmp_path: Path) -> None:
    """In such a container, `/home` belongs to the overflow user id."""
    home = tmp_path / "home"
    home.mkdir()
    give_away(home)
    for parent in list(tmp_path.parents)[:3]:
        parent.chmod(0o755)
    tmp_path.chmod(0o755)
    script = "from pathlib import Path; from generator.store import folder, permissions; import sys\n"
    check = script + "permissions.check_parents(Path(sys.argv[1]) / 'out')"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", check, home]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.returncode == 0, done.stderr
    read = script + "folder.Store(Path(sys.argv[1]), 'etcd').read('identity')"
    (home / "etcd").mkdir()
    give_away(home / "etcd")
    done = subprocess.run([*command[:5], read, home], capture_output=True, text=True, check=False)
    assert "etcd: belongs to" in done.stderr


@root_only
@pytest.mark.parametrize("name", ["key", "passphrase"])
def test_another_users_secret_is_not_read(bake: Bake, tmp_path: Path, name: str) -> None:
    bake("--nodes", 1, "--out", "first")
    Path("passphrase").write_text("correct horse")
    Path("key").write_bytes(Path("first/etcd/pki/etcd-ca.key").read_bytes())
    stated = {"certificate": str(Path("first/etcd/pki/etcd-ca.pem").absolute()), "key": str(Path("key").absolute())}
    Path("cluster.yaml").write_text(json.dumps({"apiVersion": "bake/v1", "nodes": 1, "pki": {"ca": stated}}))
    give_away(Path(name))
    result = bake("--config", "cluster.yaml", "--ca-passphrase-file", "passphrase")
    assert result.code == 2
    assert f"{name}: belongs to uid 12345" in result.err
    assert not Path("out/etcd").exists()


@root_only
def test_a_pipe_of_the_sudo_user_is_accepted_for_a_secret(bake: Bake) -> None:
    """With `pass show ca | sudo bake --ca-passphrase-file /dev/stdin`, the pipe belongs to the calling user."""
    os.mkfifo("pipe")
    give_away(Path("pipe"))
    permissions.check_secret(Path("pipe"), "--ca-passphrase-file")
    permissions.check_secret(Path("nowhere"), "--ca-passphrase-file")  # reading the file reports that it is missing


# ── the manifest ────────────────────────────────────────────────────────────────────────────────────────────

FACTS = {"sha256": "0" * 64, "mode": "0644"}
BAD: dict[str, tuple[dict[str, object], str]] = {
    "setuid": ({"files": {"x": {**FACTS, "mode": "4755"}}}, "files: x: mode '4755' is not 0600 or 0644"),
    "for every user": ({"files": {"x": {**FACTS, "mode": "0666"}}}, "mode '0666' is not"),
    "a short mode": ({"files": {"x": {**FACTS, "mode": "644"}}}, "mode '644' is not"),
    "a mode that is a number": ({"files": {"x": {**FACTS, "mode": 0o644}}}, "files: x: needs sha256 and mode"),
    "no mode": ({"files": {"x": {"sha256": "0" * 64}}}, "files: x: needs sha256 and mode"),
    "no digest": ({"files": {"x": {"mode": "0644"}}}, "files: x: needs sha256 and mode"),
    "a short digest": ({"files": {"x": {**FACTS, "sha256": "0" * 63}}}, "is not 64 hexadecimal digits"),
    "a digest in capitals": ({"files": {"x": {**FACTS, "sha256": "A" * 64}}}, "is not 64 hexadecimal digits"),
    "not facts": ({"files": {"x": "0644"}}, "files: x: needs sha256 and mode"),
    **{
        f"the path {path!r}": ({"files": {path: FACTS}}, f"files: {path!r} is not the path of a file below")
        for path in ("../x", "a/../../x", "/etc/shadow", "", ".", "./x", "a//b", "a/", "x\n", "x\0", "manifest.json")
    },
    "a later bake's": ({"format_version": "2.0"}, "format_version '2.0' is not 1.x"),
    "a version that is none": ({"format_version": 1}, "format_version 1 is not 1.x"),
}


@pytest.mark.parametrize(("change", "says"), BAD.values(), ids=BAD)
def test_a_manifest_that_bake_did_not_write_is_refused(
    baked: Bake, picture: Picture, change: dict[str, Any], says: str
) -> None:
    path = Path("parent/out/etcd/manifest.json")
    made = json.loads(path.read_text())
    made |= {**change, "files": {**made["files"], **change.get("files", {})}}
    path.write_text(json.dumps(made))
    before = picture(Path())
    for words in (("--nodes", 1, "--leaf-days", 9), ("seal", "--yes"), ("certs",), ("check", "--nodes", 1)):
        result = baked(*words, "--out", "parent/out")
        assert result.code == 2, result.err
        assert result.err.count("error: ") == 1
        assert "parent/out/etcd/manifest.json: " in result.err
        assert says in result.err
        assert "Traceback" not in result.err
    assert picture(Path()) == before


def test_additions_of_a_later_minor_version_are_ignored(baked: Bake) -> None:
    path = Path("parent/out/etcd/manifest.json")
    made = json.loads(path.read_text()) | {"format_version": "1.7", "more": 1}
    for facts in made["files"].values():
        facts["size"] = 1
    path.write_text(json.dumps(made))
    assert baked("seal", "--yes", "--out", "parent/out").code == 0


def test_a_symlink_to_a_secret_is_not_copied(baked: Bake, tmp_path: Path) -> None:
    """The manifest lists the file, but the content of the symlink's target must not be copied to the folder."""
    (tmp_path / "other").write_text("another file")
    etcdctl = Path("parent/out/etcd/etcdctl.env")
    etcdctl.unlink()
    etcdctl.symlink_to(tmp_path / "other")
    for words in (("seal", "--yes"), ("--nodes", 1)):
        result = baked(*words, "--out", "parent/out")
        assert (result.code, "etcdctl.env: is a symlink" in result.err) == (2, True)
    assert etcdctl.is_symlink()


@pytest.mark.parametrize("name", ["cluster.yaml", "manifest.json"])
def test_a_named_pipe_does_not_block(baked: Bake, name: str) -> None:
    path = Path("parent/out/etcd", name)
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(InputError, match="is neither a file nor a folder"):
        Store(Path("parent/out"), "etcd").read(name)
