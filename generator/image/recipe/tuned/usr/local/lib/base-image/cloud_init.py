"""Start cloud-init with libyaml, without two imports that a NoCloud boot never uses, and with private files.

`requests` is imported when cloud-init reads a URL, because the import takes an emulated CPU seconds. `jsonschema`
appears as not installed, so a boot does not warn of unknown keys; `cloud-init schema --system` still does.

cloud-init parses the user-data several times and writes it once. PyYAML's Python code takes about 30
times longer than libyaml.

cloud-init sets a file's mode after it has written the content, which may be a key of the seed. With the umask of this
module, only root can read a file until cloud-init has set the mode.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any


class Deferred(ModuleType):
    """A replacement for a module; it imports the real module when an attribute is used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if f"{self.__name__}.{name}" in DEFERRED:
            return sys.modules[f"{self.__name__}.{name}"]
        if name in ANNOTATIONS:
            return object
        for module in DEFERRED:
            if isinstance(sys.modules.get(module), Deferred):
                del sys.modules[module]
        return getattr(import_module(self.__name__), name)


DEFERRED = ("requests", "requests.exceptions")
# Attributes that cloudinit.url_helper uses only in type annotations, which Python evaluates during the import.
ANNOTATIONS = ("Response",)


def private_first(util: Any) -> Callable[..., None]:
    """Return cloud-init's `write_file` with umask 077 for files. Folders are created with the normal umask."""
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
    """Do the same as /usr/bin/cloud-init, but import the entry point directly instead of searching for it."""
    sys.modules.update({name: Deferred(name) for name in DEFERRED})
    sys.modules["jsonschema"] = None  # type: ignore[assignment]
    yaml: Any = import_module("yaml")
    yaml.SafeLoader, yaml.dumper.SafeDumper = yaml.CSafeLoader, yaml.CSafeDumper
    util: Any = import_module("cloudinit.util")
    util.write_file = private_first(util)
    return int(import_module("cloudinit.cmd.main").main() or 0)


if __name__ == "__main__":
    sys.argv[0] = "/usr/bin/cloud-init"
    sys.exit(main())
