"""Maintain a running cluster: take snapshots, defragment databases, clear alarms, move the leader."""
