"""bake: NoCloud ISOs that assemble themselves into a TLS-only etcd cluster."""

from datetime import UTC, datetime

__version__ = "0.1.0"
RELEASED = datetime(2026, 11, 23, tzinfo=UTC)  # bake refuses to run if the clock shows an earlier date
