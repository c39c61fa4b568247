"""Starts cloud-init's one boot process without two imports that a NoCloud boot never uses, and with libyaml.

Under emulation they are half of the time to its first line. `requests` is imported when a URL is first read.
`jsonschema` is hidden, which cloud-init takes as "not installed": a boot does not warn of unknown keys, while
`cloud-init schema --system`, a process of its own, still reports them. PyYAML's own loader is
an order of magnitude slower than libyaml's, and cloud-init parses its configuration in every stage.

And no file is anybody else's before it has its mode: cloud-init writes the seed, keys too, and only then says whose.
"""

import os
import sys
from collections.abc import Callable
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


def private_first(util: Any) -> Callable[..., None]:
    """cloud-init's `write_file`, under a umask that its folders do not see."""
    write: Callable[..., None] = util.write_file

    def write_file(filename: str, *args: Any, **settings: Any) -> None:
        if settings.get("ensure_dir_exists", True):
            owner = {name: settings.get(name) for name in ("user", "group")}
            util.ensure_dir(os.path.dirname(filename), **owner)  # noqa: PTH120  it takes a str
        before = os.umask(0o077)
        try:
            write(filename, *args, **settings)
        finally:
            os.umask(before)

    return write_file


def main() -> int:
    """What /usr/bin/cloud-init does, with its entry point named instead of searched for."""
    sys.modules["jsonschema"] = None  # type: ignore[assignment]
    sys.modules.update({name: Deferred(name) for name in STAND_INS})
    yaml: Any = import_module("yaml")
    yaml.SafeLoader = yaml.CSafeLoader
    util: Any = import_module("cloudinit.util")
    util.write_file = private_first(util)
    return int(import_module("cloudinit.cmd.main").main() or 0)


if __name__ == "__main__":
    sys.argv[0] = "/usr/bin/cloud-init"
    sys.exit(main())
