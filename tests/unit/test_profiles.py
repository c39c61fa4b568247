"""The built-in profiles, and the table of fields in profiles/README.md."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from generator.config import yaml12
from generator.config.fields import plain, settings_of
from generator.config.load import PROFILES, Loaded, load, profile_names
from generator.config.spec import ClusterSpec

README = Path(__file__).parents[2] / "profiles" / "README.md"
ARCHIVE = {
    "--archive": (("install", "archive"), "etcd.tar.gz"),
    "--archive-sha256": (("install", "sha256"), "0" * 64),
}
SETFACL = "acl"
FIREWALL_PACKAGE = {"firewalld": "firewalld", "nftables": "nftables", "ufw": "ufw"}


def load_profile(name: str) -> Loaded:
    return load(profile=name, flags=ARCHIVE if name == "rhel" else {})


def test_all_profiles_are_listed() -> None:
    assert profile_names() == ["ci", "classic", "debian", "default", "hardened", "rhel", "ubuntu"]


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_loads_with_usual_numbers_of_nodes(name: str) -> None:
    for count in (1, 3, 5, 7):
        flags: dict[str, Any] = {"--nodes": (("nodes",), count), **(ARCHIVE if name == "rhel" else {})}
        assert load(profile=name, flags=flags).spec.nodes == count


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_begins_with_its_purpose_and_a_command(name: str) -> None:
    head = [line for line in (PROFILES / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    assert len(head) >= 2
    command = next(line.removeprefix("# $ ") for line in head if line.startswith("# $ bake "))
    assert name == "default" or f"--profile {name}" in command


@pytest.mark.parametrize("name", profile_names())
def test_a_profile_sets_only_values_that_differ_from_the_defaults(name: str) -> None:
    stated = yaml12.load_file(PROFILES / f"{name}.yaml").value
    defaults = plain(ClusterSpec(), with_none=True)
    repeated = [
        path for path, value in _leaves(stated) if path != "apiVersion" and _at(defaults, path) == value
    ]
    assert repeated == []


@pytest.mark.parametrize("name", [name for name in profile_names() if name not in ("default", "ci", "hardened")])
def test_profiles_for_cloud_images_install_all_needed_packages(name: str) -> None:
    spec = load_profile(name).spec
    assert {SETFACL, FIREWALL_PACKAGE[spec.firewall.kind]} <= set(spec.install.packages)


@pytest.mark.parametrize("name", ["default", "ci", "hardened"])
def test_profiles_for_the_baked_image_install_nothing(name: str) -> None:
    assert load_profile(name).spec.install.packages == ()


def test_profile_rhel_without_a_tarball_is_refused() -> None:
    with pytest.raises(Exception, match="--archive FILE --archive-sha256 HEX"):
        load(profile="rhel")


def test_the_readme_has_a_row_for_every_field() -> None:
    expected = "\n".join(
        ["| field | type | default | meaning |", "| --- | --- | --- | --- |", *_rows(ClusterSpec)]
    )
    assert expected in README.read_text(), f"profiles/README.md needs this table:\n{expected}"


def test_the_readme_names_every_profile() -> None:
    text = README.read_text()
    assert [name for name in profile_names() if f"[{name}]({name}.yaml)" not in text] == []


# ── the table of fields ──────────────────────────────────────────────────────────────────────────


def _rows(kind: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(kind)
    for key, info in settings_of(kind).items():
        hint, path = hints[info.name], f"{prefix}{key}"
        if is_dataclass(hint):
            yield from _rows(hint, f"{path}.")
        else:
            yield f"| `{path}` | {_kind(hint)} | {_default(info)} | {info.metadata['description']} |"
            for listed in _listed(hint):
                yield from _rows(listed, f"{path}[].")


def _listed(hint: Any) -> Iterator[type]:
    if is_dataclass(hint):
        yield hint
    for inner in get_args(hint):
        yield from _listed(inner)


_WORDS = {
    "str": "text", "int": "number", "bool": "true or false", "NoneType": "nothing", "Mapping": "mapping",
    "IPv4Address": "address", "IPv6Address": "address", "IPv4Network": "network", "IPv6Network": "network",
}  # fmt: skip


def _kind(hint: Any) -> str:
    """Return a field's type as a word for the table. A field that can be unset has the type of its other values."""
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return "word"
    if origin is tuple:
        return "list" if any(_listed(inner[0])) else f"list ({_kind(inner[0])})"
    if origin is types.UnionType:
        return " or ".join(word for word in dict.fromkeys(map(_kind, inner)) if word != "nothing")
    return _WORDS[(origin or hint).__name__]


def _default(info: Field[Any]) -> str:
    if info.default is MISSING:
        return "needed" if info.default_factory is MISSING else "–"
    value = plain(info.default)
    if value is None or value == []:
        return "–"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".removeprefix("."))
    else:
        yield path, value


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


@pytest.mark.parametrize("name", sorted({*profile_names()} - {"classic"}))
def test_a_profile_limits_history_and_database(name: str) -> None:
    """Only the profile classic has etcd's defaults, as in the manual procedure: no compaction."""
    options = load_profile(name).spec.etcd.options
    assert (options["auto-compaction-mode"], options["auto-compaction-retention"]) == ("periodic", "1h")
    spec = load_profile(name).spec
    # During a defragmentation, etcd has two copies of its database, and the image needs 1 GiB.
    assert 2 * options["quota-backend-bytes"] + (1 << 30) <= spec.vm.disk << 30


def test_the_profile_classic_sets_no_options() -> None:
    assert load_profile("classic").spec.etcd.options == {}
