"""`bake destroy`: remove a cluster's VMs, disks and network, with all data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import nullcontext

from generator.engine import Hosts, Owned
from generator.errors import BakeError, InputError, UnsignedError
from generator.layout import CHOSEN_IMAGE, SEALED
from generator.operations.baked_cluster import open_cluster
from generator.progress import Silent
from generator.store.existing_keys import load_identity
from generator.store.folder import Store
from generator.store.operation_lock import operation_lock


def destroy(
    store: Store, connect: Callable[[], Hosts], *, force: bool, consent: Callable[[tuple[Owned, ...]], None]
) -> tuple[str, ...]:
    """Remove the cluster's VMs, disks and network; return their names.

    The id in the cluster's folder distinguishes the cluster from other clusters with the same name. `force`: if the
    folder has no id, remove every cluster with the name `store.cluster`. `consent`: a function that receives the list
    of VMs, disks and networks before bake removes them.

    Raise BakeError if another command is changing the cluster.
    """
    cluster_id = (load_identity(store) or "")[:16]
    if not cluster_id and not force:
        raise _unidentified(store, connect)
    # Without the cluster's folder, no other command can change the cluster.
    with operation_lock(store, "bake destroy") if cluster_id else nullcontext():
        hosts = connect()
        found = hosts.owned(store.cluster, cluster_id=cluster_id)
        if not found and not cluster_id:
            raise _unidentified(store, connect)
        if not found:
            return ()
        consent(found)
        tags = {each.cluster_id for each in found}
        removed = hosts.destroy(store.cluster, cluster_id=tags.pop() if len(tags) == 1 else cluster_id)
        return (*removed, *_unseal_destroyed(store, removed))


def _unidentified(store: Store, connect: Callable[[], Hosts]) -> InputError:
    """Return an error that lists the VMs and networks with the cluster's name."""
    where = f"there is no cluster {store.cluster!r} in {store.out}"
    try:
        found = connect().owned(store.cluster)
    except BakeError as error:
        found, more = (), f"libvirt did not list the VMs with that name: {error.message}"
    else:
        more = "libvirt has no VM and no network with that name"
    if not found:
        hint = "give --name and --out of a baked cluster; if the VMs run on another host, give --connect"
        return InputError.one("--name", f"{where}, and {more}", hint)
    names = "; ".join(str(each) for each in found if each.kind != "volume")
    hint = "give --out with the folder in which the cluster was baked; give --force only if that folder is lost"
    return InputError.one("--name", f"{where}, so bake does not know which cluster owns {names}", hint)


def _unseal_destroyed(store: Store, removed: Collection[str]) -> Iterator[str]:
    """If the VMs of all nodes were removed, remove `sealed` and the chosen image, so that a new cluster can start."""
    try:
        nodes = open_cluster(store).plan.nodes
    except (InputError, UnsignedError):
        return  # the folder has no baked cluster and no file `sealed`
    if {node.domain for node in nodes} <= set(removed):
        with store.locked(Silent().line):
            for path in (SEALED, CHOSEN_IMAGE):
                if store.remove(path):
                    yield str(store.folder / path)
