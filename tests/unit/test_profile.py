"""Merging of profile, cluster file and flags, and the origin of each value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from generator.config.load import Loaded, dotted_path, load, profile_path
from generator.errors import InputError


def layered(folder: Path, profile: str, config: str, **flags: Any) -> Loaded:
    (folder / "p.yaml").write_text(profile)
    (folder / "c.yaml").write_text(config)
    paths = {"nodes": ("nodes",), "cpus": ("vm", "cpus"), "subnet": ("network", "subnet")}
    given = {f"--{name}": (paths[name], value) for name, value in flags.items()}
    return load(profile=str(folder / "p.yaml"), config=folder / "c.yaml", flags=given)


def problems(folder: Path, *layers: str, **flags: Any) -> list[str]:
    with pytest.raises(InputError) as error:
        layered(folder, *layers, **flags)
    return [
        f"{problem.where}: {problem.message}".replace(f"{folder}/", "") for problem in error.value.problems
    ]


def test_flags_override_the_file_and_the_file_overrides_the_profile(tmp_path: Path) -> None:
    spec = layered(
        tmp_path,
        "nodes: 1\nvm: {cpus: 1, memory: 300, disk: 9}",
        "nodes: 5\nvm: {cpus: 2, memory: 400}",
        cpus=3,
    ).spec
    assert (spec.nodes, spec.vm.cpus, spec.vm.memory, spec.vm.disk) == (5, 3, 400, 9)


def test_a_flag_replaces_a_list_of_nodes(tmp_path: Path) -> None:
    assert layered(tmp_path, "nodes: 1", "nodes: [{name: a}]", nodes=5).spec.nodes == 5


@pytest.mark.parametrize(
    ("profile", "config", "flags", "expected"),
    [
        ("nodes: 1", "nodes: 9", {}, "c.yaml:1:1: nodes: 9 is not between 1 and 7"),
        ("nodes: 9", "join: learner", {}, "p.yaml:1:1: nodes: 9 is not between 1 and 7"),
        ("nodes: 1", "nodes: 3", {"nodes": 8}, "--nodes: 8 is not between 1 and 7"),
        (
            "vm:\n  cpus: 0",
            "vm: {memory: 300}",
            {},
            "p.yaml:2:3: vm.cpus: 0 is less than 1",
        ),
        ("vm: {cpus: 1}", "vm: {memory: 300}", {"cpus": 0}, "--cpus: 0 is less than 1"),
    ],
)
def test_a_problem_has_the_origin_of_its_value(
    tmp_path: Path, profile: str, config: str, flags: dict[str, Any], expected: str
) -> None:
    assert problems(tmp_path, profile, config, **flags) == [expected]


def test_a_flag_for_an_invalid_section_is_reported_at_the_section(tmp_path: Path) -> None:
    for text in ("vm: 3", "vm:"):
        (problem,) = problems(tmp_path, "nodes: 1", text, cpus=2)
        assert problem.startswith("c.yaml:1:1: vm: ")


def test_problems_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = problems(tmp_path, "nodes: 1", "vm: {cpus: 0}\nname: A\nnodes: 9\njoin: x")
    assert [text.split(":")[1] for text in found] == ["1", "2", "3", "4"]


def test_findings_use_the_node_indexes_of_the_file(tmp_path: Path) -> None:
    found = problems(tmp_path, "nodes: 1", "nodes:\n- {name: B_d}\n- {name: b}\n- {name: b}\n")
    assert found[1] == "c.yaml:4:4: nodes[2].name: 'b' is already the name of nodes[1]"


def test_a_warning_has_its_location(tmp_path: Path) -> None:
    (warning,) = layered(tmp_path, "nodes: 1", "nodes: 4").warnings
    assert warning.where.endswith("c.yaml:1:1: nodes")


def test_a_field_path_is_readable() -> None:
    assert dotted_path(("nodes", 2, "address")) == "nodes[2].address"
    assert dotted_path((0,)) == "[0]"


def test_profiles_are_selected_by_name_or_path() -> None:
    assert profile_path("classic").name == "classic.yaml"
    assert profile_path("./classic.yaml") == Path("classic.yaml")
    assert profile_path("a/b") == Path("a/b")


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-01 ERROR password=hunter2 refused: x\nhunter2: 1",
        "nodes: 3\npassword hunter2: x",
        "nodes: 3\npassword hunter2: x\npassword hunter2: y",
        "nodes: 3\nvm: {postgres://a:hunter2@b/c : 1}",
        "nodes: 3\netcd: {options: {postgres://a:hunter2@b/c : 1}}",
        "nodes: !hunter2 x",
        "!<hunter2> x: y",
        "password hunter2\n  a: b: c",
        "- hunter2",
    ],
)
def test_the_content_of_another_file_is_not_printed(tmp_path: Path, text: str) -> None:
    """The file may contain secrets, and messages may be logged."""
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load(config=tmp_path / "c.yaml")
    assert "hunter2" not in str(error.value)
