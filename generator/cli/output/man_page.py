"""Man pages, made from the commands: the same words as in help."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping

import click

from generator import RELEASED, __version__
from generator.cli.output.grouped_help import rows_by_heading

_VERBATIM, _EXAMPLES = "\b", "Examples:"


def man_pages(root: click.Command, name: str, exit_codes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the file name and the text of the man page of each visible command. `exit_codes`: code → meaning."""
    top = click.Context(root, info_name=name, **root.context_settings)
    pages = {ctx.command_path: ctx for ctx in _contexts(root, top)}
    for path, ctx in pages.items():
        near = [other for other in pages if other != path and (other.startswith(path) or path.startswith(other))]
        yield f"{_page(path)}.1", "\n".join(_lines(ctx, near, exit_codes)) + "\n"


def _contexts(command: click.Command, ctx: click.Context) -> Iterator[click.Context]:
    yield ctx
    for name, inner in sorted(command.commands.items()) if isinstance(command, click.Group) else ():
        if not inner.hidden:
            yield from _contexts(inner, click.Context(inner, info_name=name, parent=ctx))


def _page(path: str) -> str:
    return path.replace(" ", "-")


def _lines(ctx: click.Context, near: Iterable[str], exit_codes: Mapping[str, str]) -> Iterator[str]:
    command, path = ctx.command, ctx.command_path
    first, *paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    yield f'.TH {_page(path).upper()} 1 "{RELEASED:%Y-%m-%d}" "bake {__version__}" "bake"'
    yield from (".SH NAME", f"{_text(_page(path))} \\- {_text(_joined(first).rstrip('.'))}")
    yield from (".SH SYNOPSIS", f".B {_text(path)}", _text(" ".join(command.collect_usage_pieces(ctx))))
    yield from (".SH DESCRIPTION", _text(_joined(first)))
    for paragraph in paragraphs:
        yield from _paragraph(paragraph)
    yield ".SH OPTIONS"
    for heading, rows in rows_by_heading(command, ctx).items():
        yield f".SS {_text(heading)}"
        yield from _table(rows)
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        visible = {name: inner for name, inner in sorted(command.commands.items()) if not inner.hidden}
        yield from _table((f"{path} {name}", inner.get_short_help_str(200)) for name, inner in visible.items())
    yield ".SH EXIT STATUS"
    yield from _table(exit_codes.items())
    yield ".SH SEE ALSO"
    yield from (f".BR {_text(_page(other))} (1)" for other in near)


def _paragraph(paragraph: str) -> Iterator[str]:
    if not paragraph.startswith(_VERBATIM):
        yield from (".PP", _text(_joined(paragraph)))
        return
    _, title, *lines = paragraph.splitlines()
    yield from ([".SH EXAMPLES"] if title == _EXAMPLES else [".PP", _text(title)])
    yield from (".nf", *map(_text, inspect.cleandoc("\n".join(["", *lines])).splitlines()), ".fi")


def _table(rows: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in rows:
        yield from (".TP", f".B {_text(term)}", _text(_joined(text)))


def _joined(text: str) -> str:
    return " ".join(text.split())


def _text(text: str) -> str:
    """Return text for roff: a backslash, a minus sign, and a dot or quote at the start of a line are escaped."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
