"""`bake plan`, `bake apply` and `bake replace`: change a running cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from generator.cli import engines
from generator.cli.common import (
    ca_passphrase,
    confirm,
    load,
    print_json,
    progress_of,
    reporter,
    show_changes,
    show_verification,
)
from generator.cli.local.suggestions import suggest_node
from generator.cli.options import hides, option, spec_options, up_options, yes_option
from generator.cli.output.table import print_table
from generator.cli.reach import reach
from generator.cli.root import bake

if TYPE_CHECKING:
    from generator.config.load import Loaded
    from generator.config.spec import ClusterSpec
    from generator.engine import Engine
    from generator.image.base import BootImage
    from generator.operations.baked_cluster import Cluster
    from generator.operations.running.change import Planned
    from generator.plan import ClusterPlan
    from generator.progress import Report
    from generator.store.folder import Store

Words = Callable[[Collection[str]], str]
CHANGES = 5  # the exit code of `bake plan --detailed-exitcode` if there is something to do; no error has this code


@bake.command()
@hides("--wait")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with code 0 if there is nothing to do, otherwise with 5.")
@spec_options
@up_options
@click.pass_context
def plan(ctx: click.Context, /, detailed_exitcode: bool, **options: Any) -> None:
    """Show what `bake apply` would do to a running cluster. Write nothing.

    The command compares the cluster's specification, its VMs and its members with the given options. For each step, the
    table shows what the step costs the node (live, restart, reboot or replace) and its effect on clients.

    With -o json the output has the keys changes, steps, obstacle and placement. Each step has the keys action (start,
    remove, update, replace or add), node, level, reason and effect. The key obstacle says why the first step is not
    safe now, or is null. The key placement has each node's host, if the cluster file has hosts.

    \b
    Examples:
      bake plan                         show what does not match the cluster's specification
      bake plan --nodes 5
      bake plan --config cluster.yaml --detailed-exitcode -o json
    """
    loaded, _, planned = _planned(options)
    if options["output"] == "json":
        print_json(
            changes=[change.data for change in planned.changes], steps=[step.data for step in planned.steps],
            obstacle=planned.first_obstacle, placement=_placement(loaded),
        )  # fmt: skip
    elif not options["quiet"]:
        _show(planned, loaded, options)
    if detailed_exitcode and not planned.is_empty:
        ctx.exit(CHANGES)


@bake.command()
@yes_option
@spec_options
@up_options
def apply(**options: Any) -> None:
    """Change a running cluster as given: its number of nodes, its options, its VMs.

    The command shows the plan and asks for confirmation. Then it changes one node after the other, and waits until each
    node is healthy before it goes on to the next. --wait limits the seconds of each step. After an interruption, run
    the command again without options to finish the change. (Run `bake upgrade` and `bake replace` again instead.)

    \b
    Examples:
      bake apply --nodes 5              add two nodes
      bake apply --nodes 3              remove the last two nodes
      bake apply --config cluster.yaml --yes
      bake apply                        finish an interrupted change, replace lost nodes
    """
    run_apply(options, lambda _left: "apply")


@bake.command()
@click.argument("replaced", metavar="NODE...", nargs=-1, required=True, shell_complete=suggest_node)
@option("--host", metavar="HOST", help="Create the new VMs on this host of `hosts`, or Incus member.")
@yes_option
@spec_options
@up_options
def replace(replaced: tuple[str, ...], host: str | None, **options: Any) -> None:
    """Give nodes new VMs and new disks. Each node joins the cluster again and gets its data from the other members.

    Use the command for a node whose disk is damaged. For a new image, use `bake upgrade`. If a node's VM or disk is
    missing, `bake apply` is enough.

    With --host, the nodes move to another host. A node's old host may be down. Then make sure that it is off, because
    two VMs with the same address must not run. When the old host is on again, its old VM must not start; `bake apply`
    removes it.

    \b
    Examples:
      bake replace etcd2
      bake replace etcd2 --host host3
      bake replace etcd2 etcd3 --yes
    """
    if host is not None:
        loaded = load({**options, "quiet": True})
        moved = _moved(options, loaded, replaced, host)
        options |= {"fields": moved, "based_on": loaded.digest, "reason": "--host"}

    def words(left: Collection[str]) -> str:
        names = [name for name in replaced if name in left]
        return " ".join(["replace", *names, *(["--host", host] if host else [])]) if names else "apply"

    run_apply(options, words, replaced=replaced)


def _moved(options: Mapping[str, Any], loaded: Loaded, moved: Collection[str], host: str) -> Mapping[str, Any]:
    """Return the fields with which nodes are on another host, and every other node keeps its host.

    A host of `hosts` that does not answer and loses a node is out of service from now on. With Incus, the other nodes
    stay where they are without a field.
    """
    from generator.config.fields import plain
    from generator.config.hosts import EngineKind
    from generator.config.placement import node_names
    from generator.errors import InputError

    spec, plan = loaded.spec, _plan(loaded.spec)
    names = node_names(spec)
    for name in moved:
        if name not in names:
            raise InputError.one("NODE", f"{name!r} is not a node", f"the nodes are {', '.join(names)}")
    is_incus = spec.engine is EngineKind.INCUS
    if is_incus:
        engines.require_member(options, spec, host)
    elif host not in [one.name for one in spec.hosts]:
        known = f"use one of {', '.join(one.name for one in spec.hosts)}" if spec.hosts else "add the field `hosts`"
        raise InputError.one("--host", f"the cluster file has no host {host!r}", known)
    given = [{"name": name} for name in names] if isinstance(spec.nodes, int) else [plain(one) for one in spec.nodes]
    homes = {node.name: host if node.name in moved else node.host or None for node in plan.nodes}
    nodes = [{**one, "host": homes[name]} for one, name in zip(given, names, strict=True)]
    if is_incus:
        return {"nodes": nodes}
    left = {node.host for node in plan.nodes if node.name in moved and node.host != host}
    down = engines.silent_hosts([one for one in spec.hosts if one.name in left])
    hosts = [{**plain(one), "offline": one.offline or one.name in down} for one in spec.hosts]
    return {"nodes": nodes, "hosts": hosts}


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """The image that all nodes shall have. `back`: whether from --to. `prepare`: called before the first step."""

    image: BootImage
    back: bool
    prepare: Callable[[Report], None]


def run_apply(
    options: Mapping[str, Any], words: Words, *, replaced: Collection[str] = (), upgrade: Upgrade | None = None,
    asks: bool = True,
) -> None:  # fmt: skip
    """Plan a change, ask for confirmation, apply the change, and verify the cluster.

    `words`: returns the words of the command that does the rest, given the nodes that are not replaced yet. `asks`: ask
    before every change. Otherwise, ask only if the change deletes something or affects clients.
    """
    from generator.errors import StaleError
    from generator.operations.baked_cluster import open_cluster
    from generator.operations.verify import verify_changed

    while True:
        loaded, store, planned = _planned(options, replaced, upgrade)
        _show(planned, loaded, options)
        if planned.first_obstacle:
            reporter(options)(f"the first step is not safe now: {planned.first_obstacle}")
        if (asks and not planned.is_empty) or planned.is_noticed:
            _agree(planned, options)
        try:
            with progress_of([node.name for node in _plan(loaded.spec).nodes], options) as progress:
                if upgrade and planned.steps:
                    upgrade.prepare(progress.line)
                taken = _apply(loaded, store, planned, options, words, replaced, upgrade, progress)
                result = verify_changed(open_cluster(store), report=progress.line)
            break
        except StaleError as error:
            if planned.steps:
                raise
            reporter(options)(f"{error.message}: starting over")
    steps = [step.data for step in taken]
    show_verification(result, options, changes=[change.data for change in planned.changes], steps=steps)


def _plan(spec: ClusterSpec) -> ClusterPlan:
    from generator.plan import plan_cluster

    return plan_cluster(spec)


def _placement(loaded: Loaded) -> dict[str, str]:
    """Return each node's host. Empty if the cluster file has no hosts."""
    return {node.name: node.host for node in _plan(loaded.spec).nodes if node.host}


def _apply(
    loaded: Loaded, store: Store, planned: Planned, options: Mapping[str, Any], words: Words,
    replaced: Collection[str], upgrade: Upgrade | None, progress: Any,
) -> Any:  # fmt: skip
    from generator.operations.bake import Agreed
    from generator.operations.hints import command
    from generator.operations.running.change import apply_change

    image, left, has_begun = upgrade.image if upgrade else None, set(replaced), False

    def again() -> str:
        return command(store, words(left), connect=options["connect"])

    def make_engine(cluster: Cluster) -> Engine:
        nonlocal has_begun
        has_begun = True  # the cluster's folder has the change, so the command need not repeat it
        return engines.make_engine(options, progress.line, cluster, image=image, remedy=again)

    agreed = Agreed(user_input=loaded.user_input, digest=loaded.digest, announce=lambda _differences: None)
    try:
        return apply_change(
            loaded, store, make_engine, planned, agreed,
            called=f"bake {words(replaced)}", again=again, wait=options["wait"],
            progress=progress, replaced=left, passphrase=ca_passphrase(options, loaded.spec, store),
            image=image.digest if image else "", back=bool(upgrade and upgrade.back),
        )  # fmt: skip
    except KeyboardInterrupt:
        click.echo(f"To go on, run {f'`{again()}`' if has_begun else 'the same command again'}.", err=True)
        raise


def _planned(
    options: Mapping[str, Any], replaced: Collection[str] = (), upgrade: Upgrade | None = None
) -> tuple[Loaded, Store, Planned]:
    from generator.operations.running.change import plan_change
    from generator.store.folder import Store

    loaded = load(options)
    store = Store(options["out"], loaded.spec.name)
    reach(options, *(_plan(spec) for spec in (loaded.existing and loaded.existing.spec, loaded.spec) if spec))
    planned = plan_change(
        loaded, store, partial(engines.make_engine, options, reporter(options)), now=datetime.now(UTC),
        passphrase=ca_passphrase(options, loaded.spec, store), replaced=replaced,
        image=upgrade.image.digest if upgrade else "", back=bool(upgrade and upgrade.back),
    )  # fmt: skip
    for warning in planned.warnings:
        reporter(options)(f"warning: {warning}; to get a new image, run bake upgrade --refresh")
    return loaded, store, planned


def _show(planned: Planned, loaded: Loaded, options: Mapping[str, Any]) -> None:
    if options["quiet"]:
        return
    show_changes(planned.changes, options, reporter(options))
    if planned.steps:
        if options["output"] == "text":
            hosts = _placement(loaded)
            more = {step.node: {"host": hosts.get(step.node, "")} if hosts else {} for step in planned.steps}
            print_table([{**step.row, **more[step.node]} for step in planned.steps])
    else:
        reporter(options)(f"{loaded.spec.name}: nothing to do")


def _agree(planned: Planned, options: Mapping[str, Any]) -> None:
    """Ask for confirmation. Without a terminal, --yes is needed."""
    from generator.change.spec_changes import losses
    from generator.errors import InputError

    lost = [*losses(planned.changes), *(f"{step.node}: {step.loses}" for step in planned.steps if step.loses)]
    if lost:
        confirm("Apply this change? It cannot be undone.", options, lost)
    elif not options["yes"] and not sys.stdin.isatty():
        text = "this changes a running cluster, and bake cannot ask for confirmation without a terminal"
        raise InputError.one("", text, "nothing was done; add --yes to confirm")
    else:
        confirm("Apply this change?", options, ())
