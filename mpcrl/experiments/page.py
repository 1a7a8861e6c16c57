"""A page of headings, sentences, tables and figures, written as Markdown and as HTML that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2330; background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.8rem; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid #e3e6ec; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 48rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; margin: .5rem 0 1rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: #5a6478; border-bottom: 1.5px solid #c9cfda; }
th, td { padding: .28rem .9rem .28rem 0; vertical-align: top; }
td { border-bottom: 1px solid #edf0f4; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.best td { font-weight: 600; }
figure { margin: 1rem 0 1.6rem; }
figure img { width: 100%; height: auto; }
figcaption { font-size: .88rem; color: #5a6478; }
pre { background: #f6f7f9; padding: .8rem 1rem; overflow-x: auto; font-size: .8rem; line-height: 1.4; }
summary { cursor: pointer; color: #5a6478; margin: .6rem 0; }
"""


class Heading(NamedTuple):
    """Level 1 is the page's title."""

    level: int
    text: str


class Sentences(NamedTuple):
    """A paragraph of plain text."""

    text: str


class Table(NamedTuple):
    """Cells as text; those of `numbers` columns are flushed right, and rows in `best` stand out."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int] = frozenset()
    best: frozenset[int] = frozenset()


class Figure(NamedTuple):
    """An SVG picture; `path` is where the Markdown finds it."""

    path: str
    caption: str
    svg: bytes


class Listing(NamedTuple):
    """Long text as it is, folded away where the format can."""

    title: str
    text: str


Block = Heading | Sentences | Table | Figure | Listing


def markdown(blocks: Iterable[Block]) -> str:
    """The page as GitHub's Markdown."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def webpage(blocks: Sequence[Block]) -> str:
    """The page as one HTML file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "mpcrl")
    body = "\n".join(map(_html, blocks))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_CSS}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


# ---- parts -------------------------------------------------------------------------------------------------------
def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Sentences(text):
            return _plain(text)
        case Figure(path, caption, _):
            return f"![{caption}]({path})\n\n*{caption}*"
        case Listing(title, text):
            return f"<details><summary>{html.escape(title)}</summary>\n\n```\n{text}\n```\n\n</details>"
        case Table(head, rows, numbers, best):
            rule = ["---:" if column in numbers else "---" for column in range(len(head))]
            bold = [[f"**{cell}**" if cell else "" for cell in row] if i in best else row for i, row in enumerate(rows)]
            lines = [[_plain(cell).replace("|", "\\|") for cell in line] for line in (head, rule, *bold)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text in which Markdown sees no tags: it would swallow an error about <class 'int'>."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Sentences(text):
            return f"<p>{html.escape(text)}</p>"
        case Figure(_, caption, svg):
            data = base64.b64encode(svg).decode()
            shown = html.escape(caption)
            return (
                f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{shown}">'
                f"<figcaption>{shown}</figcaption></figure>"
            )
        case Listing(title, text):
            return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
        case Table(head, rows, numbers, best):

            def line(tag: str, cells: Sequence[str], kind: str = "") -> str:
                sides = [' class="number"' if column in numbers else "" for column in range(len(cells))]
                inside = (f"<{tag}{side}>{html.escape(cell)}</{tag}>" for side, cell in zip(sides, cells, strict=True))
                return f"<tr{kind}>{''.join(inside)}</tr>"

            body = "\n".join(line("td", row, ' class="best"' if i in best else "") for i, row in enumerate(rows))
            return f'<div class="scroll"><table>\n{line("th", head)}\n{body}\n</table></div>'
