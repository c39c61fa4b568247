"""The part of etcd's API that bake speaks: its calls and their messages, as etcd 3.5 and 3.6 have them in rpc.proto."""

from __future__ import annotations

from generator.host.protobuf import Field, Kind, Message

S, U, FLAG, TEXT, BYTES = Kind.SIGNED, Kind.UNSIGNED, Kind.FLAG, Kind.TEXT, Kind.BYTES

_HEADER = {"cluster_id": Field(1, U), "member_id": Field(2, U), "revision": Field(3, S), "raft_term": Field(4, U)}
_KEY_VALUE = {"key": Field(1, BYTES), "value": Field(5, BYTES)}
_MEMBER = {
    "ID": Field(1, U), "name": Field(2, TEXT), "peerURLs": Field(3, TEXT, True), "clientURLs": Field(4, TEXT, True),
    "isLearner": Field(5, FLAG),
}  # fmt: skip
_STATUS = {
    "version": Field(2, TEXT), "dbSize": Field(3, S), "leader": Field(4, U), "raftIndex": Field(5, U),
    "raftTerm": Field(6, U), "errors": Field(8, TEXT, True), "isLearner": Field(10, FLAG),
}  # fmt: skip
_RANGE = {
    "key": Field(1, BYTES), "range_end": Field(2, BYTES), "limit": Field(3, S), "keys_only": Field(8, FLAG),
}  # fmt: skip


def _answer(**fields: Field) -> Message:
    """Every answer begins with a header."""
    return {"header": Field(1, _HEADER), **fields}


# Call → the messages of its question and of its answer.
CALLS: dict[str, tuple[Message, Message]] = {
    "Auth/AuthStatus": ({}, _answer(enabled=Field(2, FLAG))),
    "KV/Range": (_RANGE, _answer(kvs=Field(2, _KEY_VALUE, True), count=Field(4, S))),
    "KV/Put": ({"key": Field(1, BYTES), "value": Field(2, BYTES), "lease": Field(3, S)}, _answer()),
    "KV/DeleteRange": ({"key": Field(1, BYTES), "range_end": Field(2, BYTES)}, _answer(deleted=Field(2, S))),
    "Lease/LeaseGrant": ({"TTL": Field(1, S)}, _answer(ID=Field(2, S))),
    "Lease/LeaseRevoke": ({"ID": Field(1, S)}, _answer()),
    "Cluster/MemberList": ({"linearizable": Field(1, FLAG)}, _answer(members=Field(2, _MEMBER, True))),
    "Maintenance/Status": ({}, _answer(**_STATUS)),
    "Maintenance/Alarm": (
        {"action": Field(1, U)},  # 0: GET
        _answer(alarms=Field(2, {"memberID": Field(1, U), "alarm": Field(2, U)}, True)),
    ),
    "Maintenance/HashKV": ({"revision": Field(1, S)}, _answer(hash=Field(2, U), compact_revision=Field(3, S))),
}
ALARMS = ("NONE", "NOSPACE", "CORRUPT")
