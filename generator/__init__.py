"""bake builds NoCloud ISOs. VMs that boot with ISOs of bake form an etcd cluster that accepts only TLS."""

from datetime import UTC, datetime

__version__ = "0.1.0"
RELEASED = datetime(2026, 11, 23, tzinfo=UTC)  # bake refuses to run if the clock shows a date before RELEASED
