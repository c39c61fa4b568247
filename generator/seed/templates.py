"""Read the sources of the guest's files in the folder `guest/`, and render the templates among them."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2

_GUEST = Path(__file__).parent / "guest"


@cache
def guest_source(path: PurePosixPath) -> bytes:
    """Return a file's content from bake's folder `guest/`. `path`: the file's path in the guest."""
    return (_GUEST / path.relative_to("/")).read_bytes()


def render(path: PurePosixPath, /, **values: object) -> bytes:
    """Return a rendered template. Raises jinja2.UndefinedError if a value is missing."""
    return _environment().get_template(f"{str(path)[1:]}.j2").render(values).encode()


class _Compiled(jinja2.FileSystemBytecodeCache):
    """Compiled templates, next to the compiled module in `__pycache__`, because compiling all of them takes 10 ms.

    A compiled template is executed, like a compiled module. Only a user who can replace bake's modules can write there.
    """

    def dump_bytecode(self, bucket: Any) -> None:
        if not sys.dont_write_bytecode:
            with suppress(OSError):  # bake also runs from a folder that it cannot write
                super().dump_bytecode(bucket)


def _compiled() -> _Compiled:
    """Return the cache for this version of this module and of jinja2. jinja2 itself checks the templates' sources."""
    module = Path(cache_from_source(__file__))
    version = "-".join(f"{Path(file).stat().st_mtime_ns:x}" for file in (__file__, jinja2.__file__))
    return _Compiled(str(module.parent), f"{module.stem}-{version}-%s.jinja2")


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_GUEST),
        bytecode_cache=_compiled(),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
        autoescape=False,  # noqa: S701  templates of env files and units; a spec's values need no quotes in them
    )
