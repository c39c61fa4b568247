"""The help of the commands, and what `bake` does if nothing is said."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from generator import cli
from generator.cli.options import SPEC_FLAGS
from generator.cli.output.grouped_help import GENERAL, HEADINGS
from generator.config.fields import settings_of
from generator.config.spec import ClusterSpec

Bake = Callable[..., Any]
Picture = Callable[[Path], dict[str, tuple[object, ...]]]


def test_bake_without_anything_prints_help_and_makes_nothing(bake: Bake, tmp_path: Path) -> None:
    result = bake()
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("Usage: ")
    text = "no option about the cluster, and no cluster to bake again; begin with `bake init` or `bake --nodes 3`\n"
    assert result.err.endswith(text)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--nodes", "1"], ["--name", "prod"], ["--profile", "default"]])
def test_an_option_about_the_cluster_bakes(bake: Bake, words: list[str]) -> None:
    assert bake(*words).code == 0
    assert [*Path("out").glob("*/manifest.json")]


@pytest.mark.parametrize(
    "words", [["-q"], ["-v"], ["-y"], ["-o", "json"], ["--out", "z"], ["-o", "text", "-vy"]], ids=" ".join
)
def test_an_option_that_says_nothing_about_the_cluster_makes_no_cluster(
    bake: Bake, tmp_path: Path, words: list[str]
) -> None:
    result = bake(*words)
    assert (result.code, list(tmp_path.iterdir())) == (2, [])
    assert ("Exit codes:" in result.err) == ("-q" not in words)
    assert "begin with `bake init` or `bake --nodes 3`" in result.err
    assert ("begin with" in result.out) == ("json" in words)


def test_an_environment_variable_counts_as_an_option(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_OUT", "elsewhere")
    assert (bake().code, Path("elsewhere").exists()) == (2, False)
    monkeypatch.setenv("BAKE_NODES", "1")
    assert bake().code == 0
    assert Path("elsewhere/etcd/manifest.json").exists()


def test_an_existing_cluster_is_baked_again(bake: Bake, picture: Picture) -> None:
    bake("--nodes", 1)
    before = picture(Path("out/etcd"))
    result = bake()
    assert (result.code, "Nothing changed" in result.err) == (0, True)
    assert picture(Path("out/etcd")) == before


@pytest.mark.parametrize(
    "words", [(), ("-q",), ("certs",), ("status",), ("client",), ("show", "etcd1")], ids=" ".join
)
def test_the_names_of_other_clusters_are_in_the_hint(bake: Bake, words: tuple[str, ...]) -> None:
    bake("--name", "prod", "--nodes", 1)
    (Path("out/.prod.new-1")).mkdir()
    (Path("out/.prod.new-1/manifest.json")).touch()
    result = bake(*words)
    where = f"error: --name: there is no cluster 'etcd' in {Path('out').absolute()}\n"
    assert (result.code, result.out, result.err) == (2, "", f"{where}  hint: add --name prod\n")
    bake("--name", "lab", "--nodes", 1)
    result = bake(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"{where}  hint: add --name with one of: lab, prod\n"


def test_without_a_cluster_the_hint_names_no_cluster(bake: Bake) -> None:
    hint = "bake the cluster, or use the same --out as when you baked the cluster"
    assert bake("certs").err.endswith(f"  hint: {hint}\n")


def commands(command: click.Command = cli.bake, name: str = "bake") -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from commands(inner, f"{name} {inner.name}")


COMMANDS = dict(commands())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option_once_under_its_heading(bake: Bake, name: str) -> None:
    text = bake(*name.split()[1:], "--help").out
    shown = [each for each in COMMANDS[name].params if isinstance(each, click.Option) and not each.hidden]
    found = re.findall(r"^  (?:-., )?(--[a-z0-9-]+)", text.partition("Examples:")[2], re.M)
    assert sorted(set(found)) == sorted({*(max(each.opts, key=len) for each in shown), "--help"})
    assert len(found) == len(set(found))
    options = text.partition("Options:")[2].partition("Exit codes:")[0]
    assert not re.search(r"^  \[?[A-Z]+", options, re.M), "an argument is no option"
    order = [heading for heading in re.findall(r"^([A-Za-z ]+):$", text, re.M) if heading in HEADINGS]
    assert order == sorted(order, key=HEADINGS.index)
    if name == "bake up":
        assert order == [*HEADINGS]
        assert text.index("Network:") < text.index("--subnet") < text.index("Certificates:") < text.index("--key-type")


def test_help_of_bake_lists_every_command_once(bake: Bake) -> None:
    text = bake("--help").out
    assert "Other commands" not in text
    found = re.findall(r"^  ([a-z][a-z-]*)  +[A-Z]", text, re.M)
    assert sorted(found) == sorted(name for name, command in cli.bake.commands.items() if not command.hidden)


@pytest.mark.parametrize(
    ("command", "hidden"), [("image", {"--nodes", "--memory", "--accel", "--wait", "--to"}), ("plan", {"--wait"})]
)
def test_help_hides_what_a_command_does_not_use(bake: Bake, command: str, hidden: set[str]) -> None:
    text = bake(command, "--help").out
    assert {word for word in hidden if f"{word} " in text.partition("Options:")[2]} == set()
    assert all(word in text for word in ("--profile", "--config", "--connect", "--out", "--output"))
    if command == "image":
        assert re.findall(r"^  (--[a-z]+)", text.partition("Options:")[2], re.M)[:2] == ["--plain", "--refresh"]


@pytest.mark.parametrize("flag", SPEC_FLAGS)
def test_a_flag_has_the_name_of_its_field(flag: str) -> None:
    path = SPEC_FLAGS[flag][0]
    kind: Any = ClusterSpec
    for key in path[:-1]:
        kind = settings_of(kind)[key].metadata["section"]
    assert path[-1] in settings_of(kind)
    words = re.sub(r"([A-Z])", r"-\1", path[-1]).lower()
    assert flag == f"--{words}" or flag.endswith(f"-{words}")


def test_every_option_has_a_known_heading() -> None:
    found = {getattr(each, "heading", GENERAL) for command in COMMANDS.values() for each in command.params}
    assert found == {*HEADINGS}


def test_help_takes_a_moment_only() -> None:
    """Count the modules instead of the time, because other tests run at the same time."""
    script = "import sys; from generator import cli; print(len([n for n in sys.modules if n.startswith('generator')]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40, "import modules inside the commands"


def test_each_visible_command_has_a_man_page_that_groff_accepts(bake: Bake, tool: Callable[[str], str]) -> None:
    assert bake("man", "pages").code == 0
    pages = {path.name: path for path in Path("pages").iterdir()}
    assert {*pages} == {f"{name.replace(' ', '-')}.1" for name, each in COMMANDS.items() if not each.hidden}
    groff = [tool("groff"), "-man", "-Tutf8", "-ww", "-z"]
    done = subprocess.run([*groff, *pages.values()], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert bake("man", "pages").code == 0, "the pages are written again"


def test_a_man_page_has_the_words_of_help(bake: Bake, tool: Callable[[str], str]) -> None:
    bake("man", "pages")
    for name in ("bake", "bake-up", "bake-certs-rotate", "bake-export-kubevirt"):
        groff = [tool("groff"), "-man", "-Tascii", "-P-cbou", f"pages/{name}.1"]
        page = " ".join(subprocess.run(groff, capture_output=True, text=True, check=True).stdout.split())
        text = bake(*name.split("-")[1:], "--help").out
        missing = {word for word in text.split() if word.isalpha() and word not in page and len(word) < 8}
        assert missing <= {"Usage", "Exit"}, name
        assert all(flag in page for flag in re.findall(r"--[a-z0-9-]+", text))


def test_a_folder_that_cannot_be_written_is_an_error(bake: Bake) -> None:
    Path("pages").touch()
    assert bake("man", "pages").code == 2
    assert bake("man", "/proc/none").code == 1
