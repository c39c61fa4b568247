"""The Python API: the documented example runs, and every name is documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from generator import api
from generator.operations import verify

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/python.md").read_text()
MISSING = ("click", "google", "grpclib", "libvirt", "requests", "rich")
WITHOUT_EXTRA = """
sys.path.insert(0, sys.argv[1])
from generator import api
print(api.bake("out", api.load("out", fields={"nodes": 1})).plan.name)
"""


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def baked(**fields: Any) -> api.Baked:
    return api.bake("out", api.load("out", fields=fields))


def test_the_documented_example_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run all code of the documentation page. No nodes run, so the test replaces the function `verify`."""
    good = api.Check(name="member list", result=api.Result.OK, detail="etcd1")
    given = api.Verification(cluster="prod", checks=(good,))
    monkeypatch.setattr(verify, "verify_cluster", lambda _cluster, **_: given)
    code = "".join(re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    exec(compile(code, "docs/reference/python.md", "exec"), {})  # noqa: S102  the project's documentation
    out = capsys.readouterr().out
    assert "out/prod/etcd3/seed.iso" in out
    assert "+ node etcd4: 10.20.0.34" in out
    assert "fields['network']['subnet']: network.subnet " in out
    assert "healthy: True sealed: False" in out
    assert Path("out/prod/etcd5/seed.iso").is_file()


@pytest.mark.parametrize("name", api.__all__)
def test_every_name_is_documented(name: str) -> None:
    assert re.search(rf"`{name}\b", PAGE)
    assert getattr(api, name).__doc__


def test_a_second_bake_changes_nothing() -> None:
    assert baked(nodes=1).changed
    assert baked(nodes=1).changed == ()
    assert api.bake("out", api.load("out")).changed == ()


def test_a_loss_needs_allow_loss() -> None:
    baked(nodes=3)
    loaded = api.load("out", fields={"nodes": 1})
    assert [change.name for change in api.changes(loaded) if change.lost] == ["etcd2", "etcd3"]
    with pytest.raises(api.InputError, match=r"this cannot be undone: .*etcd2"):
        api.bake("out", loaded)
    assert Path("out/etcd/etcd3").is_dir()
    api.bake("out", loaded, allow_loss=True)
    assert [node.name for node in api.open_cluster("out").plan.nodes] == ["etcd1"]


def test_a_change_that_no_running_node_can_apply_is_refused_despite_allow_loss() -> None:
    baked(nodes=1)
    Path("out/etcd/sealed").write_text("")
    loaded = api.load("out", fields={"etcd": {"peerPort": 3380}})
    assert [str(change.level) for change in api.changes(loaded)] == ["refused"]
    with pytest.raises(api.InputError, match=r"etcd\.peerPort: 2380 → 3380, but members know each other"):
        api.bake("out", loaded, allow_loss=True)


def test_a_spec_loaded_before_another_bake_is_stale() -> None:
    loaded = api.load("out")
    baked(nodes=1)
    with pytest.raises(api.StaleError):
        api.bake("out", loaded)


def test_fields_override_the_cluster_file() -> None:
    Path("cluster.yaml").write_text("nodes: 5\netcd: {clientPort: 3379}\n")
    fields = {"nodes": 1, "etcd": {"options": {"heartbeat-interval": 200}}}
    plan = api.plan(api.load("out", config="cluster.yaml", fields=fields))
    assert [node.client_url for node in plan.nodes] == ["https://192.168.20.31:3379"]
    assert plan.spec.etcd.options["heartbeat-interval"] == 200


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"nodes": "many"}, "fields['nodes']: nodes"),
        ({"etcd": {"clientPort": 0}}, "fields['etcd']['clientPort']: etcd.clientPort"),
        ({"nodes": [{"name": "a"}, {"name": "b", "address": "x"}]}, "fields['nodes']: nodes[1].address"),
        ({"node": 3}, "fields['node']: node"),
        ({"nodes": {}}, "fields['nodes']: nodes"),
    ],
)
def test_a_problem_has_its_location(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(api.InputError) as raised:
        api.load("out", fields=fields)
    assert [problem.where for problem in raised.value.problems] == [where]


def test_open_cluster_needs_a_baked_cluster() -> None:
    with pytest.raises(api.InputError, match="no cluster 'prod'"):
        api.open_cluster("out", "prod")


def test_the_api_needs_no_extra_and_no_command_line() -> None:
    script = f"import sys; sys.modules |= dict.fromkeys({MISSING!r})\n" + WITHOUT_EXTRA
    words = [sys.executable, "-c", script, str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "etcd\n"
