"""Tables and pages that need nothing else: what every report of the evaluation is made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Row = Sequence[str]

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 90rem; margin: 2rem auto;
  padding: 0 1rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #8886; padding: .2rem .6rem; text-align: left;
  white-space: nowrap; }}
.warn {{ border-left: 4px solid #c60; padding-left: .8rem; }}
figure {{ margin: 1rem 0; break-inside: avoid; }}
figure div {{ display: flex; flex-wrap: wrap; gap: 4px; }}
figure span {{ font-size: 12px; }}
figure img {{ display: block; width: 192px; }}
svg {{ max-width: 100%; height: auto; }}
@media print {{ body {{ max-width: none; font-size: 11px; }} table {{ font-size: 8px; }}
  .scroll {{ overflow: visible; }} figure img {{ width: 120px; }} }}
</style></head><body>
{body}
</body></html>
"""


def finite(value: Any) -> Any:
    """The same document with floats of five digits, and null where there is no number."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def markdown_table(head: Row, rows: Iterable[Row]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(title: str, body: Sequence[str]) -> str:
    """One HTML page.

    Args:
        title: Plain text.
        body: HTML.
    """
    return _PAGE.format(title=escape(title), body="\n".join(body))


def words(note: str) -> str:
    """A note escaped, with its Markdown as emphasis and code."""
    for mark, tag in (("*", "em"), ("`", "code")):
        pieces = note.split(mark) if tag == "code" else escape(note).split(mark)
        note = "".join(f"<{tag}>{p}</{tag}>" if i % 2 else p for i, p in enumerate(pieces))
    return note


def html_table(markdown: str) -> str:
    """A Markdown table as HTML, which scrolls by itself where it is too wide."""
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in markdown.splitlines()]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in cells[0])
    rows = "".join(
        "<tr>" + "".join(f"<td>{words(cell)}</td>" for cell in row) + "</tr>" for row in cells[2:]
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
