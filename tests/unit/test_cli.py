"""The command line: data on stdout, the rest on stderr, and the documented exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import pytest

from generator import __version__, cli
from generator.cli import root
from generator.cli.options import SPEC_FLAGS
from generator.cli.output.diagnostics import FORMAT_VERSION

Bake = Callable[..., Any]
COMMANDS = sorted(cli.bake.commands)
ARCHIVE = Path(__file__).parents[1] / "data" / "etcd.tar.gz"  # a tarball with the right names and empty files
VALUES = {  # a valid value for every flag of the spec
    "--name": "prod",
    "--nodes": 5,
    "--subnet": "10.0.0.0/24",
    "--first-ip": "192.168.20.99",
    "--network-mode": "isolated",
    "--key-type": "ecdsa-p384",
    "--leaf-days": 90,
    "--tls-min-version": "1.3",
    "--archive": str(ARCHIVE),
    "--archive-sha256": sha256(ARCHIVE.read_bytes()).hexdigest(),
    "--image": "https://debian.example/debian.qcow2",
    "--sha256": "1" * 64,
    "--data-disk": 20,
    "--memory": 2048,
    "--cpus": 2,
}
COMPANIONS = {  # the other flags that a flag needs
    "--archive": ["--profile", "rhel", "--archive-sha256", VALUES["--archive-sha256"]],
    "--archive-sha256": ["--profile", "rhel", "--archive", str(ARCHIVE)],
    "--image": ["--sha256", "1" * 64],
    "--sha256": ["--image", "x"],
}


def at(spec: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        spec = spec[key]
    return spec


@pytest.mark.parametrize("flag", SPEC_FLAGS)
@pytest.mark.parametrize("how", ["flag", "variable"])
def test_a_flag_and_its_variable_set_the_field(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, flag: str, how: str
) -> None:
    words = ["check", "-o", "json", *COMPANIONS.get(flag, [])]
    if how == "flag":
        words += [flag, str(VALUES[flag])]
    else:
        monkeypatch.setenv("BAKE_" + flag[2:].upper().replace("-", "_"), str(VALUES[flag]))
    result = bake(*words)
    assert result.code == 0, result.err
    assert at(json.loads(result.out)["spec"], SPEC_FLAGS[flag][0]) == VALUES[flag]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_has_examples_that_name_the_command(bake: Bake, command: str | None) -> None:
    result = bake(*filter(None, [command, "--help"]))
    assert result.code == 0
    examples = re.findall(r"^  +(bake.*)", result.out.partition("Examples:")[2].partition("\n\n")[0], flags=re.M)
    assert examples
    assert all(command in example.split() for example in examples if command)


def test_help_lists_the_exit_codes(bake: Bake) -> None:
    shown = bake("--help").out
    assert all(re.search(rf"\b{code}\b", shown.partition("Exit codes:")[2]) for code in (0, 1, 2, 3, 4, 5, 130, 141))


def test_version_prints_the_version_of_the_package(bake: Bake) -> None:
    assert bake("--version").out == f"bake, version {__version__}\n"


@pytest.mark.parametrize("words", [["check"], ["--nodes", "1"]], ids=["check", "bake"])
def test_json_has_a_format_version_and_is_the_only_output(bake: Bake, words: list[str]) -> None:
    assert json.loads(bake(*words, "-o", "json").out)["format_version"] == FORMAT_VERSION


def test_quiet_prints_nothing(bake: Bake) -> None:
    result = bake("-q", "--nodes", 2)
    assert (result.code, result.out, result.err) == (0, "", "")


def test_warnings_go_to_stderr(bake: Bake) -> None:
    result = bake("check", "--nodes", 2)
    assert result.err.startswith("warning: ")
    assert "warning" not in result.out


def test_check_prints_a_valid_cluster_file(bake: Bake) -> None:
    shown = bake("check", "--nodes", 5, "--subnet", "10.0.0.0/24").out
    Path("cluster.yaml").write_text(shown)
    assert bake("check", "--config", "cluster.yaml").out == shown


def test_the_table_lists_every_iso(bake: Bake) -> None:
    lines = bake("--nodes", 3).out.splitlines()
    assert lines[0].split() == ["NAME", "ADDRESS", "MAC", "ISO"]
    assert all(Path(line.split()[3]).is_file() for line in lines[1:])
    assert len(lines) == 4


@pytest.mark.parametrize("command", ["status", "verify", "seal", "down", "destroy"])
@pytest.mark.parametrize("name", ["../x", "a/b", "", "A"])
def test_every_command_refuses_an_invalid_name(bake: Bake, command: str, name: str) -> None:
    result = bake(command, "--name", name)
    assert result.code == 2
    assert f"error: --name: {name!r} is not a host name label" in result.err


@pytest.mark.parametrize(
    ("words", "shown"), [([], False), (["-q"], False), (["-v"], True), (["-qv"], True), (["--verbose"], True)]
)
def test_verbose_prints_a_traceback(
    bake: Bake, monkeypatch: pytest.MonkeyPatch, words: list[str], shown: bool
) -> None:
    bake("--nodes", 1)
    monkeypatch.setattr("generator.vm.connection.libvirt", None)
    result = bake("down", *words)
    assert result.code == 1
    assert "error: the Python module libvirt is not installed" in result.err
    assert ("Traceback" in result.err) == shown


@pytest.mark.parametrize("words", [["--nodes", 9, "-v"], ["down", "--name", "A", "-v"], ["down", "--name", "-v"]])
def test_wrong_input_has_no_traceback(bake: Bake, words: list[object]) -> None:
    result = bake(*words)
    assert result.code == 2
    assert "error: --n" in result.err
    assert "Traceback" not in result.err


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add a command that asks for confirmation."""

    @click.command()
    def ask() -> None:
        click.confirm("Remove everything?", abort=True)

    monkeypatch.setitem(cli.bake.commands, "ask", ask)


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [("y\n", 0, ""), ("n\n", 1, "nothing was done"), ("\n", 1, "nothing was done"), ("", 1, "nothing was done")],
    ids=["yes", "no", "return", "end of input"],
)
def test_a_declined_question_does_nothing_and_exits_with_1(
    bake: Bake, question: None, monkeypatch: pytest.MonkeyPatch, typed: str, code: int, says: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    result = bake("ask")
    assert result.code == code
    assert says in result.err
    assert "interrupted" not in result.err


def test_an_interrupted_question_exits_with_130(bake: Bake, question: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("click.termui.visible_prompt_func", interrupt)
    result = bake("ask")
    assert (result.code, result.err.strip()) == (130, "interrupted")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--nodes", "3", "check"], "put --nodes after the command: bake check --nodes …"),
        (["-q", "certs"], "put --quiet after the command: bake certs --quiet"),
        (["certs", "--name", "prod", "rotate"], "put --name after the command: bake certs rotate --name …"),
        (["certs", "--out", "dir", "deliver"], "put --out after the command: bake certs deliver --out …"),
        (["certs", "-o", "json", "rotate"], "put --output after the command: bake certs rotate --output …"),
        (["--out", "dir", "export", "kubevirt"], "put --out after the command: bake export TARGET --out …"),
        (["export", "--out", "dir", "kubevirt"], "put --out after the command: bake export kubevirt --out …"),
        (["--nodes", "3", "export", "kubevirt"], "--nodes is not an option of bake export TARGET"),
        (["certs", "--within", "30d", "rotate"], "--within is not an option of bake certs rotate"),
    ],
)
def test_an_option_before_a_subcommand_is_refused(bake: Bake, words: list[str], place: str) -> None:
    bake("--nodes", 1)
    result = bake(*words)
    assert (result.code, place in result.err) == (2, True), result.err


def test_a_subcommand_of_certs_reads_the_environment(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_NAME", "prod")
    result = bake("certs", "rotate")
    assert (result.code, "there is no cluster 'prod'" in result.err) == (2, True), result.err


def test_a_closed_pipe_on_standard_output_prints_no_error(tmp_path: Path) -> None:
    script = f"{sys.executable} -m generator.cli check 2>errors | true"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)
    assert (tmp_path / "errors").read_text() == ""


@pytest.mark.parametrize("words", [["check"], ["check", "-o", "json"]])
def test_a_closed_pipe_on_standard_output_has_the_exit_code_of_other_programs(tmp_path: Path, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "generator.cli", *words], cwd=tmp_path, stdout=writer, check=False)
    os.close(writer)
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_full_disk_on_standard_output_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "generator.cli", "check"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output: cannot be written: No space left on device\n"
        "  hint: free space, or write the output to another file\n"
    )


@pytest.mark.parametrize("words", [["--nodes", "1", "--out", ""], ["man", ""], ["check", "--out", ""]])
def test_an_empty_path_is_refused(bake: Bake, tmp_path: Path, words: list[str]) -> None:
    result = bake(*words)
    assert (result.code, "the path is empty" in result.err, [*tmp_path.iterdir()]) == (2, True, [])


@pytest.mark.parametrize("out", ["link", "link/below", "file"])
def test_an_output_folder_that_cannot_be_made_is_named(bake: Bake, out: str) -> None:
    Path("link").symlink_to("nowhere")
    Path("file").touch()
    rule = {"link": "is a symlink to nowhere, which does not exist", "file": "is not a folder"}[out.partition("/")[0]]
    result = bake("--nodes", 1, "--out", out)
    assert (result.code, f"{Path(out.partition('/')[0]).absolute()}: {rule}" in result.err) == (2, True), result.err


@pytest.mark.parametrize(
    "module",
    ["click", "generator.cli.options", "generator.cli.root", "generator.errors", "generator.config.load", "json"],
)
def test_ctrl_c_during_an_import_prints_no_traceback(tmp_path: Path, module: str) -> None:
    script = """
import os, signal, sys
wanted, sys.argv[1:] = sys.argv[1], ["check", "--nodes", "1"]

class Finder:
    def find_spec(self, name, *_):
        if name == wanted:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
sys.modules.pop(wanted, None)
from generator.cli import main
main()
"""
    words = [sys.executable, "-c", script, module]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (130, "interrupted")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_like_dev_null(tmp_path: Path, closed: str) -> None:
    script = f'cd "$0" && exec {sys.executable} -m generator.cli "$@" {closed}'
    for words in (["init", "c.yaml"], ["--nodes", "1"], ["check", "--nodes", "2"], [], ["show", "etcd1"], ["certs"]):
        done = subprocess.run(["sh", "-c", script, tmp_path, *words], capture_output=True, text=True, check=False)
        assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (0, False), done
    wrong = subprocess.run(["sh", "-c", script, tmp_path, "--nodes", "9"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stdout, "2>" in closed or "between 1 and 7" in wrong.stderr) == (2, "", True)
    assert (tmp_path / "out/etcd/etcd1/seed.iso").exists()


def test_a_program_that_bake_starts_has_the_streams_that_were_closed(tmp_path: Path) -> None:
    """Otherwise, a file that the program opens would get the number of its standard output."""
    text = "import subprocess, sys; from generator import cli; cli._run = lambda: subprocess.call(['sh', '-c', "
    text += "'for n in 0 1 2; do readlink /proc/self/fd/$n; done >links']); cli.main()"
    script = f'cd "$0" && exec {sys.executable} -c "$1" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", script, tmp_path, text], check=True)
    assert (tmp_path / "links").read_text().splitlines() == ["/dev/null", str(tmp_path / "links"), "/dev/null"]


def test_image_accepts_every_option_of_up() -> None:
    """`scripts/bake up OPTIONS` first runs `bake image OPTIONS`."""
    image, up = ({each.name for each in cli.bake.commands[name].params} for name in ("image", "up"))
    assert up <= image


def test_the_table_of_modules_lists_every_command() -> None:
    """Without the table's entry, bake would not import the command's module."""
    defined = {command.name: command.callback.__module__ for command in cli.bake.commands.values() if command.callback}
    assert {name for name, module in defined.items() if module == root.__name__} == {"check", "image"}
    names = {f"generator.cli.{module}": names for module, names in root._MODULES.items()}
    assert {name for name, module in defined.items() if name not in names.get(module, ())} == {"check", "image"}
    assert sorted(defined) == sorted([*sum(names.values(), ()), "check", "image"])


def test_a_command_imports_no_other_command() -> None:
    script = "import sys; sys.argv[1:] = ['show', '--help']; from generator.cli import main\n"
    script += "import atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stderr.split()
    assert {name for name in root._MODULES if f"generator.cli.{name}" in loaded} == {"local.show"}


def test_scripts_bake_lists_every_command_that_needs_vms() -> None:
    text = (Path(__file__).parents[2] / "scripts/bake").read_text()
    (words,) = re.findall(r"^ +(up \| .*)\) printf", text, re.MULTILINE)
    others = {
        "check", "backup", "recover", "export", "init", "schema", "show", "completion", "man", "timeline", "client",
    }  # fmt: skip
    assert sorted(words.split(" | ")) == sorted(set(COMMANDS) - others)


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    yield from command.params
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        yield from parameters(inner)


def test_options_with_a_value_have_a_variable_and_flags_have_none() -> None:
    options = [each for each in parameters(cli.bake) if isinstance(each, click.Option) and each.expose_value]
    assert [each.opts for each in options if bool(each.envvar) == each.is_flag] == []


def test_no_hint_installs_a_package_by_name() -> None:
    """`bake` is another project on the package index, and `etcd-bake` is not published, so hints install only `.`."""
    root = Path(__file__).parents[2]
    folders = [root / name for name in ("generator", "docs", "scripts")]
    files = [root / "README.md", *(path for folder in folders for path in folder.rglob("*"))]
    wrong = re.compile(rb"pip install [^.\n]{0,12}bake\b")
    assert [path for path in files if path.is_file() and wrong.search(path.read_bytes())] == []


def test_a_hint_names_the_cluster_that_it_is_for(bake: Bake) -> None:
    assert "Then seal the cluster:\n  bake seal\n" in bake("--nodes", 1).err
    out = Path("a b").absolute()
    result = bake("--nodes", 1, "--name", "prod", "--out", "a b")
    assert f"\n  bake seal --name prod --out '{out}'\n" in result.err
    (out / "prod/etcd1/seed.iso").unlink()
    result = bake("seal", "--yes", "--name", "prod", "--out", "a b")
    assert f"hint: run bake --name prod --out '{out}', then run bake seal --name prod --out '{out}'\n" in result.err
