"""bake: NoCloud ISOs that assemble themselves into a TLS-only etcd cluster."""

__version__ = "0.1.0"
