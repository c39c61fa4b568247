"""bake: NoCloud ISOs that assemble themselves into a TLS-only etcd cluster."""

from datetime import UTC, datetime

__version__ = "0.1.0"
RELEASED = datetime(2026, 11, 23, tzinfo=UTC)  # no right clock is before it; a test holds it against the last commit
