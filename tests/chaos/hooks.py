"""Rows about the hooks: stopped at each call that they make, and answered with each reply that etcdctl knows."""

from __future__ import annotations

import json
import time

from tests.chaos import shim
from tests.chaos.trial import Outcome, Row, Trial, lane_of
from tests.chaos.world import TrialError, World, shuffled

HOOKS = ("join", "promote")
CALLS = 60  # of one hook on one node: more means that it repeats itself for ever

_RETRY = (
    '{"level":"warn","ts":"2026-01-02T03:04:05.000Z","logger":"etcd-client","caller":"v3@v3.5.16/retry_interceptor.go:63",'
    '"msg":"retrying of unary invoker failed","target":"etcd-endpoints://0xc000/127.0.0.1:2379","attempt":0,"error":"%s"}'
)
_NO_TIME = "rpc error: code = DeadlineExceeded desc = %s"


def _etcd(text: str) -> str:
    return shim.fails_with(f"etcdserver: {text}")


def _client(cause: str) -> str:
    """A connection that never was: etcdctl only says that its time is over, and why in its log."""
    text = _NO_TIME % f'context deadline exceeded while waiting for connections to become ready: {cause}'
    return shim.fails_with("context deadline exceeded", log=_RETRY % text.replace('"', '\\"'))


def _tls(cause: str) -> str:
    return _client(f'connection error: desc = "transport: authentication handshake failed: {cause}"')


_STRANGER = {
    "ID": 81985529216486895, "name": "elsewhere", "peerURLs": ["https://127.0.0.9:2380"],
    "clientURLs": ["https://127.0.0.9:2379"],
}  # fmt: skip
_HEADER = {"cluster_id": 1311768467463790320, "member_id": _STRANGER["ID"], "raft_term": 2}

REPLIES = {
    "unhealthy": _etcd("unhealthy cluster"),
    "not-enough-started": _etcd("re-configuration failed due to not enough started members"),
    "too-many-learners": _etcd("too many learner members in cluster"),
    "id-exists": _etcd("member ID already exist"),
    "url-exists": _etcd("Peer URLs already exists"),
    "not-in-sync": _etcd("can only promote a learner member which is in sync with leader"),
    "not-a-learner": _etcd("can only promote a learner member"),
    "not-found": _etcd("member not found"),
    "for-voters-only": _etcd("rpc not supported for learner"),
    "timed-out-after-commit": shim.fails_after_all("etcdserver: request timed out"),
    "timed-out-before-commit": _etcd("request timed out"),
    "leader-changed": _etcd("leader changed"),
    "no-leader": _etcd("no leader"),
    "deadline": shim.fails_with(
        "context deadline exceeded", log=_RETRY % (_NO_TIME % "context deadline exceeded")
    ),
    "deadline-after-commit": shim.fails_after_all("context deadline exceeded"),
    "refused": _client('connection error: desc = "transport: Error while dialing: dial tcp: connection refused"'),
    "eof": _client('connection error: desc = "error reading server preface: EOF"'),
    "x509-not-yet-valid": _tls("x509: certificate has expired or is not yet valid: current time is before 2026-01-02"),
    "x509-expired": _tls("x509: certificate has expired or is not yet valid: current time is after 2026-01-02"),
    "x509-unknown-authority": _tls("x509: certificate signed by unknown authority"),
    "x509-wrong-address": _tls("x509: certificate is valid for 127.0.0.9, not 127.0.0.1"),
    "other-cluster": shim.says(
        f"{_STRANGER['ID']:x}, started, elsewhere, https://127.0.0.9:2380, https://127.0.0.9:2379, false",
        json.dumps({"header": _HEADER, "members": [_STRANGER]}),
    ),
    "empty": shim.NOTHING,
    "truncated": shim.HALF,
}
TARGETS = ((2, 1), (2, 0), (3, 2))  # nodes of the cluster, and which of them gets the reply


def crash_points(trial: Trial) -> Outcome:
    """Killed before its k-th call by SIGKILL of the hook, or after it by a power cut that lasts."""
    lane, call = lane_of(trial.number, LANES)
    number, hook, after = lane % 3, HOOKS[lane // 3 % 2], lane // 6 == 1
    return _stop_hook(trial, number, hook, call, shim.HANG_AFTER if after else shim.KILL)


def after_add(trial: Trial) -> Outcome:
    """Power cut of the second of two nodes once it is added, whichever number that call has on a busy machine."""
    return _stop_hook(trial, 1, "join", "add", shim.HANG_AFTER_ADD, nodes=2)


def _stop_hook(trial: Trial, number: int, hook: str, call: int | str, fault: str, *, nodes: int = 3) -> Outcome:
    world, after = trial.world(nodes), fault != shim.KILL
    node, desk = world.nodes[number], world.desks[f"etcd{number + 1}"]
    trial.label = f"etcd{number + 1}, {hook}, {'after' if after else 'before'} call {call}"
    desk.plant(hook, call, fault)
    world.start(shuffled(world.nodes, trial.rng))
    reached = _until_fired_or_whole(world, number)
    trial.label += f": {desk.call(hook, call)}"
    if reached and after:
        world.cut(node)
        if hook == "join" and number:
            _must_still_write(world)
        else:
            world.sleep(0.5)
        world.cluster.start([node])
    return Outcome(label=f"etcd{number + 1} {hook}", seconds=world.converge(), reached=reached)


LANES = 3 * len(HOOKS) * 2


def _until_fired_or_whole(world: World, number: int) -> bool:
    desk = world.desks[f"etcd{number + 1}"]
    try:
        # "Whole" is looked at seldom: it asks every node.
        checked = time.monotonic()

        def ended() -> bool:
            nonlocal checked
            if desk.fired:
                return True
            if time.monotonic() - checked < 0.5:
                return False
            checked = time.monotonic()
            return all(node.votes() for node in world.nodes) and not world.flaw()

        world.wait(ended, world.limit, "the call is made, or the cluster is whole without it", pause=0.02)
    except TrialError as failed:
        raise TrialError(f"{world.flaw()}: {failed}") from None
    return desk.fired


def _must_still_write(world: World) -> None:
    """A node that is stopped before its first start takes nobody's quorum."""
    if not world.writer.since(0):
        world.sleep(0.5)
        return
    moment = time.monotonic()
    why = "a write is acknowledged while a node that never started is off"
    world.wait(lambda: world.writer.since(moment), world.limit, why)


def replies(trial: Trial) -> Outcome:
    """The k-th call of a hook gets the reply, and sometimes the next one or two as well."""
    lane, call = lane_of(trial.number, REPLY_LANES)
    names = list(REPLIES)
    name = names[lane % len(names)]
    size, number = TARGETS[lane // len(names) % len(TARGETS)]
    hook = HOOKS[lane // len(names) // len(TARGETS)]
    # Two answers in a row from another cluster would be the truth.
    times = 1 if name == "other-cluster" else trial.rng.choice((1, 1, 3))
    world = trial.world(size)
    desk = world.desks[f"etcd{number + 1}"]
    trial.label = f"{name} to etcd{number + 1} of {size}, {hook}, call {call}" + f" to {call + times - 1}" * (times > 1)
    for later in range(times):
        desk.plant(hook, call + later, REPLIES[name])
    world.start(shuffled(world.nodes, trial.rng))
    reached = _until_fired_or_whole(world, number)
    trial.label += f": {desk.call(hook, call)}"
    return Outcome(label=name, seconds=world.converge(), reached=reached)


REPLY_LANES = len(REPLIES) * len(TARGETS) * len(HOOKS)

ROWS = {
    "crash-points": Row(
        what="a hook is killed before a call of etcdctl, or its node loses power after the call; every call on 3 nodes",
        goal="every trial converges; the other nodes can write while the node is off", trials=CALLS * LANES, gate=6,
        run=crash_points, lanes=LANES,
    ),
    "replies": Row(
        what=f"{len(REPLIES)} replies of etcdctl, errors and nonsense, answer each call that a hook makes",
        goal="every trial converges; never more members than planned, no data deleted", trials=CALLS * REPLY_LANES,
        gate=9, run=replies, lanes=REPLY_LANES,
    ),
}  # fmt: skip
