"""What to do after a bake: sentences, each with a command to copy, for the engine of the cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from generator.layout import SEALED

if TYPE_CHECKING:
    from generator.change.spec_changes import Change
    from generator.config.spec import ClusterSpec
    from generator.operations.bake import Baked
    from generator.store.folder import Store


class Step(NamedTuple):
    """A sentence, and the command that does it or ""."""

    text: str
    command: str = ""

    @property
    def lines(self) -> Iterator[str]:
        yield self.text
        if self.command:
            yield f"  {self.command}"


def next_steps(baked: Baked, store: Store, changes: Iterable[Change]) -> list[Step]:
    """Return the steps after a bake with these changes, the next step first."""
    from generator.change.spec_changes import refused
    from generator.store.export_folder import exports_folder

    has_exports = exports_folder(store).is_dir()  # without exports, bake need not import slow modules
    permits = list(_permits(baked, store)) if has_exports else []
    is_sealed, engine = store.has(SEALED), _engine(baked.plan.spec)
    if not baked.differences:
        unchanged = Step("Nothing changed. The table shows the existing ISOs.")
        return [unchanged, *([] if is_sealed else _start(store, engine)), *permits]
    ways = dict.fromkeys(str(problem.hint) for problem in refused(changes))
    steps = [Step(f"No running node can apply this change. Next, {way}.") for way in ways]
    steps = steps or list(_change(store, engine) if is_sealed else _start(store, engine))
    exports = list(_exports(store)) if has_exports else []
    return [*steps, *exports, *permits, Step("The ISOs contain private keys.")]


def _engine(spec: ClusterSpec) -> str:
    """Return the engine that `bake up` uses, or "" if this machine cannot talk to it."""
    from generator.config.hosts import EngineKind

    if spec.engine is EngineKind.INCUS:
        return "Incus"
    return "libvirt" if find_spec("libvirt") else ""


def _start(store: Store, engine: str) -> Iterator[Step]:
    from generator.operations.hints import command

    if engine:
        machines = "containers" if engine == "Incus" else "VMs"
        yield Step(f"Next, to boot the {machines} with {engine} and seal the cluster:", command(store, "up"))
    text = "attach each ISO to its VM as a CD-ROM (docs/how-to/attach-isos.md) and boot all VMs. Then seal the cluster:"
    yield Step(f"With another hypervisor, {text}" if engine else f"Next, {text}", command(store, "seal"))


def _change(store: Store, engine: str) -> Iterator[Step]:
    from generator.operations.hints import command

    if engine:
        yield Step(f"Next, to change the nodes one after the other with {engine}:", command(store, "apply"))
    text = "insert each node's new ISO into the node's drive, one node after the other. A node applies most changes "
    text += "immediately. If a node's console reports `a new seed takes effect at the next boot`, reboot the node, and "
    text += "wait until its console reports `settled` before you continue."
    yield Step(f"With another hypervisor, {text}" if engine else f"Next, {text}")


def _exports(store: Store) -> Iterator[Step]:
    """Yield a step for the exports of the cluster, because they have the old ISOs."""
    from generator.operations.export import export_again, exported

    if targets := exported(store):
        yield _sentence(export_again(store, targets, "the old ISOs"))


def _permits(baked: Baked, store: Store) -> Iterator[Step]:
    from generator.operations.export import exported_permit

    if text := exported_permit(store, baked.plan):
        yield _sentence(text)


def _sentence(text: str) -> Step:
    return Step(f"{text[0].upper()}{text[1:]}.")
