"""The workflow in docs/how-to/ci.md: valid YAML, pinned actions, and commands of bake that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from generator import cli

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/ci.md"


def workflow() -> Any:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return yaml.safe_load(text)


def steps() -> list[dict[str, Any]]:
    return [step for job in workflow()["jobs"].values() for step in job["steps"]]


def commands() -> Iterator[list[str]]:
    """Yield the words of each command of bake, without the script's name."""
    for step in steps():
        for line in step.get("run", "").splitlines():
            words = shlex.split(line)
            assert words[0] == "scripts/bake"
            yield words[1:]


def test_each_step_does_one_thing() -> None:
    assert all(("uses" in step) != ("run" in step) for step in steps())
    assert len(list(commands())) > 4


def test_each_action_is_pinned_to_a_commit() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert len(used) == 3
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", name) for name in used)


def test_the_workflow_needs_no_rights() -> None:
    assert workflow()["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_each_command_and_option_exists(words: list[str]) -> None:
    command = cli.bake.commands[words[0]]
    if words[0] == "etcdctl":
        return
    command.make_parser(click.Context(command)).parse_args(words[1:])


def test_each_variable_belongs_to_bake() -> None:
    (job,) = workflow()["jobs"].values()
    known = {str(each.envvar) for command in cli.bake.commands.values() for each in command.params if each.envvar}
    assert {name for name in job["env"] if name not in known} == {"BAKE_LAB"}
    assert "BAKE_LAB" in (ROOT / "scripts/lab").read_text()
    assert job["strategy"]["matrix"]["accel"] == ["kvm", "tcg"]
