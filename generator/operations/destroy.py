"""Remove a cluster from libvirt: the only command that deletes disks with data on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from generator import vm
from generator.errors import BakeError, InputError, UnsignedError
from generator.layout import SEALED
from generator.operations.up import open_cluster
from generator.progress import Silent
from generator.store.existing_keys import load_identity
from generator.store.folder import Store
from generator.vm import Owned


def destroy(
    store: Store, *, uri: str | None, force: bool, consent: Callable[[tuple[Owned, ...]], None]
) -> tuple[str, ...]:
    """Remove the cluster's VMs, disks and network; returns their names.

    The identity in the cluster's folder tells it from another cluster of that name. `force`: without an identity,
    remove every cluster of that name. `consent` is given all of it before anything is removed.
    """
    cluster_id = (load_identity(store) or "")[:16]
    if not cluster_id and not force:
        raise _unidentified(store, uri)
    connection = vm.connect(uri)
    found = vm.list_owned(connection, store.cluster, cluster_id=cluster_id)
    if not found and not cluster_id:
        raise _unidentified(store, uri)
    if not found:
        return ()
    consent(found)
    tags = {each.cluster_id for each in found}
    removed = vm.destroy(connection, store.cluster, cluster_id=tags.pop() if len(tags) == 1 else cluster_id)
    return (*removed, *_unseal_destroyed(store, removed))


def _unidentified(store: Store, uri: str | None) -> InputError:
    """There may be VMs of that name: they can be another cluster's."""
    where = f"there is no cluster {store.cluster!r} in {store.out}"
    try:
        found = vm.list_owned(vm.connect(uri), store.cluster)
    except BakeError as error:
        found, more = (), f"libvirt could not be asked for VMs of that name: {error.message}"
    else:
        more = "libvirt has no VM and no network of that name"
    if not found:
        hint = "the name of a cluster that was baked, and its --out; for VMs elsewhere: --connect"
        return InputError.one("--name", f"{where}, and {more}", hint)
    there = "; ".join(str(each) for each in found if each.kind != "volume")
    hint = "give the --out where it was baked; only if that is lost: --force"
    return InputError.one("--name", f"{where}, so nothing tells whose these are: {there}", hint)


def _unseal_destroyed(store: Store, removed: Collection[str]) -> Iterator[str]:
    """Allow the files to start a cluster again where every node of theirs, with its disk, was removed just now."""
    try:
        nodes = open_cluster(store).plan.nodes
    except (InputError, UnsignedError):
        return  # the baked files are gone, and the mark with them
    if {node.domain for node in nodes} <= set(removed):
        with store.locked(Silent().line):
            if store.remove(SEALED):
                yield str(store.folder / SEALED)
