"""Print tables. On a terminal, a table fits the terminal; everywhere else, each row is one line.

docs/decisions/0032-tables-fit-the-terminal.md has the reasons.
"""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import click

Rows = Sequence[dict[str, str]]
_GAP = "  "


def print_table(rows: Rows, *, wide: bool = False, drop: Sequence[str] = (), below: str | None = None) -> None:
    """Print rows as a table, with the keys of the first row as its columns. Without rows, print nothing.

    `wide`: print each row on one line, also on a terminal. `drop`, `below`: see `lines`.
    """
    width = None if wide else terminal_width()
    for line in lines(rows, width, drop=drop, below=below):
        click.echo(line)
    if left_out := _dropped(rows, width, drop, below):
        click.echo(f"left out: {', '.join(left_out)}; to see all columns, add --wide", err=True)


def terminal_width() -> int | None:
    """Return the number of columns of the terminal, or None if stdout is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wraps(rows: Rows, width: int | None, column: str, *, drop: Sequence[str]) -> bool:
    """Return whether a table of at most `width` characters has wrapped cells in a column. `drop`: see `lines`."""
    if width is None or not rows:
        return False
    left_out = _dropped(rows, width, drop, None)
    kept = [{key: text for key, text in row.items() if key not in left_out} for row in rows]
    return _fitted(kept, width, drop).get(column, 0) < _natural(kept).get(column, 0)


def lines(rows: Rows, width: int | None, *, drop: Sequence[str] = (), below: str | None = None) -> Iterator[str]:
    """Yield the lines of a table that is not wider than `width` characters; None means without a limit.

    If the table is wider, move the column `below` below the table, for the rows that have a value there. Rows with the
    same value share a line. Then wrap the cells. If the longest words are still too wide, leave out columns in the
    order of `drop`, and then break words.
    """
    if not rows:
        return
    moved = below if below in _columns(rows) and not _fits(rows, width) else None
    left_out = {moved, *_dropped(rows, width, drop, below)}
    yield from _table([{key: text for key, text in row.items() if key not in left_out} for row in rows], width, drop)
    if moved and (found := _grouped(rows, moved)):
        yield ""
        yield from _table(found, width, ())


def _grouped(rows: Rows, column: str) -> Rows:
    """Return a row for each text in a column, with the values of the first column that have this text."""
    key, found = _columns(rows)[0], defaultdict(list)
    for row in rows:
        found[row[column]].append(row[key])
    return [{key: ", ".join(names), column: text} for text, names in found.items() if text]


def _columns(rows: Rows) -> list[str]:
    return list(rows[0])


def _fits(rows: Rows, width: int | None) -> bool:
    return width is None or _total(_natural(rows).values()) <= width


def _total(widths: Collection[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _natural(rows: Rows) -> dict[str, int]:
    """Return the width of each column if no cell is wrapped."""
    return {key: max(len(key), *(len(row[key]) for row in rows)) for key in _columns(rows)}


def _least(rows: Rows, unwrapped: Sequence[str]) -> dict[str, int]:
    """Return the width of each column if each word of a cell is on a line of its own."""
    found = _natural(rows)
    for key in found:
        if key not in unwrapped:
            found[key] = max((len(word) for row in rows for word in (*row[key].split(), *key.split())), default=0)
    return found


def _dropped(rows: Rows, width: int | None, drop: Sequence[str], below: str | None) -> list[str]:
    """Return the columns that must be left out."""
    if not rows or _fits(rows, width):
        return []
    left_out: list[str] = []
    for name in drop:
        kept = [{key: text for key, text in row.items() if key not in {below, *left_out}} for row in rows]
        if width is None or _total(_least(kept, drop).values()) <= width:
            break
        left_out.append(name)
    return left_out


def _table(rows: Rows, width: int | None, unwrapped: Sequence[str]) -> Iterator[str]:
    widths = _natural(rows) if width is None else _fitted(rows, width, unwrapped)
    for row in ({key: key.upper() for key in widths}, *rows):
        cells = [_wrapped(row[key], widths[key]) for key in widths]
        for number in range(max(map(len, cells))):
            parts = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = (part.ljust(column) for part, column in zip(parts, widths.values(), strict=True))
            yield _GAP.join(padded).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    if len(text) <= width:  # keep spaces as they are
        return [text]
    import textwrap  # only wide tables need this module, which takes a millisecond

    return textwrap.wrap(text, width, break_on_hyphens=False)


def _fitted(rows: Rows, width: int, unwrapped: Sequence[str]) -> dict[str, int]:
    """Return the widths of the columns. The widest columns become narrower first."""
    natural, least = _natural(rows), _least(rows, unwrapped)
    if _total(least.values()) > width:
        least = dict.fromkeys(least, 1)
    for limit in range(max(natural.values()), 0, -1):
        found = {key: max(min(natural[key], limit), least[key]) for key in natural}
        if _total(found.values()) <= width:
            return found
    return dict.fromkeys(natural, 1)
