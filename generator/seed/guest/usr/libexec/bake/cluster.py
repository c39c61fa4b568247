"""The cluster as its members tell it: every question goes to one endpoint at a time, with a short timeout."""

from __future__ import annotations

import base64
import json
import re
import subprocess

from membership import Member, parse_members
from node import Settings, accepting

NOTES = "bake/members/"  # the cluster's memory of its voters: NOTES + name: member id, or `replacing`

# Only where there is something to read: etcdctl 3.5 has no JSON for a promotion and panics after a successful one.
JSON = ("-w", "json")


class RefusedError(Exception):
    """etcd said no, or nothing: in its words."""


class Cluster:
    """Asks etcdctl; its certificates are in ETCDCTL_*."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.informant = ""  # who answered last

    def ctl(self, *words: str, endpoint: str = "") -> str:
        """stdout. Raises RefusedError."""
        where = f"--endpoints={endpoint or self.informant}"
        command = [self.settings.etcdctl, where, "--dial-timeout=2s", "--command-timeout=5s", *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RefusedError(str(error)) from None
        if done.returncode:
            raise RefusedError(complaint(done.stderr))
        return done.stdout

    def members(self, endpoints: list[str]) -> list[Member]:
        """The list, from the first that has it. Raises RefusedError with what the last one said.

        A learner says "rpc not supported for learner", a member without quorum says nothing: then the next one.
        """
        last = RefusedError("no member answers")
        for self.informant in endpoints:
            try:
                return parse_members(self.ctl("member", "list", *JSON))
            except RefusedError as error:
                last = error
            except ValueError as error:
                last = RefusedError(str(error))
        raise last

    def add(self, *, as_learner: bool) -> list[Member]:
        """Adds this node; returns the list with it. Raises RefusedError; then the list says what really happened."""
        me = self.settings.me
        learner = f"--learner={str(as_learner).lower()}"
        try:
            return parse_members(self.ctl("member", "add", me.name, f"--peer-urls={me.peer_url}", learner, *JSON))
        except ValueError as error:
            raise RefusedError(str(error)) from None

    def remove(self, member: Member) -> None:
        self._do("removed from cluster", "member", "remove", member.id)

    def promote(self, member: Member, members: list[Member]) -> None:
        """Asks the leader: with auth on, what another voter passes on to it bears no name ("user name is empty")."""
        self.informant = self._leader(members) or self.informant
        self._do("promoted in cluster", "member", "promote", member.id)

    def _leader(self, members: list[Member]) -> str | None:
        """The leader's client URL, if the one that answered last knows it."""
        try:
            number = f"{json.loads(self.ctl('endpoint', 'status', *JSON))[0]['Status']['leader']:x}"
        except (RefusedError, ValueError, LookupError, TypeError):
            return None
        return next((url for each in members if each.id == number for url in each.client_urls[:1]), None)

    def _do(self, proof: str, *words: str) -> None:
        """An exit code of 0 is not enough: what was done, etcdctl says. Raises RefusedError."""
        if proof not in self.ctl(*words):
            raise RefusedError(f"etcdctl does not say {proof!r}")

    def note(self) -> str | None:
        """What the cluster remembers of this node; None if nothing. Raises RefusedError."""
        try:
            entries = json.loads(self.ctl("get", NOTES + self.settings.me.name, *JSON)).get("kvs", [])
            return base64.b64decode(entries[0]["value"]).decode() if entries else None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RefusedError(f"not a key: {error}") from None

    def take_note(self, text: str) -> None:
        """Makes the cluster remember. Raises RefusedError."""
        self._do("OK", "put", NOTES + self.settings.me.name, text)

    def healthy(self, members: list[Member]) -> int:
        """How many of them answer a read that needs a quorum, right now."""
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
    """What etcdctl complained about, without the wrapping: the log line that has the cause, else the first line."""
    lines = stderr.strip().splitlines() or ["etcdctl failed"]
    text = next((line for line in lines if "desc = " in line), lines[0])
    return re.sub(r'.*desc = |^Error: |["\\}]+$', "", text)
