"""Asking running members: the gRPC client, TLS probes, and what nodes report."""
