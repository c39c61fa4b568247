"""Plan and apply a change of a running cluster: what `bake plan`, `bake apply` and `bake replace` do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from generator.change.gate import obstacle
from generator.change.observed import Observed
from generator.change.planner import plan_steps
from generator.change.spec_changes import Change, compare, refused, with_older_etcd
from generator.change.steps import Effect, Step
from generator.config.load import Loaded
from generator.engine import Engine, MachineStatus
from generator.errors import InputError
from generator.image.age import old_images
from generator.layout import SEALED
from generator.operations.bake import Agreed, bake
from generator.operations.baked_cluster import Cluster, open_cluster
from generator.operations.hints import command
from generator.operations.running.applied_seeds import applied_seeds
from generator.operations.running.apply import Apply
from generator.operations.running.chosen_image import choose_image
from generator.operations.running.observing import observe
from generator.operations.running.preview import preview
from generator.plan import plan_cluster
from generator.progress import Progress
from generator.store.folder import Store
from generator.store.operation_lock import operation_lock

_NO_VMS = "the cluster is sealed and cannot be started anew, but bake finds none of its VMs"
_FIND_VMS = (
    "give --connect for the host with the cluster's VMs; if the VMs are lost, delete this file to start a new cluster"
)
MakeEngine = Callable[[Cluster], Engine]


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A change: the differences between the specs, the steps on the nodes, and the observed state.

    `first_obstacle`: why the first step is not safe now, or None. `warnings`: texts about the VMs.
    """

    changes: tuple[Change, ...]
    steps: tuple[Step, ...]
    seen: Observed
    first_obstacle: str | None
    warnings: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.changes and not self.steps

    @property
    def is_noticed(self) -> bool:
        """Whether the change deletes something or affects clients."""
        lost = any(change.lost for change in self.changes)
        return lost or any(step.loses or step.effect is not Effect.NONE for step in self.steps)


def plan_change(
    loaded: Loaded,
    store: Store,
    engine: MakeEngine,
    *,
    now: datetime,
    passphrase: bytes | None = None,
    replaced: Collection[str] = (),
    image: str = "",
    back: bool = False,
) -> Planned:
    """Compare the observed state with the new spec. Write nothing.

    `replaced`: nodes to replace. `image`: digest of the image that all nodes shall have, or "" if the nodes may keep
    their images. `back`: the nodes return to this image, and a member still runs the etcd.version of `loaded`, which
    may be older than the cluster's. Raises InputError for changes that no running cluster can apply, for unknown nodes,
    and for a cluster that is not sealed.
    """
    cluster = started_cluster(store)
    changes = compare(loaded.existing, loaded.spec)
    changes = with_older_etcd(changes) if back else changes
    plan = plan_cluster(loaded.spec)
    names = [node.name for node in plan.nodes]
    if problems := refused(changes):
        raise InputError(problems)
    if unknown := sorted(set(replaced) - set(names)):
        rule = f"there is no node {', '.join(map(repr, unknown))} in the cluster {plan.name}"
        raise InputError.one("NODE", rule, f"give one of {', '.join(names)}")
    wanted = replace(cluster, plan=plan)
    machines = (made := engine(wanted)).machines()
    if not any(one.exists for one in machines.values()):
        raise InputError.one(str(store.folder / SEALED), _NO_VMS, _FIND_VMS)
    history = preview(plan, store, now=now, passphrase=passphrase)
    seen = observe(wanted, machines, now=now, history=history, applied=applied_seeds(made, names))
    steps = plan_steps(plan, seen, replace=replaced, upgrade=nodes_to_upgrade(machines, image))
    first = obstacle(steps[0], plan, seen) if steps else None
    warnings = old_images({name: one.built for name, one in machines.items()}, now=now)
    return Planned(changes=changes, steps=steps, seen=seen, first_obstacle=first, warnings=warnings)


def nodes_to_upgrade(machines: Mapping[str, MachineStatus], image: str) -> set[str]:
    """Return the nodes whose root disk was made from another image. Empty if `image` is empty."""
    return {name for name, one in machines.items() if image and one.planned and one.image not in ("", image)}


def started_cluster(store: Store) -> Cluster:
    """Open a cluster that has started. Raises InputError if the folder has none."""
    cluster = open_cluster(store)
    if store.read(SEALED) is None:
        text = "is not sealed, so it has not started yet"
        hint = f"start it with {command(store, 'up')}; if it runs already, run {command(store, 'seal')}"
        raise InputError.one(f"the cluster {store.cluster}", text, hint)
    return cluster


def apply_change(
    loaded: Loaded,
    store: Store,
    engine: MakeEngine,
    planned: Planned,
    agreed: Agreed,
    *,
    called: str,
    again: Callable[[], str],
    wait: float,
    progress: Progress,
    passphrase: bytes | None = None,
    replaced: set[str],
    image: str = "",
    back: bool = False,
    pause: float = 1.0,
) -> tuple[Step, ...]:
    """Write the new seeds, take the steps one at a time, and return the steps.

    `called`: the command that the user called, for the lock. `again`: returns the command that goes on after an error.
    `wait`: the number of seconds that one step may take. `replaced`: nodes to replace; a replaced node leaves the set.
    `back`: new disks are made from `image` until the next upgrade.
    """
    with operation_lock(store, called):
        if back:  # before `bake`, which may write an older etcd.version, for which nodes need new disks
            choose_image(store, image, progress.line)
        bake(
            loaded.spec, store, now=datetime.now(UTC), report=progress.line, passphrase=passphrase, agreed=agreed
        )  # fmt: skip
        if not back and (image or loaded.spec.vm.image):
            choose_image(store, "", progress.line)
        cluster = open_cluster(store)
        machines = engine(cluster)
        run = Apply(
            cluster=cluster, engine=machines, again=again, wait=wait, progress=progress, replace=replaced,
            upgrade=nodes_to_upgrade(machines.machines(), image),
            agreed={step.key for step in planned.steps if step.loses}, pause=pause,
        )  # fmt: skip
        return run.run()
