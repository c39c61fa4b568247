"""Fields of a standing cluster to which this version of bake would give another value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from generator.config.fields import plain, value_text
from generator.config.spec import FIELDS_ADDED, ClusterSpec
from generator.config.user_input import Said, Standing, flat


def differing(
    spec: ClusterSpec, said: Said, standing: Standing | None, profile: Mapping[str, Any] | None
) -> list[str]:
    """Return the fields that keep the value of an earlier version and that this version would set to another value.

    `profile`: the fields of the chosen profile in this version; None if it is not known.
    """
    if standing is None:
        return []
    data, default = flat(plain(spec)), flat(plain(ClusterSpec()))
    now = default | flat(profile or {})
    unsaid = set(FIELDS_ADDED) if said.profile is None else {*now, *data} - {("name",)}
    paths = [path for path in {**data, **now} if path in unsaid and path not in flat(said.fields)]
    different = [path for path in paths if path in now and data.get(path) != now[path]]
    names = {path: ".".join(map(str, path)) for path in different}
    return [
        f"{name} {value_text(data.get(path, 'unset'))}, not {value_text(now[path])}" for path, name in names.items()
    ]
