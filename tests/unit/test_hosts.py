"""Which host gets which node: spread over failure domains, pins first, and a new node moves no other node."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.config.hosts import HostSpec, check_hosts, place, warn_of_domains


def hosts(*domains: str) -> list[HostSpec]:
    """Return a host for each failure domain, with the names h0, h1, …"""
    return [
        HostSpec(name=f"h{index}", uri=f"qemu+ssh://h{index}/system", failure_domain=domain)
        for index, domain in enumerate(domains)
    ]


@pytest.mark.parametrize(
    ("domains", "pins", "placed"),
    [
        ([], [None] * 3, ["", "", ""]),
        (["a"], [None] * 3, ["h0"] * 3),
        (["a", "b", "c"], [None] * 3, ["h0", "h1", "h2"]),
        (["a", "b", "c"], [None] * 5, ["h0", "h1", "h2", "h0", "h1"]),
        (["a", "a", "b", "c"], [None] * 5, ["h0", "h2", "h3", "h1", "h2"]),
        (["a", "b", "c"], [None, None, "h0"], ["h1", "h2", "h0"]),
    ],
    ids=["no hosts", "one", "three", "five on three", "two hosts in a domain", "a pin"],
)
def test_nodes_are_spread_over_failure_domains(domains: list[str], pins: list[str | None], placed: list[str]) -> None:
    assert place(hosts(*domains), pins) == placed


DOMAINS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=5)


@given(domains=DOMAINS, nodes=st.integers(1, 7))
def test_no_domain_has_two_nodes_more_than_another(domains: list[str], nodes: int) -> None:
    by_host = {host.name: host.domain for host in hosts(*domains)}
    numbers = Counter(dict.fromkeys(domains, 0))
    numbers.update(by_host[name] for name in place(hosts(*domains), [None] * nodes))
    assert max(numbers.values()) - min(numbers.values()) <= 1


@given(domains=DOMAINS, pins=st.lists(st.sampled_from([None, "h0"]), max_size=6))
def test_a_new_node_at_the_end_moves_no_other_node(domains: list[str], pins: list[str | None]) -> None:
    some = hosts(*domains)
    assert place(some, [*pins, None])[:-1] == place(some, pins)


@given(domains=DOMAINS, nodes=st.integers(1, 7))
def test_without_pins_nothing_is_refused(domains: list[str], nodes: int) -> None:
    assert list(check_hosts(hosts(*domains), [None] * nodes)) == []


@pytest.mark.parametrize(
    ("domains", "pins", "field"),
    [
        (["a", "b", "c"], ["h0", "h0", None], ("nodes", 1, "host")),
        (["a", "a", "b", "c"], ["h0", "h1", None], ("nodes", 1, "host")),
        (["a", "b", "c"], ["h0", None, "h0", "h0", None], ("nodes", 3, "host")),
        (["a", "b", "c", "d"], ["h0", "h0", None, None], ("nodes", 1, "host")),
    ],
)
def test_pins_that_put_too_many_nodes_into_one_domain_are_refused(
    domains: list[str], pins: list[str | None], field: tuple[str | int, ...]
) -> None:
    ((where, message, remedy),) = check_hosts(hosts(*domains), pins)
    assert where == field
    assert "in the failure domain a; without it there is no quorum" in message
    assert remedy
    assert list(warn_of_domains(hosts(*domains), pins)) == []


FEW = [(["a"], 3), (["a", "b"], 3), (["a", "a", "b"], 5), (["a", "b", "c"], 4)]


@pytest.mark.parametrize(("domains", "nodes"), FEW)
def test_too_few_domains_are_a_warning(domains: list[str], nodes: int) -> None:
    found = list(warn_of_domains(hosts(*domains), [None] * nodes))
    assert found
    assert {where for where, *_ in found} == {("hosts",)}
    assert list(check_hosts(hosts(*domains), [None] * nodes)) == []


@pytest.mark.parametrize(("domains", "nodes"), [([], 3), (["a"], 1), (["a"], 2), (["a", "b", "c"], 7)])
def test_enough_domains_are_no_warning(domains: list[str], nodes: int) -> None:
    assert list(warn_of_domains(hosts(*domains), [None] * nodes)) == []
