"""`bake etcdctl`: run etcdctl for a cluster."""

from __future__ import annotations

import os
from typing import Any

import click

from generator.cli.common import image_cache
from generator.cli.options import cluster_options
from generator.cli.reach import open_running, refuse_silent
from generator.cli.root import bake


@bake.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@cluster_options
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def etcdctl(ctx: click.Context, /, words: tuple[str, ...], **options: Any) -> None:
    """Run etcdctl with the cluster's endpoints and the operator's certificate.

    The program comes from bake's base image, so this machine needs no etcdctl. Give options of bake before the first
    word of etcdctl's command. The exit code is etcdctl's, or 3 if etcdctl fails and the cluster has no VMs.

    For a shell or a script with its own etcdctl, the file etcdctl.env in the cluster's folder has the same settings.

    \b
    Examples:
      bake etcdctl member list -w table
      bake etcdctl endpoint status --cluster -w table
      bake etcdctl put greeting hello
      bake etcdctl --name prod get --prefix /registry --keys-only
    """
    from generator.operations.inside.etcdctl import run_etcdctl

    cluster = open_running(options)
    code = run_etcdctl(cluster, words, cache=image_cache(options), environment=os.environ)
    if code and not any(word.partition("=")[0] == "--endpoints" for word in words):
        refuse_silent(options, cluster)
    ctx.exit(code)
