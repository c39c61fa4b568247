"""Keep the record of the seeds that bake makes (generator/seed/history.py) in the cluster's folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from generator.artifact import Artifact
from generator.layout import SEED_HISTORY, SEED_ISO
from generator.level import Level
from generator.plan import ClusterPlan
from generator.seed.history import SeedHistory, parse_history
from generator.seed.seed_level import SEED_FILES, compare_seeds, instance_id
from generator.store.folder import Store

Seed = Mapping[str, bytes]  # the content of user-data, meta-data and network-config by name


def load_history(store: Store) -> SeedHistory:
    """Return the seeds that bake has made for each node. Raises InputError for a file that bake did not write."""
    return parse_history(store.read(SEED_HISTORY), where=str(store.folder / SEED_HISTORY))


def kept_seed(store: Store, node: str) -> Seed:
    """Return a node's seed in the folder. The result is empty if the folder has no complete seed."""
    found = {name: data for name in SEED_FILES if (data := store.read(f"{node}/{name}")) is not None}
    return found if len(found) == len(SEED_FILES) else {}


def with_seed(history: SeedHistory, node: str, old: Seed, new: Seed) -> SeedHistory:
    """Return the history with a node's new seed. `old`: the seed before, empty for a new node."""
    if not old:
        return history.extended(node, instance_id(new), Level.NONE)
    history = history.extended(node, instance_id(old), Level.NONE)
    if instance_id(new) == instance_id(old):
        return history
    return history.extended(node, instance_id(new), compare_seeds(old, new, node=node).level)


def recorded(store: Store, plan: ClusterPlan, files: Iterable[Artifact]) -> Iterator[Artifact]:
    """Yield the files, and then the history with the seeds among them. A node's ISO comes after its other files."""
    history, seeds = load_history(store), defaultdict[str, dict[str, bytes]](dict)
    for file in files:
        yield file
        node, name = str(file.path.parent), file.path.name
        if name in SEED_FILES:
            seeds[node][name] = file.data
        elif name == SEED_ISO.name:
            history = with_seed(history, node, kept_seed(store, node), seeds.pop(node))
    nodes = frozenset(node.name for node in plan.nodes)
    yield Artifact(SEED_HISTORY, history.only(nodes).dump())
