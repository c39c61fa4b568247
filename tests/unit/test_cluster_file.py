"""The JSON Schema of the cluster file, and the commented file that `bake init` writes."""

from __future__ import annotations

import copy
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given

from generator.config import yaml12
from generator.config.cluster_file.schema import SCHEMA_FILE, cluster_schema
from generator.config.fields import plain, settings_of
from generator.config.load import PROFILES, load, profile_names
from generator.config.rules import check_spec
from generator.config.spec import ClusterSpec, read_spec
from tests.hostile.catalogue import KINDS
from tests.hostile.specs import SPECS
from tests.unit.test_accepted import FULL

Bake = Callable[..., Any]
SCHEMA = cluster_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ARCHIVE = ["--archive", "etcd.tar.gz", "--archive-sha256", "0" * 64]
# Values that one field or another refuses, and that YAML or JSON may read in another way than bake.
TRICKY = [
    None, True, False, 0, 1, 7, 8, 3.5, 3.6, 1.2, 1.3, -1, 2**63, "", " ", "etcd", "etcd\n", "3.5", "1e3", "null",
    "subnet", "10.0.0.0/8", "10.0.0.0/255.0.0.0", "10.0.0.0/0.255.255.255", "fd00::/8", "::", "::/0", "::ffff:10.0.0.1",
    "10.0.0.1", "0", "10s", "1h30m", "TLS1.2", "INFO", "a.b", "/var/lib/etcd/x", "qemu:///system", "52:54:00:12:34:56",
    "required", [], ["subnet"], [{}], [{"name": "a"}], {}, {"enabled": True}, {"name": "x"},
]  # fmt: skip


def is_accepted(data: Any) -> bool:
    spec, wrong = read_spec(data)
    return not wrong and not check_spec(spec)[0]


def refusals(data: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(data)]


def test_the_schema_is_valid_and_names_its_draft() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


@pytest.mark.parametrize("name", profile_names())
def test_the_schema_accepts_every_profile(name: str) -> None:
    assert refusals(yaml12.load_file(PROFILES / f"{name}.yaml").value) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.code == 0 and kind.file], ids=str)
def test_the_schema_accepts_the_harmless_files_of_the_catalogue(kind: Any) -> None:
    text = kind.file if isinstance(kind.file, str) else kind.file.decode()
    assert refusals(yaml12.load_text(text, "cluster.yaml").value or {}) == []


@given(data=SPECS)
def test_the_schema_accepts_what_bake_accepts(data: dict[str, Any]) -> None:
    assert is_accepted(data)
    assert refusals(data) == []
    assert refusals(plain(read_spec(data)[0])) == []


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


EVERY_FIELD = FULL | {
    "network": {**FULL["network"], "vlan": 7, "name": "x"},
    "nodes": [{"name": "a", "address": "192.168.20.31", "mac": "3c:ec:ef:00:00:01", "host": "h"}],
    "hosts": [
        {"name": "h", "uri": "qemu:///system", "failureDomain": "r", "bridge": "b", "pool": "/x", "offline": True}
    ],
    "engine": "incus",
    "incus": {
        "remote": "r", "addresses": ["https://h:8443"], "project": "p", "pool": "p", "profile": "p", "nic": "macvlan",
        "group": "g",
    },
    "vm": {**FULL["vm"], "memory": 1024, "cpus": 1, "disk": 8, "dataDisk": 8},
    "pki": {**FULL["pki"], "caDays": 3650, "leafDays": 365, "singleLabelNames": False},
    "etcd": {
        **FULL["etcd"], "clientPort": 2379, "peerPort": 2380,
        "options": dict.fromkeys(SCHEMA["properties"]["etcd"]["properties"]["options"]["properties"], "x"),
    },
}  # fmt: skip


@pytest.mark.parametrize("path", [*places(EVERY_FIELD)], ids=lambda path: ".".join(map(str, path)))
def test_the_schema_accepts_every_value_that_bake_accepts_in_a_field(path: tuple[Any, ...]) -> None:
    """Only the value in one field is looked at: the rules between fields refuse many of the files."""
    fields = copy.deepcopy({path[0]: EVERY_FIELD[path[0]]})
    if path[0] == "etcd":
        fields["etcd"]["options"] = {path[2]: "x"} if len(path) > 2 and path[1] == "options" else {}
    for value in TRICKY:
        data: Any = copy.deepcopy(fields)
        section = data
        for key in path[:-1]:
            section = section[key]
        section[path[-1]] = value
        spec, wrong = read_spec(data)
        refused = [each.path for each in wrong] + [each for each, _, _ in check_spec(spec)[0]]
        if not any(each[: len(path)] == path for each in refused):
            errors = [(tuple(error.absolute_path), error.message) for error in VALIDATOR.iter_errors(data)]
            assert [error for error in errors if error[0][: len(path)] == path] == [], value


@pytest.mark.parametrize("path", [*places(EVERY_FIELD)], ids=lambda path: ".".join(map(str, path)))
def test_the_schema_refuses_a_wrong_type_in_every_field(path: tuple[Any, ...]) -> None:
    data: Any = copy.deepcopy(EVERY_FIELD)
    section = data
    for key in path[:-1]:
        section = section[key]
    section[path[-1]] = {"wrong": []}
    paths = [tuple(error.absolute_path) for error in VALIDATOR.iter_errors(data)]
    assert any(path[: len(each)] == each or each[: len(path)] == path for each in paths), paths


def test_the_test_has_every_field() -> None:
    def fields(schema: Any, path: str = "") -> Iterator[str]:
        for part in schema.get("anyOf", [schema]):
            part = part.get("items", part)
            for name, inner in part.get("properties", {}).items():
                yield f"{path}{name}"
                yield from fields(inner, f"{path}{name}.")

    tested = {".".join(str(part) for part in path if isinstance(part, str)) for path in places(EVERY_FIELD)}
    assert {*fields(SCHEMA)} == tested


@pytest.mark.parametrize(
    "text",
    [
        "nodes: 8", "nodes: []", "nodes: [{}]", "nodez: 3", "network: {subnet: 10.0.0.0}", "vm: {memory: lots}",
        "vm: {memory: 8}", "vm:", "pki: {keyType: dsa}", "etcd: {options: {wal-dir: /x}}", "etcd: {tlsMinVersion: 1.1}",
        "etcd: {options: {pre-vote: 1}}", "join: observer", "auth: 1", "firewall: {clientCidrs: [all]}",
    ],
)  # fmt: skip
def test_the_schema_refuses(text: str) -> None:
    data = yaml12.load_text(text, "cluster.yaml").value
    assert refusals(data) != []
    assert not is_accepted(data)


@pytest.mark.parametrize("key", settings_of(ClusterSpec))
def test_every_field_has_a_description(key: str) -> None:
    schema = SCHEMA["properties"][key]
    inner = schema.get("anyOf", [schema])[-1].get("properties")
    described = [schema] if "description" in schema or not inner else list(inner.values())
    assert all("description" in each or "properties" in each for each in described)


def test_bake_schema_prints_the_schema(bake: Bake) -> None:
    result = bake("schema")
    assert (result.code, result.err, json.loads(result.out)) == (0, "", SCHEMA)


# ── bake init ────────────────────────────────────────────────────────────────────────────────────


def flags_of(profile: str) -> list[str]:
    return ["--profile", profile, *(ARCHIVE if profile == "rhel" else [])]


@pytest.mark.parametrize("profile", profile_names())
def test_the_file_has_the_values_of_the_profile(bake: Bake, profile: str) -> None:
    assert bake("init", *flags_of(profile)).code == 0
    flags = {"a": (("install", "archive"), "etcd.tar.gz"), "b": (("install", "sha256"), "0" * 64)}
    alone = load(profile=profile, flags=flags if profile == "rhel" else {})
    file = load(profile=profile, config=Path("cluster.yaml"))
    assert file.spec == alone.spec
    assert bake("check", "--profile", profile, "--config", "cluster.yaml").code in (0, 2 if profile == "rhel" else 0)


@pytest.mark.parametrize("profile", profile_names())
def test_every_field_without_its_mark_is_valid_and_changes_nothing(bake: Bake, profile: str) -> None:
    bake("init", *flags_of(profile))
    text = Path("cluster.yaml").read_text()
    full = re.sub(r"^#(?! \S)", "", text, flags=re.M)
    before, after = yaml12.load_text(text, "a").value, yaml12.load_text(full, "b").value
    assert len([*places(after)]) > 70 > 10 > len([*places(before)])
    assert refusals(after) == []
    Path("full.yaml").write_text(full)
    alone, whole = (load(profile=profile, config=Path(name)).spec for name in ("cluster.yaml", "full.yaml"))
    assert whole == alone
    assert {*settings_of(ClusterSpec)} == {*after}


def test_the_comments_are_the_descriptions_of_the_fields(bake: Bake) -> None:
    bake("init")
    text = " ".join(line.strip().removeprefix("# ") for line in Path("cluster.yaml").read_text().splitlines())
    assert [one for one in descriptions(ClusterSpec) if one not in text] == []


def descriptions(kind: Any) -> Iterator[str]:
    for info in settings_of(kind).values():
        section = info.metadata.get("section")
        yield from descriptions(section) if section else [info.metadata["description"]]


def test_a_flag_sets_its_field(bake: Bake) -> None:
    assert bake("init", "--nodes", 5, "--memory", 2048, "--name", "prod").code == 0
    data = yaml12.load_file(Path("cluster.yaml")).value
    network = {"subnet": "192.168.20.0/24"}
    assert data == {"apiVersion": "bake/v1", "name": "prod", "nodes": 5, "network": network, "vm": {"memory": 2048}}


def test_the_first_line_names_the_schema_next_to_the_file(bake: Bake) -> None:
    Path("sub").mkdir()
    result = bake("init", "sub/prod.yaml", "-o", "json")
    first = Path("sub/prod.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema={SCHEMA_FILE}"
    assert json.loads(Path("sub", SCHEMA_FILE).read_text()) == SCHEMA
    data = json.loads(result.out)
    assert (data["file"], data["schema"]) == ("sub/prod.yaml", f"sub/{SCHEMA_FILE}")
    assert data["next"][0] == "bake check --config sub/prod.yaml"


def test_the_next_command_works(bake: Bake) -> None:
    command = json.loads(bake("init", "my file.yaml", "--profile", "hardened", "-o", "json").out)["next"][0]
    assert command == "bake check --profile hardened --config 'my file.yaml'"
    assert bake(*["check", "--profile", "hardened", "--config", "my file.yaml"]).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", "9"], "--nodes: 9 is not between 1 and 7"),
        (["--subnet", "10.0.0.1/24"], "--subnet: '10.0.0.1/24' has host bits set"),
        (["--profile", "rhel"], "--archive FILE --archive-sha256 HEX"),
        (["--profile", "none"], "there is no profile 'none'"),
        (["no/cluster.yaml"], "there is no folder no"),
    ],
)
def test_wrong_values_write_nothing(bake: Bake, tmp_path: Path, words: list[str], says: str) -> None:
    result = bake("init", *words)
    assert (result.code, says in result.err) == (2, True), result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("none")])
def test_an_existing_file_is_not_overwritten(bake: Bake, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(Path("cluster.yaml"))
    result = bake("init")
    assert (result.code, "cluster.yaml: exists already" in result.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]


def test_the_schema_of_another_version_is_replaced_and_another_file_is_not(bake: Bake) -> None:
    Path(SCHEMA_FILE).write_text(json.dumps(SCHEMA | {"title": "older"}))
    assert bake("init").code == 0
    assert json.loads(Path(SCHEMA_FILE).read_text()) == SCHEMA
    Path(SCHEMA_FILE).write_text("{}")
    result = bake("init", "b.yaml")
    assert (result.code, "is not a schema of bake" in result.err) == (2, True)
    assert (Path(SCHEMA_FILE).read_text(), Path("b.yaml").exists()) == ("{}", False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_is_asked_again_after_a_wrong_answer(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("nosuch\nhardened\nA_b\nprod\nmany\n5\n10.0.0.1/24\n10.0.0.0/24\n"))
    result = bake("init")
    assert result.code == 0, result.err
    assert "'A_b' is not a host name label" in result.err
    assert "has host bits set" in result.err
    spec = load(profile="hardened", config=Path("cluster.yaml")).spec
    assert (spec.name, spec.nodes, str(spec.network.subnet)) == ("prod", 5, "10.0.0.0/24")


def test_an_answer_that_does_not_fit_the_others_is_asked_again_at_once(
    bake: Bake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(f"default\n{'a' * 41}\nprod\n9\n5\n10.0.0.0/30\n10.0.0.0/28\n"))
    result = bake("init")
    assert result.code == 0, result.err
    assert "is not a host name label: 1 to 40 of" in result.err
    assert "9 is not between 1 and 7" in result.err
    assert "10.0.0.0/30 has room for 1 node, not for 5" in result.err
    spec = load(config=Path("cluster.yaml")).spec
    assert (spec.name, spec.nodes, str(spec.network.subnet)) == ("prod", 5, "10.0.0.0/28")


@pytest.mark.parametrize(
    ("mode", "field", "answer"), [("bridge", "bridge", "br7"), ("network", "name", "lan"), ("nat", "", "")]
)
def test_a_terminal_is_asked_for_the_existing_network(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, mode: str, field: str, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("\n\n\n\n" + f"a b\n{answer}\n" * bool(answer)))
    result = bake("init", "--network-mode", mode)
    assert (result.code, "'a b' is not" in result.err) == (0, bool(answer)), result.err
    network = load(config=Path("cluster.yaml")).spec.network
    assert (network.mode, network.bridge, network.name) == (
        mode, answer if field == "bridge" else None, answer if field == "name" else None
    )  # fmt: skip


@pytest.mark.parametrize(("mode", "field", "example"), [("bridge", "bridge", "br0"), ("network", "name", "default")])
def test_without_a_terminal_the_existing_network_is_a_field_to_fill_in(
    bake: Bake, mode: str, field: str, example: str
) -> None:
    result = bake("init", "--network-mode", mode)
    assert (result.code, f"Set network.{field} in the file, then run `bake check" in result.err) == (0, True)
    refused = bake("check", "--config", "cluster.yaml")
    line = next(number for number, text in enumerate(Path("cluster.yaml").read_text().splitlines(), 1)
                if text == f"  {field}: null")  # fmt: skip
    says = f"error: cluster.yaml:{line}:3: network.{field}: is missing, but network.mode is {mode}"
    hint = f"  hint: set network.{field} in the cluster file (--config FILE), for example {example}"
    assert refused.err.splitlines() == [says, hint]
    text = Path("cluster.yaml").read_text().replace(f"  {field}: null", f"  {field}: {example}")
    Path("cluster.yaml").write_text(text)
    assert bake("check", "--config", "cluster.yaml").code == 0


def test_a_field_that_an_existing_cluster_lacks_has_no_place_in_a_file_of_bake(bake: Bake) -> None:
    bake("--nodes", 1, "--subnet", "10.9.9.0/24")
    refused = bake("--network-mode", "network")
    assert (refused.code, refused.err.splitlines()[0]) == (
        2, "error: network.name: is missing, but network.mode is network"
    )  # fmt: skip
    assert "hint: set network.name in the cluster file" in refused.err


def test_a_terminal_is_not_asked_what_options_say(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert bake("init", "--yes").code == 0
    words = ["--profile", "ci", "--name", "a", "--nodes", "1", "--subnet", "10.0.0.0/24"]
    assert bake("init", "b.yaml", *words).code == 0
    assert bake("init", "c.yaml").code == 1, "the end of the input is no answer"
