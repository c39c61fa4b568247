"""Every profile loads, says only what differs from the defaults, and the table of fields is the spec's."""

from __future__ import annotations

import types
from collections.abc import Iterator
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from generator import yaml12
from generator.profile import PROFILES, Loaded, load, profile_names
from generator.spec import ClusterSpec

README = Path(__file__).parents[2] / "profiles" / "README.md"
ARCHIVE = {
    "--archive": (("install", "archive"), "etcd.tar.gz"),
    "--archive-sha256": (("install", "sha256"), "0" * 64),
}
SETFACL = "acl"
FIREWALL_PACKAGE = {"firewalld": "firewalld", "nftables": "nftables", "ufw": "ufw"}


def load_profile(name: str) -> Loaded:
    return load(profile=name, flags=ARCHIVE if name == "rhel" else {})


def test_the_profiles_are_those_that_are_documented() -> None:
    assert profile_names() == ["ci", "classic", "debian", "default", "rhel", "ubuntu"]


@pytest.mark.parametrize("name", profile_names())
def test_profile_loads_for_every_usual_number_of_nodes(name: str) -> None:
    for count in (1, 3, 5, 7):
        flags: dict[str, Any] = {"--nodes": (("nodes",), count), **(ARCHIVE if name == "rhel" else {})}
        assert load(profile=name, flags=flags).spec.nodes == count


@pytest.mark.parametrize("name", profile_names())
def test_profile_begins_with_its_purpose_and_a_command(name: str) -> None:
    head = [line for line in (PROFILES / f"{name}.yaml").read_text().splitlines() if line.startswith("# ")]
    assert len(head) >= 2
    command = next(line.removeprefix("# $ ") for line in head if line.startswith("# $ bake "))
    assert name == "default" or f"--profile {name}" in command


@pytest.mark.parametrize("name", profile_names())
def test_profile_says_only_what_differs_from_the_defaults(name: str) -> None:
    stated = yaml12.load_file(PROFILES / f"{name}.yaml").value
    defaults = ClusterSpec().model_dump(mode="json", by_alias=True)
    repeated = [path for path, value in _leaves(stated) if path != "apiVersion" and _at(defaults, path) == value]
    assert repeated == []


@pytest.mark.parametrize("name", [name for name in profile_names() if name not in ("default", "ci")])
def test_nodes_from_a_cloud_image_install_everything_that_their_first_boot_calls(name: str) -> None:
    spec = load_profile(name).spec
    assert {SETFACL, FIREWALL_PACKAGE[spec.firewall.kind]} <= set(spec.install.packages)


@pytest.mark.parametrize("name", ["default", "ci"])
def test_nodes_from_the_baked_image_install_nothing(name: str) -> None:
    assert load_profile(name).spec.install.packages == ()


def test_rhel_without_its_tarball_is_refused_with_the_flags_that_name_it() -> None:
    with pytest.raises(Exception, match="--archive FILE --archive-sha256 HEX"):
        load(profile="rhel")


def test_the_readme_has_one_row_for_every_field_of_the_spec() -> None:
    expected = "\n".join(["| field | type | default | meaning |", "| --- | --- | --- | --- |", *_rows(ClusterSpec)])
    assert expected in README.read_text(), f"profiles/README.md needs this table:\n{expected}"


def test_the_readme_names_every_profile() -> None:
    text = README.read_text()
    assert [name for name in profile_names() if f"[{name}]({name}.yaml)" not in text] == []


# ── the table, made from the spec ───────────────────────────────────────────────────────────────────────────────────


def _rows(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _rows(info.annotation, f"{path}.")
        else:
            yield f"| `{path}` | {_kind(info.annotation)} | {_default(info)} | {info.description} |"
            for listed in _listed(info.annotation):
                yield from _rows(listed, f"{path}[].")


def _listed(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _listed(inner)


def _kind(annotation: Any) -> str:
    return _kind_of(annotation).removesuffix(" or nothing")


def _kind_of(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return "word"
    if isinstance(annotation, type):
        return {str: "text", int: "number", bool: "true or false"}.get(annotation) or {
            "IPv4Address": "address", "IPv6Address": "address", "IPv4Network": "network", "IPv6Network": "network",
            "NoneType": "nothing", "float": "number",
        }.get(annotation.__name__, annotation.__name__)  # fmt: skip
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return "list" if _listed_or_none(inner[0]) else f"list ({_kind_of(inner[0])})"
    if origin is dict:
        return "mapping"
    if origin is not None and origin.__name__ == "Literal":
        return "text"
    if origin is types.UnionType or origin is not None and origin.__name__ in ("Union", "UnionType"):
        return " or ".join(dict.fromkeys(map(_kind_of, inner)))
    return _kind_of(inner[0])


def _listed_or_none(annotation: Any) -> bool:
    return any(True for _ in _listed(annotation))


def _default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "needed"
    if value is None or value == () or value == {}:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str | int | IPv4Network | IPv4Address) else f"`{value!r}`"


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
