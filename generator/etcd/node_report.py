"""What a node says of itself for `bake audit`: the key `bake/audit/<node>`, written there by etcd-audit on the node.

A node may be anybody's by now, so nothing in it is trusted to have a shape, a size, or printable characters only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from generator.etcd.answers import Keys, NodeReport, Owned, Told
from generator.etcd.observe import first_told
from generator.etcd.tls_probe import ClientFiles
from generator.plan import NodePlan

PREFIX = b"bake/audit/"
FORMAT = 1
# A node reports every ten minutes (etcd-audit.timer). Its clock and ours may differ by as much again.
MAX_AGE = timedelta(minutes=30)
LIMIT = 1 << 16  # bytes of a report; a real one is 2 KiB






def fetch_reports(nodes: Iterable[NodePlan], files: ClientFiles) -> Told[Keys]:
    """Every node's report, from the first node that can tell."""
    return first_told(nodes, files, lambda etcd: etcd.get(PREFIX, prefix=True, limit=100))


def parse_report(data: bytes, node: str) -> NodeReport:
    """Raises ValueError, with what is wrong, for anything that is not a report of this node's running etcd."""
    if len(data) > LIMIT:
        raise ValueError("its report is too long")
    try:
        said = json.loads(data)
        if said["format"] != FORMAT or said["node"] != node:
            raise ValueError
        report = _read(said | {"process": said.get("process") or {"user": "", "options": {}}})
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
        raise ValueError("its report cannot be read") from None
    if not report.user:
        raise ValueError("its report found no etcd running")
    return report


def find_report(node: str, reports: Told[Keys], *, now: datetime) -> tuple[NodeReport | None, str]:
    """A node's report, or why there is none that counts."""
    if reports.value is None:
        return None, f"no report can be read: {reports.error}"
    found = next((item for item in reports.value.items if item.key == PREFIX + node.encode()), None)
    if found is None:
        return None, "has not reported"
    try:
        said = parse_report(found.value, node)
    except ValueError as error:
        return None, str(error)
    if abs(now - said.time) > MAX_AGE:
        return None, f"its last report says {said.time:%Y-%m-%d %H:%M} UTC, and now it is {now:%H:%M}"
    return said, ""


def _read(said: Mapping[str, Any]) -> NodeReport:
    files = {
        _text(path): Owned(mode=int(one["mode"], 8), owner=_text(one["owner"]), group=_text(one["group"]))
        for path, one in said["files"].items()
    }
    return NodeReport(
        time=datetime.fromtimestamp(said["time"], UTC),
        user=_text(said["process"]["user"]),
        options={_text(name): _text(value) for name, value in said["process"]["options"].items()},
        files=files,
        certificates={
            _text(name): tuple(map(_text, digests)) for name, digests in said["certificates"].items()
        },
    )


def _text(value: str) -> str:
    """Fit for a terminal."""
    return re.sub(r"[^\x20-\x7e]", "?", value)[:200]
