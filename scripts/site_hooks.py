"""Hooks of MkDocs for scripts/site: the navigation from docs/README.md, and Markdown as code hosts read it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from markdown import Extension, Markdown

_SECTION = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_ITEM = re.compile(r"^- \[([^\]]+)\]\(([^)#]+\.md)\)", re.MULTILINE)
_INDEX = "docs/README.md"


class _CodeHost(Extension):
    """Reads two spaces as the indentation of a list's content, as in the docs. Python-Markdown needs four."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  the name that Python-Markdown calls
        md.tab_length = 2
        md.build_parser()  # the parser has copied the old value


def github_slug(text: str, separator: str) -> str:
    """Return the anchor of a heading as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", separator)


def on_config(config: Any) -> Any:
    """Set the navigation, and add the extensions, which a YAML file cannot name."""
    root = Path(config["docs_dir"])
    config["nav"] = [{"Home": "README.md"}, *navigation((root / _INDEX).read_text(encoding="utf-8"))]
    config["markdown_extensions"].insert(0, _CodeHost())  # other extensions change the parser that it builds
    config["mdx_configs"].setdefault("toc", {})["slugify"] = github_slug
    return config


def navigation(index: str) -> Iterator[dict[str, Any]]:
    """Yield the sections of docs/README.md with their pages. `index`: the text of docs/README.md."""
    for title, body in _SECTION.findall(index):
        if pages := [{_plain(text): _path(target)} for text, target in _ITEM.findall(body)]:
            yield {title: pages}
    yield {"All pages": _INDEX}


def on_page_markdown(markdown: str, page: Any, **_more: Any) -> str:
    """Hide the navigation beside the landing page, because it would list only this page."""
    if page.file.src_uri == "README.md":
        page.meta["hide"] = ["navigation"]
    return markdown


def _plain(text: str) -> str:
    """Return the text of a link without Markdown's backticks, as HTML."""
    return html.escape(text.replace("`", ""), quote=False)


def _path(target: str) -> str:
    """Return the path of a page in the site's source. `target`: relative to docs/."""
    parts: list[str] = ["docs"]
    for part in target.split("/"):
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)
