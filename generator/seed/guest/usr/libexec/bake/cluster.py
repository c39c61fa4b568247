"""Query and change the cluster with etcdctl. Each call of etcdctl gets one endpoint and a short timeout."""

from __future__ import annotations

import base64
import json
import re
import subprocess

from join_decision import Member, parse_members
from node import Settings, accepting

RECORDS = "bake/members/"  # prefix of etcd keys; a node's key has its member id, or `replacing`

# Use JSON only if the output is parsed: with `-w json`, etcdctl 3.5 panics after it has promoted a member.
JSON = ("-w", "json")


class RefusedError(Exception):
    """etcd refused the request or did not answer. The exception's message is the cause that etcdctl printed."""


class Cluster:
    """An etcd client that runs etcdctl. Environment variables (ETCDCTL_*) name the certificates."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.last_endpoint = ""  # the endpoint that answered last

    def ctl(self, *words: str, endpoint: str = "", limit: float = 20) -> str:
        """Run etcdctl for at most `limit` seconds, and return its stdout. Raises RefusedError."""
        where = f"--endpoints={endpoint or self.last_endpoint}"
        command = [self.settings.etcdctl, where, "--dial-timeout=2s", "--command-timeout=5s", *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RefusedError(str(error)) from None
        if done.returncode:
            raise RefusedError(complaint(done.stderr))
        return done.stdout

    def members(self, endpoints: list[str]) -> list[Member]:
        """Return the member list from the first endpoint that answers. Raises RefusedError if none answers.

        A learner refuses to list members ("rpc not supported for learner"). A member without a quorum does not answer.
        """
        last = RefusedError("no member answers")
        for self.last_endpoint in endpoints:
            try:
                return parse_members(self.ctl("member", "list", *JSON))
            except RefusedError as error:
                last = error
            except ValueError as error:
                last = RefusedError(str(error))
        raise last

    def add(self, *, as_learner: bool) -> list[Member]:
        """Add this node and return the new member list.

        Raises RefusedError. Even then, the node may have been added: the caller must read the member list again.
        """
        me = self.settings.me
        learner = f"--learner={str(as_learner).lower()}"
        try:
            return parse_members(self.ctl("member", "add", me.name, f"--peer-urls={me.peer_url}", learner, *JSON))
        except ValueError as error:
            raise RefusedError(str(error)) from None

    def remove(self, member: Member) -> None:
        self._do("removed from cluster", "member", "remove", member.id)

    def promote(self, member: Member, members: list[Member]) -> None:
        """Promote a learner through the leader.

        With auth on, another voter cannot promote it: it forwards the request without a user ("user name is empty").
        """
        if sum(not each.is_learner for each in members) > 1:
            self.last_endpoint = self._leader(members) or self.last_endpoint
        self._do("promoted in cluster", "member", "promote", member.id)

    def _leader(self, members: list[Member]) -> str | None:
        """Return the leader's client URL, or None if it is not known."""
        try:
            number = f"{json.loads(self.ctl('endpoint', 'status', *JSON))[0]['Status']['leader']:x}"
        except (RefusedError, ValueError, LookupError, TypeError):
            return None
        return next((url for each in members if each.id == number for url in each.client_urls[:1]), None)

    def _do(self, proof: str, *words: str) -> None:
        """Run etcdctl. Raise RefusedError if its output lacks `proof`, because exit code 0 does not prove success."""
        if proof not in self.ctl(*words):
            raise RefusedError(f"etcdctl did not print {proof!r}")

    def recorded_id(self) -> str | None:
        """Return what is recorded in etcd for this node: a member id, `replacing`, or None. Raises RefusedError."""
        try:
            entries = json.loads(self.ctl("get", RECORDS + self.settings.me.name, *JSON)).get("kvs", [])
            return base64.b64decode(entries[0]["value"]).decode() if entries else None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RefusedError(f"not a key: {error}") from None

    def record(self, text: str) -> None:
        """Record a member id or `replacing` for this node in etcd. Raises RefusedError."""
        self._do("OK", "put", RECORDS + self.settings.me.name, text)

    def healthy(self, members: list[Member]) -> int:
        """Return the number of members that answer a linearizable read."""
        return sum(self._is_healthy(member) for member in members)

    def _is_healthy(self, member: Member) -> bool:
        for url in accepting(list(member.client_urls)):
            try:
                self.ctl("endpoint", "health", endpoint=url)
            except RefusedError:
                continue
            return True
        return False


def complaint(stderr: str) -> str:
    """Return the cause of an error from etcdctl's stderr.

    It is in a log line with `desc = `, else in the first line.
    """
    lines = stderr.strip().splitlines() or ["etcdctl failed"]
    text = next((line for line in lines if "desc = " in line), lines[0])
    return re.sub(r'.*desc = |^Error: |["\\}]+$', "", text)
