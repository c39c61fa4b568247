"""The calls that change a cluster: their requests to etcd, and the errors that mean that nothing is left to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grpc import StatusCode

from generator.etcd.answers import Alarm
from generator.etcd.client import NoAnswerError, RefusedError
from generator.etcd.maintenance_client import MaintenanceClient
from generator.etcd.messages import message, stem
from tests.unit.grpc_server import GrpcServer, Reply
from tests.unit.test_etcd import FILES, HEADER

CALLS: dict[str, tuple[Callable[[MaintenanceClient], object], dict[str, object]]] = {
    "Maintenance/MoveLeader": (lambda etcd: etcd.move_leader(2**64 - 1), {"targetID": 2**64 - 1}),
    "Maintenance/Defragment": (lambda etcd: etcd.defragment(9), {}),
    "Maintenance/Alarm": (
        lambda etcd: etcd.disarm(Alarm(member_id=7, kind="CORRUPT")), {"action": 2, "memberID": 7, "alarm": 2},
    ),
    "KV/Compact": (lambda etcd: etcd.compact(12, 9), {"revision": 12, "physical": True}),
    "Cluster/MemberRemove": (lambda etcd: etcd.remove_member(7), {"ID": 7}),
    "Auth/UserDelete": (lambda etcd: etcd.delete_user("etcd4"), {"name": "etcd4"}),
    "Auth/UserList": (lambda etcd: etcd.users(), {}),
}  # fmt: skip
DONE = {
    "KV/Compact": "etcdserver: mvcc: required revision has been compacted",
    "Cluster/MemberRemove": "etcdserver: member not found",
    "Auth/UserDelete": "etcdserver: user name not found",
}


def ask(call: str, reply: Reply) -> tuple[object, list[tuple[str, bytes]]]:
    """Make a call of CALLS. Return its result, and the requests that the server received."""
    asked: list[tuple[str, bytes]] = []

    def answer(path: str, question: bytes) -> Reply:
        asked.append((path, question))
        return reply

    server = GrpcServer(answer)
    try:
        with MaintenanceClient(f"http://127.0.0.1:{server.port}", FILES, timeout=(60, 60)) as etcd:
            return CALLS[call][0](etcd), asked
    finally:
        server.stop()


def good(call: str, **values: object) -> bytes:
    kind = message(f"{stem(call)}Response")
    header = {"header": HEADER} if "header" in kind.DESCRIPTOR.fields_by_name else {}
    return bytes(kind(**header, **values).SerializeToString())


@pytest.mark.parametrize("call", CALLS)
def test_a_request(call: str) -> None:
    request = message(f"{stem(call)}Request")(**CALLS[call][1]).SerializeToString()
    assert ask(call, good(call))[1] == [(f"/etcdserverpb.{call}", request)]


def test_users_are_names() -> None:
    assert ask("Auth/UserList", good("Auth/UserList", users=["root", "etcd1"]))[0] == ("root", "etcd1")


@pytest.mark.parametrize("call", CALLS)
def test_an_error_of_etcd_is_raised_unless_nothing_is_left_to_do(call: str) -> None:
    for cause in {*DONE.values(), "etcdserver: permission denied"}:
        refusal = (StatusCode.FAILED_PRECONDITION, cause)
        if DONE.get(call) == cause:
            assert ask(call, refusal)[0] is None
        else:
            with pytest.raises(RefusedError, match=cause):
                ask(call, refusal)


@pytest.mark.parametrize("call", sorted(set(CALLS) - {"Maintenance/MoveLeader", "Maintenance/Defragment"}))
def test_an_answer_without_a_header_is_not_from_etcd(call: str) -> None:
    with pytest.raises(NoAnswerError, match="not from etcd"):
        ask(call, b"")


def test_a_call_can_have_a_longer_time_limit_than_the_connection() -> None:
    """The client of a defragmentation waits longer than the client of a read."""
    import time

    def slow(*_: object) -> bytes:
        time.sleep(0.5)
        return b""

    server = GrpcServer(slow)
    with MaintenanceClient(f"http://127.0.0.1:{server.port}", FILES, timeout=(60, 0.1)) as etcd:
        etcd.defragment(60)
        with pytest.raises(NoAnswerError, match="no answer in time"):
            etcd.defragment(0.1)
        with pytest.raises(NoAnswerError, match="no answer in time"):
            etcd.move_leader(1)
    server.stop()
