"""Read the nodes' audit reports for `bake audit`. Each node writes its report to the key `bake/audit/<node>`.

A node may be compromised, so this module validates the structure, size and characters of every report.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from generator.etcd.answers import Answer, FilePermissions, Keys, NodeReport
from generator.etcd.observe import first_answer
from generator.etcd.tls_probe import ClientFiles
from generator.plan import NodePlan

PREFIX = b"bake/audit/"
FORMAT = 1
# A node writes a report every ten minutes (etcd-audit.timer).
MAX_AGE = timedelta(minutes=30)  # longer than ten minutes, because a node's clock may be slow
LIMIT = 1 << 16  # maximum size of a report in bytes; a typical report has 2 KiB


def fetch_reports(nodes: Iterable[NodePlan], files: ClientFiles) -> Answer[Keys]:
    """Read all nodes' reports from the first node that answers."""
    return first_answer(nodes, files, lambda etcd: etcd.get(PREFIX, prefix=True, limit=100))


def parse_report(data: bytes, node: str) -> NodeReport:
    """Parse a node's report. Raise ValueError if the report is invalid or says that etcd was not running."""
    if len(data) > LIMIT:
        raise ValueError("its report is too long")
    try:
        fields = json.loads(data)
        if fields["format"] != FORMAT or fields["node"] != node:
            raise ValueError
        report = _read(fields | {"process": fields.get("process") or {"user": "", "options": {}}})
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
        raise ValueError("its report cannot be read") from None
    if not report.user:
        raise ValueError("etcd was not running at the time of its last report")
    return report


def find_report(node: str, reports: Answer[Keys], *, now: datetime) -> tuple[NodeReport | None, str]:
    """Return a node's report, or None and the reason why there is no current report."""
    if reports.value is None:
        return None, f"could not read the reports: {reports.error}"
    found = next((item for item in reports.value.items if item.key == PREFIX + node.encode()), None)
    if found is None:
        return None, "has not reported"
    try:
        report = parse_report(found.value, node)
    except ValueError as error:
        return None, str(error)
    if abs(now - report.time) > MAX_AGE:
        return None, f"its last report is from {report.time:%Y-%m-%d %H:%M} UTC, but the current time is {now:%H:%M}"
    return report, ""


def _read(fields: Mapping[str, Any]) -> NodeReport:
    files = {
        _text(path): FilePermissions(mode=int(one["mode"], 8), owner=_text(one["owner"]), group=_text(one["group"]))
        for path, one in fields["files"].items()
    }
    return NodeReport(
        time=datetime.fromtimestamp(fields["time"], UTC),
        user=_text(fields["process"]["user"]),
        options={_text(name): _text(value) for name, value in fields["process"]["options"].items()},
        files=files,
        certificates={
            _text(name): tuple(map(_text, digests)) for name, digests in fields["certificates"].items()
        },
        seed=_seed(fields.get("seed", ""), fields["node"]),
    )


def _seed(value: str, node: str) -> str:
    """Return the instance-id of a seed of the node, or "". Raise ValueError for any other value."""
    if value != "" and not re.fullmatch(rf"{re.escape(node)}-[0-9a-f]{{16}}", value):
        raise ValueError
    return value


def _text(value: str) -> str:
    """Replace characters that are not printable ASCII, and cut the text to 200 characters."""
    return re.sub(r"[^\x20-\x7e]", "?", value)[:200]
