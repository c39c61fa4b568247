"""With -o json, stdout is one document with data and diagnostics, in the shape of docs/reference/output.schema.json."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from generator import cli
from generator.cli.common import print_json, progress_of, reporter
from generator.cli.output.diagnostics import FORMAT_VERSION, Diagnostic, located
from generator.errors import BakeError, InputError, Problem, UnhealthyError, WaitTimeoutError
from tests.hostile.catalogue import KINDS, Kind
from tests.output_schema import check_output

Bake = Callable[..., Any]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/output.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def document(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    VALIDATOR.validate(found)
    assert found["format_version"] == FORMAT_VERSION
    return found


def listed(result: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(result.out)["diagnostics"]
    return found


def texts(diagnostics: list[dict[str, Any]]) -> str:
    """Return the text output that has the same problems."""
    prefixes = {"error": "error: ", "warning": "warning: "}
    return "".join(
        f"{prefixes[one['severity']]}{one['detail']}" + (f"\n  hint: {one['hint']}\n" if one["hint"] else "\n")
        for one in diagnostics
    )


def test_the_schema_is_valid_and_has_the_keys_of_the_code() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    items = SCHEMA["properties"]["diagnostics"]["items"]
    assert [*items["properties"]] == items["required"] == [*Diagnostic._fields]


def with_output(group: click.Group, words: tuple[str, ...] = ("bake",)) -> Iterator[str]:
    """Yield each command that has the option --output. The targets of `bake export` have the same output."""
    for name, command in group.commands.items():
        found = (*words, name)
        if any("--output" in one.opts for one in command.params):
            yield "-".join(found[:2] if found[1] == "export" else found)
        if isinstance(command, click.Group):
            yield from with_output(command, found)


def test_the_schema_describes_the_data_of_each_command() -> None:
    described = {name for name in SCHEMA["$defs"] if name.partition("-")[0] == "bake"}
    assert described == {"bake", *with_output(cli.bake)} - {"bake-console", "bake-etcdctl"}


def test_the_comparison_finds_other_keys_and_values() -> None:
    node = {"before": "etcd1", "after": "etcd2", "seconds": 0.5}
    for changes in ({"more": 1}, {"seconds": "0.5"}, {"after": None}):
        with pytest.raises(AssertionError, match="bake move-leader"):
            check_output(["move-leader", "-o", "json"], json.dumps(WITHOUT_DATA | node | changes))
    check_output(["move-leader", "-o", "json"], json.dumps(WITHOUT_DATA | node))
    check_output(["move-leader", "-o", "json"], json.dumps(WITHOUT_DATA))


WITHOUT_DATA = {"format_version": FORMAT_VERSION, "diagnostics": []}


def test_every_problem_of_a_file_is_a_diagnostic(bake: Bake) -> None:
    Path("cluster.yaml").write_text("name: A_b\nnodes: [{name: a}, {name: a}]\nvm: {memory: lots, cpuz: 2}\n")
    result = bake("check", "--config", "cluster.yaml", "-o", "json")
    assert result.code == 2
    found = listed(result)
    assert [(one["file"], one["line"], one["column"], one["field"]) for one in found] == [
        ("cluster.yaml", 1, 1, "name"), ("cluster.yaml", 2, 21, "nodes[1].name"), ("cluster.yaml", 3, 6, "vm.memory"),
        ("cluster.yaml", 3, 20, "vm.cpuz"),
    ]  # fmt: skip
    assert found[2]["summary"] == "'lots' is not a valid integer"
    assert found[3]["hint"] == "did you mean cpus?"
    assert {one["severity"] for one in found} == {"error"}
    assert texts(found) == result.err


@pytest.mark.parametrize(
    ("words", "code", "fields"),
    [
        (["--nodes", "9"], 2, ["nodes"]),
        (["check", "--nodes", "9", "--subnet", "10.0.0.1/24"], 2, ["nodes", "network.subnet"]),
        (["check", "--nodes", "x"], 2, ["nodes"]),
        (["check", "--nodez", "x"], 2, [None]),
        (["chek"], 2, [None]),
        (["status", "--name", "prod"], 2, ["name"]),
        (["init", "--nodes", "9"], 2, ["nodes"]),
        (["show", "etcd1", "etcd-peer.key"], 2, [None]),
        (["show"], 2, [None]),
        (["backup", "out/a"], 2, [None]),
    ],
)
def test_wrong_input_is_one_document(bake: Bake, words: list[str], code: int, fields: list[str | None]) -> None:
    bake("--nodes", 1)
    result = bake(*words, "-o", "json")
    assert (result.code, [one["field"] for one in listed(result)]) == (code, fields)
    assert {*document(result.out)} == {"format_version", "diagnostics"}
    assert all(one["detail"] in result.err for one in listed(result))


@pytest.mark.parametrize("how", [["-o", "json"], ["-ojson"], ["--output", "json"], ["--output=json"]])
def test_each_way_to_ask_for_json(bake: Bake, how: list[str]) -> None:
    assert listed(bake("check", "--nodez", *how))
    assert listed(bake("check", "--nodes", 9, *how))


def test_the_environment_asks_for_json(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_OUTPUT", "json")
    assert listed(bake("check", "--nodes", 9))
    assert bake("check", "--nodes", 9, "-o", "text").out == ""


@pytest.mark.parametrize("words", [["check"], ["--nodes", "9"], ["--nodez"], ["status"]])
def test_without_json_nothing_is_on_stdout(bake: Bake, words: list[str]) -> None:
    result = bake(*words)
    assert (result.code == 0) == bool(result.out)
    assert '"diagnostics"' not in result.out


@pytest.mark.parametrize("words", [["check"], ["--nodes", "1"], ["show", "etcd1"], ["init"]])
def test_success_has_data_and_no_diagnostics(bake: Bake, words: list[str]) -> None:
    bake("--nodes", 1)
    result = bake(*words, "-o", "json")
    found = document(result.out)
    assert (result.code, found["diagnostics"], len(found) > 2) == (0, [], True)


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_a_warning_is_a_diagnostic_next_to_the_data(bake: Bake, quiet: list[str]) -> None:
    result = bake("check", "--nodes", 2, "-o", "json", *quiet)
    (warning,) = listed(result)
    assert (warning["severity"], warning["field"], warning["hint"]) == ("warning", "nodes", "use 1 or 3 members")
    assert document(result.out)["spec"]["nodes"] == 2
    assert result.err == ("" if quiet else texts([warning]))


@pytest.fixture
def command(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs a new command with `-o json`."""

    def run(action: Callable[[dict[str, Any]], None]) -> Any:
        @click.command()
        @click.option("-o", "output")
        def act(output: str) -> None:
            action({"output": output, "quiet": False})

        monkeypatch.setitem(cli.bake.commands, "act", act)
        return bake("act", "-o", "json")

    return run


def fail(error: BaseException, **data: Any) -> Callable[[dict[str, Any]], None]:
    def action(_: dict[str, Any]) -> None:
        if data:
            print_json(**data)
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "summaries"),
    [
        (BakeError("no", hint="do it"), 1, ["no"]),
        (InputError([Problem("--nodes", "a"), Problem("x", "b")]), 2, ["a", "b"]),
        (UnhealthyError("not healthy"), 3, ["not healthy"]),
        (WaitTimeoutError("too late"), 4, ["too late"]),
        (OSError(28, "No space left on device"), 1, ["standard output: cannot be written: No space left on device"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (click.Abort(), 1, ["nothing was done"]),
        (click.UsageError("unknown word"), 2, ["unknown word"]),
    ],
)
@pytest.mark.parametrize("data", [{}, {"checks": [1]}])
def test_each_error_keeps_its_exit_code_and_the_data(
    command: Callable[..., Any], error: BaseException, code: int, summaries: list[str], data: dict[str, Any]
) -> None:
    result = command(fail(error, **data))
    assert result.code == code
    found = document(result.out)
    assert [one["summary"] for one in found.pop("diagnostics")] == summaries
    assert found == {"format_version": FORMAT_VERSION, **data}


def test_warnings_of_an_operation_are_diagnostics(command: Callable[..., Any]) -> None:
    def action(options: dict[str, Any]) -> None:
        reporter(options)("warning: a\n  hint: b")
        reporter(options)("no warning: c")
        with progress_of((), options) as progress:
            progress.line("warning: d")
            progress.line("etcd1: booting")
        print_json(done=True)

    result = command(action)
    assert [(one["summary"], one["hint"]) for one in listed(result)] == [("a", "b"), ("d", None)]
    assert "warning: a" in result.err


FILES = {name: kind for name, kind in KINDS.items() if kind.file is not None and kind.code == 2 and not kind.clock}


@pytest.mark.parametrize("kind", FILES.values(), ids=FILES)
def test_each_kind_of_bad_input_has_the_same_problems_as_text(bake: Bake, kind: Kind) -> None:
    kind.lay_out()
    result = bake(*kind.words, "-o", "json")
    assert result.code == 2
    assert listed(result)
    if not result.err.startswith("Usage"):
        assert texts(listed(result)) == result.err


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("a b.yaml:3:8: network.subnet", ("a b.yaml", 3, 8, "network.subnet")),
        ("a.yaml:3:8", ("a.yaml", 3, 8, None)),
        ("--first-ip", (None, None, None, "network.firstIp")),
        ("--out", (None, None, None, None)),
        ("vm.dataDisk", (None, None, None, "vm.dataDisk")),
        ("nodes[1].name", (None, None, None, "nodes[1].name")),
        ("/srv/ca.pem", ("/srv/ca.pem", None, None, None)),
        ("this machine's clock", (None, None, None, None)),
        ("NODE", (None, None, None, None)),
        ("", (None, None, None, None)),
    ],
)
def test_a_place_is_a_file_a_position_or_a_field(where: str, place: tuple[Any, ...]) -> None:
    found = located(where, "is wrong", None)
    assert (found.file, found.line, found.column, found.field) == place
    assert found.detail == (f"{where}: is wrong" if where else "is wrong")


def test_a_full_disk_and_a_closed_pipe(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "generator.cli", "check", "--nodes", "9", "-o", "json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    text = "error: standard output: cannot be written: No space left on device"
    assert (done.returncode, done.stderr.splitlines()[-2]) == (1, text)
    done = subprocess.run(["sh", "-c", f"{' '.join(words)} 2>errors | true"], cwd=tmp_path, check=True)
    assert "Traceback" not in (tmp_path / "errors").read_text()


def test_a_question_without_a_terminal_is_a_diagnostic(bake: Bake, monkeypatch: pytest.MonkeyPatch) -> None:
    bake("--nodes", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    result = bake("--nodes", 1, "-o", "json")
    (one,) = listed(result)
    assert (result.code, one["hint"]) == (2, "nothing was done; add --yes to confirm")
