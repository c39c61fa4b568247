"""The messages of etcd's gRPC API that bake uses, from rpc.proto of etcd 3.5 and 3.6.

Each message has only the fields that bake needs. Later versions of etcd understand the messages, because the number of
a field never changes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

__all__ = ["PACKAGE", "DecodeError", "message", "stem"]

PACKAGE = "etcdserverpb"
# Format: message → field of the message → (field number, type).
# A type is a message or a scalar type; a star marks a repeated field.
MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ResponseHeader": {
        "cluster_id": (1, "uint64"), "member_id": (2, "uint64"), "revision": (3, "int64"), "raft_term": (4, "uint64"),
    },
    "KeyValue": {"key": (1, "bytes"), "value": (5, "bytes")},
    "Member": {
        "ID": (1, "uint64"), "name": (2, "string"), "peerURLs": (3, "string*"), "clientURLs": (4, "string*"),
        "isLearner": (5, "bool"),
    },
    "AlarmMember": {"memberID": (1, "uint64"), "alarm": (2, "uint32")},
    "AuthStatusRequest": {},
    "AuthStatusResponse": {"header": (1, "ResponseHeader"), "enabled": (2, "bool")},
    "RangeRequest": {"key": (1, "bytes"), "range_end": (2, "bytes"), "limit": (3, "int64"), "keys_only": (8, "bool")},
    "RangeResponse": {"header": (1, "ResponseHeader"), "kvs": (2, "KeyValue*"), "count": (4, "int64")},
    "PutRequest": {"key": (1, "bytes"), "value": (2, "bytes"), "lease": (3, "int64")},
    "PutResponse": {"header": (1, "ResponseHeader")},
    "DeleteRangeRequest": {"key": (1, "bytes"), "range_end": (2, "bytes")},
    "DeleteRangeResponse": {"header": (1, "ResponseHeader"), "deleted": (2, "int64")},
    "LeaseGrantRequest": {"TTL": (1, "int64")},
    "LeaseGrantResponse": {"header": (1, "ResponseHeader"), "ID": (2, "int64")},
    "LeaseRevokeRequest": {"ID": (1, "int64")},
    "LeaseRevokeResponse": {"header": (1, "ResponseHeader")},
    "MemberListRequest": {"linearizable": (1, "bool")},
    "MemberListResponse": {"header": (1, "ResponseHeader"), "members": (2, "Member*")},
    "StatusRequest": {},
    "StatusResponse": {
        "header": (1, "ResponseHeader"), "version": (2, "string"), "dbSize": (3, "int64"), "leader": (4, "uint64"),
        "raftIndex": (5, "uint64"), "raftTerm": (6, "uint64"), "errors": (8, "string*"), "dbSizeInUse": (9, "int64"),
        "isLearner": (10, "bool"), "dbSizeQuota": (12, "int64"),  # dbSizeQuota since etcd 3.6
    },
    # Action 0 (GET) lists the alarms, action 2 (DEACTIVATE) clears an alarm.
    "AlarmRequest": {"action": (1, "uint32"), "memberID": (2, "uint64"), "alarm": (3, "uint32")},
    "AlarmResponse": {"header": (1, "ResponseHeader"), "alarms": (2, "AlarmMember*")},
    "HashKVRequest": {"revision": (1, "int64")},
    "HashKVResponse": {"header": (1, "ResponseHeader"), "hash": (2, "uint32"), "compact_revision": (3, "int64")},
    # etcd answers Defragment, MoveLeader and Snapshot without a header (server/etcdserver/api/v3rpc/maintenance.go).
    "DefragmentRequest": {},
    "DefragmentResponse": {},
    "MoveLeaderRequest": {"targetID": (1, "uint64")},
    "MoveLeaderResponse": {},
    "SnapshotRequest": {},
    "SnapshotResponse": {"remaining_bytes": (2, "uint64"), "blob": (3, "bytes")},
    "CompactionRequest": {"revision": (1, "int64"), "physical": (2, "bool")},
    "CompactionResponse": {"header": (1, "ResponseHeader")},
    "MemberRemoveRequest": {"ID": (1, "uint64")},
    "MemberRemoveResponse": {"header": (1, "ResponseHeader"), "members": (2, "Member*")},
    "AuthUserListRequest": {},
    "AuthUserListResponse": {"header": (1, "ResponseHeader"), "users": (2, "string*")},
    "AuthUserDeleteRequest": {"name": (1, "string")},
    "AuthUserDeleteResponse": {"header": (1, "ResponseHeader")},
}  # fmt: skip


def stem(call: str) -> str:
    """Return the name of a call's messages without `Request` and `Response`, such as `AuthUserList`."""
    service, _, verb = call.partition("/")
    if service == "Auth" and not verb.startswith("Auth"):
        return f"Auth{verb}"
    return "Compaction" if verb == "Compact" else verb


@cache
def message(name: str) -> Any:
    """Return the Python class of an etcd message, such as `PutRequest`."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"{PACKAGE}.{name}"))


@cache
def _pool() -> Any:
    file = FileDescriptorProto(name="rpc.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        described = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            many, kind = kind.endswith("*"), kind.rstrip("*")
            label = FieldDescriptorProto.LABEL_REPEATED if many else FieldDescriptorProto.LABEL_OPTIONAL
            added = described.field.add(name=field, number=number, label=label)
            if kind in MESSAGES:
                added.type, added.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                added.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool
