"""The transcripts of `bake client` in the how-to pages are what bake prints.

A page's first YAML block is its cluster file. In a page, the working directory is /home/ana.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[2] / "docs/how-to"
_YAML = re.compile(r"^( *)```yaml\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_TRANSCRIPT = re.compile(r"^( *)```\n\1\$ bake (client [^\n]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def dedent(indent: str, text: str) -> str:
    """Return a code block without its indentation in a list's item. A line that is not empty must have it."""
    assert [line for line in text.splitlines() if line and not line.startswith(indent)] == []
    return re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def lines(text: str) -> list[str]:
    """Return the lines that are not empty, in alphabetical order, because stdout and stderr are read separately."""
    return sorted(line for line in text.splitlines() if line)


@pytest.mark.parametrize("page", ["kubernetes", "patroni", "prometheus", "connect"])
def test_a_page_shows_what_bake_prints(bake: Callable[..., Any], page: str) -> None:
    text = (PAGES / f"{page}.md").read_text()
    stated = _YAML.search(text)
    assert stated
    Path("cluster.yaml").write_text(dedent(stated[1], stated[2]))
    assert bake("--config", "cluster.yaml").code == 0
    transcripts = _TRANSCRIPT.findall(text)
    assert transcripts
    for indent, command, expected in transcripts:
        result = bake(*shlex.split(command))
        printed = (result.out + result.err).replace(str(Path.cwd()), "/home/ana")
        assert lines(printed) == lines(dedent(indent, expected))
