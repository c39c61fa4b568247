"""Parts that the OpenTofu targets share. OpenTofu reads a file `*.tf.json`, in which every string is a template."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from generator.artifact import Artifact
from generator.plan import NodePlan

FILE = PurePosixPath("main.tf.json")
# OpenTofu creates and deletes VMs, and never changes one. The provider for libvirt stops a VM to change it, and
# OpenTofu changes several VMs at once, which would cost the cluster its quorum.
NEVER_CHANGE = {"ignore_changes": "all"}


def literal(text: str) -> str:
    """Return a string whose value as a template is `text`."""
    return text.replace("${", "$${").replace("%{", "%%{")


def label(node: NodePlan, kind: str = "node") -> str:
    """Return a resource's name. It begins with a letter, and has no character that OpenTofu does not allow."""
    return f"{kind}_{node.name.replace('-', '_')}"


def terraform(provider: str, source: str, version: str) -> dict[str, Any]:
    """Return the block `terraform`. OpenTofu has the same name for this block as Terraform."""
    return {"required_version": ">= 1.6", "required_providers": {provider: {"source": source, "version": version}}}


def document(**blocks: Any) -> tuple[Artifact, ...]:
    """Return the file. It contains no secret, only the paths of the ISOs."""
    return (Artifact(FILE, (json.dumps(blocks, indent=2) + "\n").encode()),)
