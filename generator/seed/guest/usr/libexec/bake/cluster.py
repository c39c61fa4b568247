"""Query the cluster through etcdctl: one endpoint at a time, with a short timeout."""

from __future__ import annotations

import base64
import json
import re
import subprocess

from membership import Member, parse_members
from node import Settings, accepting

NOTES = "bake/members/"  # etcd keys that record the voters: NOTES + name = member id, or `replacing`

# Only for commands whose output is parsed: etcdctl 3.5 has no JSON for a promotion and panics after a successful one.
JSON = ("-w", "json")


class RefusedError(Exception):
    """etcd refused the request or did not answer. The message is etcd's own."""


class Cluster:
    """An etcdctl client; its certificates are in ETCDCTL_*."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.last_endpoint = ""  # the endpoint that answered last

    def ctl(self, *words: str, endpoint: str = "") -> str:
        """Run etcdctl and return its stdout. Raises RefusedError."""
        where = f"--endpoints={endpoint or self.last_endpoint}"
        command = [self.settings.etcdctl, where, "--dial-timeout=2s", "--command-timeout=5s", *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RefusedError(str(error)) from None
        if done.returncode:
            raise RefusedError(complaint(done.stderr))
        return done.stdout

    def members(self, endpoints: list[str]) -> list[Member]:
        """Return the member list from the first endpoint that has it. Raises RefusedError with the last refusal.

        A learner refuses ("rpc not supported for learner") and a member without quorum does not answer; then the next
        endpoint is tried.
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
        """Add this node and return the new member list. After a RefusedError, only the member list shows the result."""
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

        With auth on, a request that another voter forwards to the leader loses its user ("user name is empty").
        """
        self.last_endpoint = self._leader(members) or self.last_endpoint
        self._do("promoted in cluster", "member", "promote", member.id)

    def _leader(self, members: list[Member]) -> str | None:
        """Return the leader's client URL, or None if the last endpoint does not know it."""
        try:
            number = f"{json.loads(self.ctl('endpoint', 'status', *JSON))[0]['Status']['leader']:x}"
        except (RefusedError, ValueError, LookupError, TypeError):
            return None
        return next((url for each in members if each.id == number for url in each.client_urls[:1]), None)

    def _do(self, proof: str, *words: str) -> None:
        """Run etcdctl and require `proof` in its output: exit code 0 is not enough. Raises RefusedError."""
        if proof not in self.ctl(*words):
            raise RefusedError(f"etcdctl did not print {proof!r}")

    def recorded_id(self) -> str | None:
        """Return what is recorded of this node: its member id, `replacing`, or None. Raises RefusedError."""
        try:
            entries = json.loads(self.ctl("get", NOTES + self.settings.me.name, *JSON)).get("kvs", [])
            return base64.b64decode(entries[0]["value"]).decode() if entries else None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RefusedError(f"not a key: {error}") from None

    def record(self, text: str) -> None:
        """Record a member id, or `replacing`, for this node. Raises RefusedError."""
        self._do("OK", "put", NOTES + self.settings.me.name, text)

    def healthy(self, members: list[Member]) -> int:
        """Return how many of the members answer a linearizable read now."""
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
    """Return etcdctl's error without its wrapping: the log line with the cause, else the first line."""
    lines = stderr.strip().splitlines() or ["etcdctl failed"]
    text = next((line for line in lines if "desc = " in line), lines[0])
    return re.sub(r'.*desc = |^Error: |["\\}]+$', "", text)
