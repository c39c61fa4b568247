"""Commands whose help has headings: related options, and related subcommands, are together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import click

GENERAL = "Options"
# The order of the headings in help.
HEADINGS = (GENERAL, "Cluster", "Network", "Certificates", "etcd", "VMs", "libvirt", "Folders and output")


class Option(click.Option):
    """An option with the heading under which help lists it."""

    def __init__(self, *words: Any, heading: str = GENERAL, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.heading = heading


def rows_by_heading(command: click.Command, ctx: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Return the options and their help texts under each heading, in the order of help."""
    rows: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for each in command.get_params(ctx):
        if isinstance(each, click.Option) and (record := each.get_help_record(ctx)):
            rows[getattr(each, "heading", GENERAL)].append(record)
    return {heading: rows[heading] for heading in HEADINGS if rows[heading]}


def _write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    for heading, rows in rows_by_heading(command, ctx).items():
        with formatter.section(heading):
            formatter.write_dl(rows)


class Command(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, ctx, formatter)


class Group(click.Group):
    """A command with subcommands. `sections`: the names of the subcommands under each heading."""

    command_class = Command
    sections: Mapping[str, tuple[str, ...]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        visible = {name: command for name, command in self.commands.items() if not command.hidden}
        listed = {name for names in self.sections.values() for name in names}
        others = tuple(name for name in sorted(visible) if name not in listed)
        width = formatter.width - 6 - max(map(len, visible), default=0)
        for heading, names in {**self.sections, "Other commands" if self.sections else "Commands": others}.items():
            rows = [(name, visible[name].get_short_help_str(width)) for name in names if name in visible]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


Group.group_class = Group
