"""A cluster of servers in this process that answer like etcd members, for the tests of the maintenance commands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from generator.etcd.client import Etcd
from generator.etcd.messages import message, stem
from generator.operations.baked_cluster import Cluster
from generator.operations.maintenance import survey
from generator.plan import ClusterPlan
from generator.store.folder import Store
from tests.unit.grpc_server import GrpcServer, Replies, Reply

CLUSTER = 0xCDF818194E3A8C32
HEALTHY = {"version": "3.5.16", "dbSize": 100 << 20, "dbSizeInUse": 100 << 20, "raftIndex": 50, "raftTerm": 2}


@dataclass
class Members:
    """The state that all servers report. `status`, `replies`: changes for one node, by node name.

    `calls`: all calls except reads, as pairs of node and call.
    """

    plan: ClusterPlan
    leader: int = 1
    learners: tuple[str, ...] = ()
    alarms: list[tuple[int, int]] = field(default_factory=list)
    status: dict[str, dict[str, Any]] = field(default_factory=dict)
    replies: dict[tuple[str, str], Reply | Replies] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def reply(self, name: str, path: str, raw: bytes) -> Reply | Replies:
        call = path.partition(".")[2]
        question = message(f"{stem(call)}Request").FromString(raw)
        if call not in ("Maintenance/Status", "Cluster/MemberList", "KV/Range"):
            self.calls.append((name, call))
        if (name, call) in self.replies:
            return self.replies[name, call]
        values: dict[str, Any] = {}
        if call == "Maintenance/Status":
            values = {**HEALTHY, "leader": self.leader, "isLearner": name in self.learners, **self.status.get(name, {})}
        elif call == "Cluster/MemberList":
            values = {"members": list(self._members())}
        elif call == "Maintenance/Alarm":
            if question.action == 2:
                self.alarms.remove((question.memberID, question.alarm))
            values = {"alarms": [{"memberID": member, "alarm": kind} for member, kind in self.alarms]}
        elif call == "Maintenance/MoveLeader":
            self.leader = question.targetID
        elif call == "Maintenance/Defragment":
            self.status[name] = {**self.status.get(name, {}), "dbSize": 7 << 20, "dbSizeInUse": 7 << 20}
        answer = message(f"{stem(call)}Response")
        if "header" in answer.DESCRIPTOR.fields_by_name:
            number = 1 + [node.name for node in self.plan.nodes].index(name)
            values["header"] = {"cluster_id": CLUSTER, "member_id": number, "revision": 9, "raft_term": 2}
        return bytes(answer(**values).SerializeToString())

    def _members(self) -> Iterator[dict[str, Any]]:
        for number, node in enumerate(self.plan.nodes, 1):
            learner = node.name in self.learners
            yield {"ID": number, "name": node.name, "peerURLs": [node.peer_url], "isLearner": learner}


@contextmanager
def serving(plan: ClusterPlan, out: Path, *off: str) -> Iterator[tuple[Cluster, Members]]:
    """Yield a cluster with a server for each node except the nodes in `off`, and the state of the servers.

    The time limits of the client are long, because a busy machine may need seconds for an answer.
    """
    members = Members(plan)
    servers = {
        node.name: GrpcServer(lambda path, raw, name=node.name: members.reply(name, path, raw))
        for node in plan.nodes if node.name not in off
    }  # fmt: skip
    ports = {name: server.port for name, server in servers.items()}
    nodes = tuple(replace(node, client_url=f"http://127.0.0.1:{ports.get(node.name, 1)}") for node in plan.nodes)
    limits = patch.dict(Etcd.__init__.__kwdefaults__, timeout=(60, 60))
    try:
        with limits, patch.object(survey, "FRESH_SECONDS", 60):
            yield Cluster(store=Store(out, plan.name), plan=replace(plan, nodes=nodes), cluster_id="0" * 16), members
    finally:
        for server in servers.values():
            server.stop()
