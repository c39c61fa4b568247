"""`bake apply`: take the steps from the observed state to the planned state, one at a time.

After each step, bake observes the cluster and plans again. So a second run after an interruption finishes the change.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from generator.change.gate import obstacle
from generator.change.observed import Observed, Power, power_of
from generator.change.planner import plan_steps
from generator.change.steps import Action, Step
from generator.engine import Engine
from generator.errors import StaleError, UnhealthyError, WaitTimeoutError
from generator.layout import SEED_ISO
from generator.level import Level
from generator.operations.baked_cluster import Cluster, refuse_changed
from generator.operations.hints import command
from generator.operations.running.consoles import Consoles
from generator.operations.running.leaving import admit, forget_removed, remove_member, step_down
from generator.operations.running.observing import observe
from generator.progress import Progress
from generator.store.cas import load_phase
from generator.store.seed_history import load_history

_PAUSE = 1.0  # seconds between two looks at the cluster
_CALM = 60.0  # seconds that a cluster gets to become healthy before a step is refused
_SILENCE = 60.0  # seconds that a node gets to print that it has settled


@dataclass(kw_only=True)
class Apply:
    """A run of `bake apply`.

    `again`: returns the command that goes on after an error. `wait`: the number of seconds that one step may take.
    `agreed`: the steps that the user has agreed to, as pairs of action and node; None if the user agreed to everything.
    `replace`: nodes that the user wants replaced. `upgrade`: nodes that the user wants to have a new image. A node
    leaves these sets when it has its new disk.
    """

    cluster: Cluster
    engine: Engine
    again: Callable[[], str]
    wait: float
    progress: Progress
    agreed: Collection[tuple[Action, str]] | None = None
    replace: set[str] = field(default_factory=set)
    upgrade: set[str] = field(default_factory=set)
    pause: float = _PAUSE
    _started_again: set[str] = field(default_factory=set, init=False)  # nodes that were started again during a step
    _restarting: str = field(default="", init=False)  # the node whose etcd restarts in this step

    def run(self) -> tuple[Step, ...]:
        """Take every step, and return the steps. Raise BakeError if a step is not safe or does not end in time."""
        taken: list[Step] = []
        has_new_seeds = self._refresh_drives()  # such as the seed that repairs a node
        self.consoles = Consoles(self.engine, self.cluster, self.progress, awaits_answers=True)
        while found := self._next(patience=self.wait if taken or has_new_seeds else _CALM):
            step, seen = found
            self.progress.line(f"{step.node}: {step.action}{f' ({step.level})' if step.level else ''}: {step.reason}")
            self._started_again.clear()
            self._restarting = step.node if step.level is Level.RESTART else ""
            self._act(step, seen)
            self._finish(step)
            taken.append(step)
        self._settle()
        self._empty_drives()
        forget_removed(self.cluster, self.progress.line)
        return tuple(taken)

    def _refresh_drives(self) -> bool:
        """Replace outdated ISOs in drives, and return whether there was one.

        An interrupted `bake up` can leave an ISO with the bootstrap permit.
        """
        found = False
        for name, machine in self.engine.machines().items():
            image = self.cluster.store.read(f"{name}/{SEED_ISO}") if machine.planned and machine.has_seed else None
            if image is not None and hashlib.sha256(image).hexdigest() != machine.seed:
                self.engine.insert_seed(name)
                found = True
        return found

    # --- choosing the next step -------------------------------------------------------------------------------

    def _next(self, *, patience: float) -> tuple[Step, Observed] | None:
        """Return the next step as soon as it is safe, with the observed state. None if the cluster is as planned.

        `patience`: the seconds that the cluster gets to become healthy, for example after VMs have started.
        """
        deadline = time.monotonic() + patience
        while True:
            seen = self._observe()
            steps = plan_steps(self.cluster.plan, seen, replace=self.replace, upgrade=self.upgrade)
            if not steps and seen.members:
                return None
            reason = self._obstacle(steps[0], seen) if steps else "no member answers"
            if reason is None:
                return steps[0], seen
            self._pause_before(steps[0] if steps else None, reason, deadline)

    def _pause_before(self, step: Step | None, reason: str, deadline: float) -> None:
        """Wait a moment because of `reason`. Raise UnhealthyError after the deadline. `step`: the next step, if any."""
        if time.monotonic() > deadline:
            text = f"cannot {step.action} {step.node}: {reason}" if step else reason
            look = command(self.cluster.store, "status")
            raise UnhealthyError(text, hint=f"run {look}; to go on, run {self.again()}")
        self.consoles.show()
        time.sleep(self.pause)

    def _observe(self) -> Observed:
        phase = load_phase(self.cluster.store)
        refuse_changed(self.cluster, phase)
        machines = self.engine.machines()
        seen = observe(self.cluster, machines, now=datetime.now(UTC), applied=self.consoles.seeds)
        for node in self.cluster.plan.nodes:
            if seen.answers(node) and (node.name != self._restarting or self.consoles.has_restarted(node.name)):
                self.consoles.answered(node.name)
        return seen

    def _obstacle(self, step: Step, seen: Observed) -> str | None:
        """Return why the step is not safe now, or None. Raise StaleError for a loss that the user has not agreed to."""
        if step.loses and self.agreed is not None and step.key not in self.agreed:
            text = f"the cluster has changed: the next step is now to {step.action} {step.node} ({step.reason})"
            raise StaleError(text, hint="run the same command again to see the new plan")
        return obstacle(step, self.cluster.plan, seen)

    # --- acting -----------------------------------------------------------------------------------------------

    def _act(self, step: Step, seen: Observed) -> None:
        if step.interrupts:
            step_down(self.cluster, seen, step, self.progress.line)
        {
            Action.START: self._start,
            Action.ADD: self._add,
            Action.REMOVE: self._remove,
            Action.REPLACE: self._replace,
            Action.UPDATE: self._update,
        }[step.action](step, seen)

    def _start(self, step: Step, seen: Observed) -> None:
        self.consoles.begin(step.node)
        self.engine.create(step.node)

    def _add(self, step: Step, seen: Observed) -> None:
        admit(self.cluster, seen, step.node)
        for name in self.engine.remove(step.node) if step.loses else ():
            self.progress.line(f"{step.node}: removed {name}")
        self._start(step, seen)

    def _remove(self, step: Step, seen: Observed) -> None:
        if step.member_id is not None:
            remove_member(self.cluster, seen, step.member_id)
            self.progress.line(f"{step.node}: no longer a member")
        remove = self.engine.remove_copies if step.node in seen.copies else self.engine.remove
        for name in remove(step.node) if seen.machines and step.node in seen.machines else ():
            self.progress.line(f"{step.node}: removed {name}")

    def _replace(self, step: Step, seen: Observed) -> None:
        self.consoles.begin(step.node)
        self.engine.replace(step.node)
        self.replace.discard(step.node)
        self.upgrade.discard(step.node)

    def _update(self, step: Step, seen: Observed) -> None:
        """Put the seed into the drive, or restart the VM if its definition changes. A boot applies the seed, too."""
        if step.level is Level.REPLACE:
            self._reimage(step)
            return
        if step.node in seen.outdated:
            self._restart(step)
            return
        self.engine.insert_seed(step.node, again=True)
        deadline = time.monotonic() + self.wait
        while not self._is_done(step) and time.monotonic() < deadline:
            if self.consoles.waits_for_reboot(step.node):
                self._reboot(step)
                return
            self._start_stopped()
            time.sleep(self.pause)

    def _reimage(self, step: Step) -> None:
        """Exchange the node's root disk. The node applies its seed at its first boot, and keeps its data."""
        self.progress.line(f"{step.node}: exchanging the root disk")
        self.consoles.begin(step.node)
        self.engine.reimage(step.node)
        self.upgrade.discard(step.node)

    def _reboot(self, step: Step) -> None:
        """Restart the VM of a node that applies its seed at its next boot. Check again that this is safe."""
        reboot = Step(action=Action.UPDATE, node=step.node, reason=step.reason, level=Level.REBOOT)
        deadline = time.monotonic() + _CALM
        while reason := self._obstacle(reboot, seen := self._observe()):
            self._start_stopped()
            self._pause_before(reboot, reason, deadline)
        step_down(self.cluster, seen, reboot, self.progress.line)
        self._restart(step)

    def _restart(self, step: Step) -> None:
        self.progress.line(f"{step.node}: restarting the VM")
        self.consoles.begin(step.node)
        self.engine.restart(step.node)

    # --- waiting ----------------------------------------------------------------------------------------------

    def _finish(self, step: Step) -> None:
        """Wait until the step is done. Raise WaitTimeoutError if it takes too long."""
        deadline = time.monotonic() + self.wait
        while not self._is_done(step):
            self._start_stopped()
            if time.monotonic() > deadline:
                look = command(self.cluster.store, f"console {step.node}")
                text = f"{step.node}: the step `{step.action}` did not end within {self.wait:.0f} s"
                raise WaitTimeoutError(text, hint=f"see {look}; to go on, run {self.again()}")
            time.sleep(self.pause)
        if step.action not in (Action.REMOVE, Action.START):
            self._await_settled(step.node, restarts=step.level is Level.RESTART)
            self._empty_drive(step.node)

    def _start_stopped(self) -> None:
        """Start nodes whose VMs have stopped during the step, because the step may need them for the quorum.

        Raise UnhealthyError if a VM stops for the second time during the step.
        """
        for name, machine in self.engine.machines().items():
            if not machine.planned or power_of(machine) is not Power.STOPPED:
                continue
            if name in self._started_again:
                hint = f"see {command(self.cluster.store, f'console {name}')}; to go on, run {self.again()}"
                raise UnhealthyError(f"{name}: its VM has stopped twice", hint=hint)
            self._started_again.add(name)
            self.progress.line(f"{name}: its VM has stopped; starting it again")
            self.consoles.begin(name)
            self.engine.create(name)

    def _await_settled(self, node: str, *, restarts: bool = False) -> None:
        """Wait until a node runs its newest seed and, if `restarts`, has started etcd again, and until etcd answers.

        Until then, the node needs its seed, and no other node may restart. A node whose console is silent gets 60 s.
        """
        made = load_history(self.cluster.store).nodes.get(node, ())
        deadline = time.monotonic() + _SILENCE
        while time.monotonic() < deadline:
            self.consoles.show()
            self._start_stopped()
            has_settled = not made or self.consoles.settled.get(node) == made[-1].seed
            if has_settled and (not restarts or self.consoles.has_restarted(node)):
                self._observe()
                if node not in self.consoles.unshown:
                    return
            time.sleep(self.pause)

    def _empty_drive(self, node: str) -> None:
        """Remove a seed that the node has applied, because a seed has private keys.

        A node that waits for a reboot keeps its seed, because cloud-init needs a seed at the next boot.
        """
        if not self.consoles.waits_for_reboot(node) and self.engine.remove_seed(node):
            self.progress.line(f"{node}: seed removed from its drive")

    def _empty_drives(self) -> None:
        """Empty the drives of the nodes that an interrupted run has not emptied."""
        for name, machine in self.engine.machines().items():
            if machine.planned and machine.has_seed:
                self._await_settled(name)
                self._empty_drive(name)

    def _settle(self) -> None:
        """Wait until the member of each planned node answers, except on hosts that do not answer."""
        deadline = time.monotonic() + self.wait
        while silent := self._silent_nodes():
            if time.monotonic() > deadline:
                look = command(self.cluster.store, "status")
                text = f"no answer from {', '.join(silent)} after {self.wait:.0f} s"
                raise WaitTimeoutError(text, hint=f"run {look}")
            time.sleep(self.pause)

    def _silent_nodes(self) -> list[str]:
        self.consoles.show()
        seen = self._observe()
        nodes = [node for node in self.cluster.plan.nodes if seen.power_of(node.name) is not Power.UNKNOWN]
        return [node.name for node in nodes if not seen.answers(node)]

    def _is_done(self, step: Step) -> bool:
        """Return whether the planner no longer wants the step, and the node's member answers."""
        self.consoles.show()
        seen = self._observe()
        if step.key in {one.key for one in plan_steps(self.cluster.plan, seen)}:
            return False
        if step.action in (Action.REMOVE, Action.START):  # a started node may need other nodes for its quorum
            return True
        return seen.answers(next(node for node in self.cluster.plan.nodes if node.name == step.node))
