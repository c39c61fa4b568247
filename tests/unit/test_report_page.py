"""The page of `bake report`: everything is escaped, nothing is loaded, and it is written without a cluster, too."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generator.engine import MachineStatus, State
from generator.errors import BakeError
from generator.operations.baked_cluster import Cluster
from generator.operations.reporting import collect
from generator.operations.reporting.last_bake import edited_files, load_last_bake
from generator.operations.status import ClusterStatus, MemberRole, NodeStatus
from generator.plan import ClusterPlan
from generator.report.content import (
    AlarmRow,
    CertificateRow,
    ChangeRow,
    Content,
    HostBox,
    Mood,
    NodeCard,
    Part,
    ResultRow,
    Tile,
    VersionRow,
)
from generator.report.page import policy, render, style
from generator.report.timeline import Record, make_timeline
from generator.store.folder import Store
from tests.unit.contrast import contrast
from tests.unit.test_secrets import revealed_keys

Bake = Callable[..., Any]
FOLDER = Path("out/etcd")
REPORT = FOLDER / "report.html"


def content(text: str = "x", *, now: datetime = datetime(2026, 11, 30, tzinfo=UTC)) -> Content:
    """Return the content of a page in which each free text is `text`."""
    result = ResultRow(name=text, title=text, result=text, mood=Mood.FAILED, detail=text, remedy=text)
    records = [
        Record(time=1000 + number, node=text, phase=phase, detail=text)
        for number, phase in enumerate(("booting", text, "settled"))
    ]
    card = NodeCard(name=text, role=text, mood=Mood.OK, facts={text: text}, error=text)
    change = ChangeRow(sign="~", what=text, values=text, cost=text)
    return Content(
        cluster=text, made=now, bake_version=text, engine=text, mood=Mood.FAILED, verdict=text, notices=(text,),
        tiles=(Tile(title=text, figure=text, text=text, mood=Mood.WARNING),),
        hosts=(HostBox(name=text, domain=text, nodes=(card,)),), tasks=((text, text),),
        timeline=make_timeline(text, [text, text + "2"], records),
        certificates=(
            CertificateRow(
                owner=text, role=text, names=text, issuer=text, not_after="2026-11-27", days_left=-3, share=0.0,
                served=text, mood=Mood.FAILED,
            ),
        ),
        checks=Part(rows=(result,)), controls=Part(unknown=text),
        versions=(VersionRow(node=text, etcd=text, image=text, built=text[:10], parts=text),),
        alarms=(AlarmRow(node=text, alarm=text, meaning=text, remedy=text),), no_alarms=text,
        last_bake=text, changes=(change,), edited=(replace(change, sign="-"),),
    )  # fmt: skip


class Reader(HTMLParser):
    """Collects the elements, attributes and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


HOSTILE = st.one_of(
    st.text(min_size=1, max_size=60),
    st.sampled_from([
        "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'><svg onload=alert(1)>", "{{ 7 * 7 }}",
        "{% raw %}", "</style><script>", "]]>", "<!--", "javascript:alert(1)", "\x00\x1b[31m", "\u202eabc", "&amp;",
        "</title><script>", "a\nb", "x" * 5000,
    ]),
)  # fmt: skip


@given(HOSTILE)
@settings(max_examples=60)
def test_free_text_never_becomes_an_element_or_an_attribute(text: str) -> None:
    page = render(content(text))
    plain, hostile = Reader(render(content("x"))), Reader(page)
    names = {(tag, name) for tag, name, _ in plain.attributes}
    assert set(hostile.tags) <= set(plain.tags) | {"rect", "text"}
    assert {(tag, name) for tag, name, _ in hostile.attributes} <= names | {
        (tag, name)
        for tag in ("rect", "text")
        for name in ("class", "x", "y", "width", "height", "rx", "aria-hidden", "text-anchor")
    }
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)
    assert shown in "".join(hostile.text) or "&" in shown
    assert "49" not in "".join(hostile.text) or text != "{{ 7 * 7 }}"


def test_every_free_text_of_the_content_is_shown() -> None:
    page = render(content("needle"))
    count = sum(1 for value in _values(content("needle")) if value == "needle")
    assert count > 40
    assert page.count("needle") >= count - 3  # the texts for empty sections are not shown


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif is_dataclass(value):
        for each in fields(value):
            yield from _values(getattr(value, each.name))
    elif isinstance(value, dict):
        yield from (one for pair in value.items() for one in pair)
    elif isinstance(value, tuple):
        for each in value:
            yield from _values(each)


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    reader = Reader(render(content()))
    assert not {"script", "img", "iframe", "object", "embed", "form", "base", "audio", "video"} & set(reader.tags)
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("style", "src", "srcset", "action"), (tag, name)
        if name == "href":
            assert value.startswith(("#", "data:image/svg+xml,")), value
    assert "@import" not in style()
    assert "url(" not in style()


def test_the_policy_allows_only_the_pages_own_style() -> None:
    page = render(content())
    (found,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(found.encode()).digest()).decode()
    assert policy().startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")
    assert "sha256-" in page.partition("</style>")[0]


def test_headings_and_tables_have_an_order_for_screen_readers() -> None:
    reader = Reader(render(content()))
    levels = [int(tag[1]) for tag in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    identifiers = [value for _, name, value in reader.attributes if name == "id"]
    assert len(identifiers) == len(set(identifiers))
    for _, name, value in reader.attributes:
        if name == "aria-labelledby":
            assert set(value.split()) <= set(identifiers)
    assert {"main", "header", "footer", "nav", "section"} <= set(reader.tags)


PAIRS = [
    ("text", "ground"), ("text", "card"), ("soft", "card"), ("soft", "ground"), ("accent", "card"),
    ("accent", "ground"),
    ("band-text", "band"), ("band-soft", "band"), ("card", "accent"), ("text", "warning-ground"),
    *((mood, place) for mood in ("ok", "warning", "failed", "unknown") for place in (f"{mood}-ground", "card")),
]  # fmt: skip


@pytest.mark.parametrize("number", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("front", "back"), PAIRS)
def test_text_has_enough_contrast(number: int, front: str, back: str) -> None:
    roots = re.findall(r":root \{([^}]*--ground[^}]*)\}", style())
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", roots[number]))
    assert contrast(colours[front], colours[back]) >= 4.5


# --- what the command collects ---------------------------------------------------------------------------------


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node answers, and no engine does."""

    def status(plan: ClusterPlan, _files: object) -> ClusterStatus:
        nodes = (
            NodeStatus(name=node.name, address=str(node.address), reachable=False, error="no route to host")
            for node in plan.nodes
        )
        return ClusterStatus(nodes=tuple(nodes), members=())

    def no_engine(*_words: object, **_options: object) -> None:
        raise BakeError("cannot connect to libvirt")

    monkeypatch.setattr("generator.operations.status.cluster_status", status)
    monkeypatch.setattr("generator.cli.engines.make_engine", no_engine)


@pytest.mark.usefixtures("unreachable")
def test_without_an_answer_the_page_has_what_is_in_the_folder_and_says_so(bake: Bake) -> None:
    bake("--nodes", 3, "--leaf-days", 100)
    result = bake("report", "-o", "json")
    assert result.code == 3
    data = json.loads(result.out)
    assert (data["cluster"], data["answers"], data["healthy"]) == ("etcd", False, None)
    text = "this report has only what is in the cluster's folder"
    silent = f"no node answers (etcd1, etcd2, etcd3: no route to host); {text}"
    assert data["notices"] == [silent], "without --connect, the machines may run elsewhere"
    asked = json.loads(bake("report", "-o", "json", "--connect", "qemu:///system").out)
    assert asked["notices"] == [silent, "the VMs: cannot connect to libvirt"]
    page = REPORT.read_text()
    assert data["file"] == str(REPORT.absolute())
    text = " ".join("".join(Reader(page).text).split())
    for part in ("What this report lacks", "no node answers", "state not known", "98 days", "etcd2.etcd.internal"):
        assert part in text
    assert REPORT.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in FOLDER.iterdir() if path.name.startswith(".")] == []


@pytest.mark.usefixtures("unreachable")
def test_the_page_has_no_secret(bake: Bake) -> None:
    bake("--nodes", 2)
    assert bake("report").code == 3
    page = REPORT.read_bytes()
    assert revealed_keys(FOLDER, page) == set()
    assert (FOLDER / "pki/bootstrap-permit").read_bytes().strip() not in page


@pytest.mark.usefixtures("unreachable")
def test_the_page_survives_a_bake_and_is_replaced_only_if_bake_wrote_it(bake: Bake) -> None:
    bake("--nodes", 1)
    assert bake("report").out == f"{REPORT.absolute()}\n"
    bake("--nodes", 2, "--yes")
    assert "etcd2" not in REPORT.read_text()
    bake("report")
    assert "etcd2" in REPORT.read_text()
    REPORT.write_text("mine")
    result = bake("report")
    assert (result.code, REPORT.read_text()) == (2, "mine")
    assert "exists, and this command did not write it" in result.err


@pytest.mark.usefixtures("unreachable")
def test_the_page_shows_the_changes_of_the_last_bake(bake: Bake) -> None:
    bake("--nodes", 2)
    bake("--nodes", 3, "--memory", 2048)
    (FOLDER / "etcd1/network-config").unlink()
    (FOLDER / "etcdctl.env").write_text("edited")
    bake("report")
    text = " ".join("".join(Reader(REPORT.read_text()).text).split())
    assert re.search(r"changed the cluster's folder on \d{4}-", text)
    assert "+ added node etcd3 192.168.20.33" in text
    assert "~ changed vm.memory 1024 → 2048" in text
    assert "~ changed files of the cluster etcdctl.env" in text
    assert "− removed file in etcd1/ network-config" in text


def test_a_bake_without_changes_keeps_the_record_of_the_last_bake(bake: Bake) -> None:
    bake("--nodes", 2)
    store = Store(Path("out"), "etcd")
    first = load_last_bake(store)
    assert first
    assert (first.is_first, {one["change"] for one in first.changes}) == (True, {"+"})
    bake("--nodes", 2)
    assert load_last_bake(store) == first
    bake("--nodes", 1, "--yes")
    second = load_last_bake(store)
    assert second
    assert {"change": "-", "kind": "node", "name": "etcd2", "old": "192.168.20.32", "lost": "its keys are deleted"} in (
        second.changes
    )
    assert list(edited_files(store)) == []


@pytest.mark.parametrize(
    "raw", ["", "[", "[" * 100_000, "{}", '{"time": 1, "bake_version": 2, "first": 1, "changes": [5]}'], ids=range(5)
)
def test_a_record_that_bake_did_not_write_is_no_record(bake: Bake, raw: str) -> None:
    bake("--nodes", 1)
    (FOLDER / "last-bake.json").write_text(raw)
    assert load_last_bake(Store(Path("out"), "etcd")) is None


@pytest.fixture
def cluster(bake: Bake) -> Cluster:
    from generator.operations.baked_cluster import open_cluster

    bake("--nodes", 3)
    return open_cluster(Store(Path("out"), "etcd"))


def found_of(cluster: Cluster, *roles: MemberRole | None, **more: Any) -> collect.Found:
    """Return a finding in which each node has a role. A node without a role does not answer."""
    nodes = tuple(
        (
            NodeStatus(
                name=node.name, address=str(node.address), reachable=role is not None, role=role or MemberRole.VOTER,
                member_id="1f", version="3.5.16" if role else None, error=None if role else "no answer in time",
            ),
            None,
        )
        for node, role in zip(cluster.plan.nodes, roles, strict=True)
    )  # fmt: skip
    return collect.Found(overview=SimpleNamespace(nodes=nodes, sealed=True, tasks=()), **more)  # type: ignore[arg-type]


def figures(cluster: Cluster, found: collect.Found) -> dict[str, tuple[str, Mood]]:
    made = collect.content(cluster, found, now=datetime.now(UTC))
    return {tile.title: (tile.figure, tile.mood) for tile in made.tiles}


LEADER, VOTER, LEARNER = MemberRole.LEADER, MemberRole.VOTER, MemberRole.LEARNER


@pytest.mark.parametrize(
    ("roles", "voters", "may_fail"),
    [
        ((LEADER, VOTER, VOTER), ("3 of 3", Mood.OK), ("1 node", Mood.OK)),
        ((LEADER, VOTER, None), ("2 of 3", Mood.FAILED), ("0 nodes", Mood.WARNING)),
        ((LEADER, VOTER, LEARNER), ("2 of 3", Mood.FAILED), ("0 nodes", Mood.WARNING)),
        ((VOTER, None, None), ("1 of 3", Mood.FAILED), ("not known", Mood.FAILED)),
        ((VOTER, VOTER, VOTER), ("3 of 3", Mood.FAILED), ("not known", Mood.FAILED)),
        ((None, None, None), ("not known", Mood.UNKNOWN), ("not known", Mood.UNKNOWN)),
    ],
)
def test_the_figures_say_how_many_nodes_may_fail(
    cluster: Cluster, roles: tuple[Any, ...], voters: tuple[str, Mood], may_fail: tuple[str, Mood]
) -> None:
    found = figures(cluster, found_of(cluster, *roles))
    assert (found["Voters"], found["May fail"]) == (voters, may_fail)


def test_a_role_is_unknown_if_no_node_answers(cluster: Cluster) -> None:
    for roles, expected in (((None,) * 3, {"unknown"}), ((LEADER, VOTER, LEARNER), {"leader", "voter", "learner"})):
        made = collect.content(cluster, found_of(cluster, *roles), now=datetime.now(UTC))
        assert {node.role for host in made.hosts for node in host.nodes} == expected


def test_versions_come_from_the_node_and_from_its_image(cluster: Cluster) -> None:
    machine = MachineStatus(node="etcd1", state=State.RUNNING, image="abc", built="2026-11-24T01:02:03Z", host="h1")
    found = found_of(
        cluster, LEADER, VOTER, VOTER, machines={"etcd1": machine}, images={"abc": {"kernel": "6.12", "systemd": "257"}}
    )
    made = collect.content(cluster, found, now=datetime.now(UTC))
    assert made.versions[0] == VersionRow(
        node="etcd1", etcd="3.5.16", image="abc", built="2026-11-24", parts="kernel 6.12, systemd 257"
    )
    assert {host.name: [node.name for node in host.nodes] for host in made.hosts} == {
        "h1": ["etcd1"], "": ["etcd2", "etcd3"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("days", "mood"), [(0, Mood.OK), (330, Mood.OK), (335, Mood.WARNING), (366, Mood.FAILED)], ids=str
)
def test_a_certificate_that_expires_soon_is_a_warning(cluster: Cluster, days: int, mood: Mood) -> None:
    from generator.operations import certs

    now = datetime.now(UTC) + timedelta(days=days)
    found = found_of(cluster, LEADER, VOTER, VOTER, certificates=certs.entries(cluster, now=now))
    made = collect.content(cluster, found, now=now)
    assert {row.mood for row in made.certificates if row.owner == "etcd1"} == {mood}
    assert all(0 <= row.share <= 1 for row in made.certificates)


def test_a_new_certificate_with_a_short_validity_is_no_warning(bake: Bake) -> None:
    from generator.operations import baked_cluster, certs

    bake("--nodes", 3, "--profile", "ci")
    cluster, now = baked_cluster.open_cluster(Store(Path("out"), "etcd")), datetime.now(UTC)
    found = found_of(cluster, LEADER, VOTER, VOTER, certificates=certs.entries(cluster, now=now))
    made = collect.content(cluster, found, now=now)
    assert {row.mood for row in made.certificates} == {Mood.OK}
    assert min(row.days_left for row in made.certificates) < 7
