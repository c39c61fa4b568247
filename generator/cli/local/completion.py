"""`bake completion`: scripts that let a shell complete the commands, options and values of bake."""

from __future__ import annotations

import click

from generator.cli.root import bake

_VARIABLE = "_BAKE_COMPLETE"  # click's name for the program `bake`


@bake.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script with which SHELL completes commands, options and values of bake.

    The shell suggests the names of clusters and nodes in the folder of clusters, profiles, and the valid words of
    options. bash needs version 4.4 or later.

    \b
    Examples:
      . <(bake completion bash)                                  for this bash
      bake completion bash > ~/.local/share/bash-completion/completions/bake
      bake completion zsh > ~/.zfunc/_bake                       with ~/.zfunc in $fpath
      bake completion fish > ~/.config/fish/completions/bake.fish
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    kind = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    click.echo(kind(bake, {}, "bake", _VARIABLE).source())
