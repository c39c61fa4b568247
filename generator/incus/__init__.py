"""Manage a cluster's nodes as containers of an Incus server or cluster, through its REST API."""

from generator.incus.client import Incus, connect
from generator.incus.engine import IncusEngine
from generator.incus.members import find_member, require_section
from generator.incus.owned import IncusHosts
from generator.incus.remote import find_remote

__all__ = ["Incus", "IncusEngine", "IncusHosts", "connect", "find_member", "find_remote", "require_section"]
