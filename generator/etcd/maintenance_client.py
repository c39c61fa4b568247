"""The calls of etcd's gRPC API that change a running cluster, and the call that returns a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from generator.etcd.answers import ALARMS, Alarm
from generator.etcd.client import Etcd, RefusedError

_DEACTIVATE = 2
_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
SNAPSHOT_DIGEST = 32  # a snapshot ends with the SHA-256 of the database


class MaintenanceClient(Etcd):
    """A client for one endpoint, with the calls that change a cluster. Not thread-safe."""

    def move_leader(self, member_id: int) -> None:
        """Make a voter the leader. Only the leader accepts the call, and waits until the voter leads."""
        self._call("Maintenance/MoveLeader", header=False, targetID=member_id)

    def remove_member(self, member_id: int) -> None:
        """Remove a member from the cluster. If no member has the id, do nothing."""
        with _ignored("etcdserver: member not found"):
            self._call("Cluster/MemberRemove", ID=member_id)

    def users(self) -> tuple[str, ...]:
        """Return the names of etcd's users."""
        return tuple(self._call("Auth/UserList").users)

    def delete_user(self, name: str) -> None:
        """Delete a user. If no user has the name, do nothing."""
        with _ignored("etcdserver: user name not found"):
            self._call("Auth/UserDelete", name=name)

    def defragment(self, seconds: float) -> None:
        """Rewrite this member's database without free pages. The member serves no request meanwhile.

        `seconds`: how long to wait. etcd completes the defragmentation even if the client no longer waits.
        """
        self._call("Maintenance/Defragment", header=False, seconds=seconds)

    def compact(self, revision: int, seconds: float) -> None:
        """Delete the history before a revision, and wait until this member has deleted it from its database.

        `seconds`: how long to wait. If the history is already deleted, only wait.
        """
        with _ignored(_COMPACTED):
            self._call("KV/Compact", seconds=seconds, revision=revision, physical=True)

    def disarm(self, alarm: Alarm) -> None:
        """Clear an alarm."""
        kind = ALARMS.index(alarm.kind)
        self._call("Maintenance/Alarm", action=_DEACTIVATE, memberID=alarm.member_id, alarm=kind)

    def snapshot(self) -> Iterator[tuple[bytes, int]]:
        """Yield the parts of a snapshot, each with the number of bytes of the database that follow it.

        The parts are this member's database and the SHA-256 of the database. This call does not verify the digest.
        """
        for message in self._stream("Maintenance/Snapshot"):
            yield message.blob, message.remaining_bytes


@contextmanager
def _ignored(*causes: str) -> Iterator[None]:
    """Ignore a RefusedError with one of the causes."""
    try:
        yield
    except RefusedError as error:
        if error.cause not in causes:
            raise
