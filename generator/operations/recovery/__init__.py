"""Restore a cluster from a snapshot of its data, and its folder from a backup."""
