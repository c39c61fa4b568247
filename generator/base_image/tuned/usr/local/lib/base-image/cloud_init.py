"""Starts cloud-init's one boot process without two imports that a NoCloud boot never uses, and with libyaml.

Under emulation they are half of the time to its first line. `requests` is imported when a URL is first read.
`jsonschema` is hidden, which cloud-init takes as "not installed": a boot does not warn of unknown keys, while
`cloud-init schema --system`, a process of its own, still reports them. PyYAML's own loader is
an order of magnitude slower than libyaml's, and cloud-init parses its configuration in every stage.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """Stands in for a module until something of it is needed."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in STAND_INS:
            return sys.modules[f"{self.__name__}.{name}"]
        if name in ANNOTATIONS:
            return object
        for stand_in in STAND_INS:
            if isinstance(sys.modules.get(stand_in), Deferred):
                del sys.modules[stand_in]
        return getattr(import_module(self.__name__), name)


STAND_INS = ("requests", "requests.exceptions")
# Named in signatures only, which are evaluated when url_helper is imported.
ANNOTATIONS = ("Response",)


def main() -> int:
    """What /usr/bin/cloud-init does, with its entry point named instead of searched for."""
    sys.modules["jsonschema"] = None  # type: ignore[assignment]
    sys.modules.update({name: Deferred(name) for name in STAND_INS})
    yaml: Any = import_module("yaml")
    yaml.SafeLoader = yaml.CSafeLoader
    return int(import_module("cloudinit.cmd.main").main() or 0)


if __name__ == "__main__":
    sys.argv[0] = "/usr/bin/cloud-init"
    sys.exit(main())
