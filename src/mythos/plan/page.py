"""One HTML file that needs no network: drawings, each with the table that says the same; light, dark, on
paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { --page: #fff; --text: #1d2329; --soft: #5b6670; --line: #dfe3e7; --c0: #1b6ca8; --c1: #d1495b;
  --c2: #2e933c; --c3: #8f5db7; --c4: #b67a12; --c5: #6b7680; --c6: #0f8b8d;
  --c7: #7a4b2a; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --text: #e4e8eb; --soft: #9aa5af;
  --line: #333b43; --c0: #5fa8dd; --c1: #ee7d8b; --c2: #6cc57a; --c3: #bd94dd; --c4: #e0ab4d;
  --c5: #97a3ad; --c6: #4fc3c4; --c7: #c49a7a; } }
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 62rem; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; }
p { margin: .3rem 0 .8rem; } .soft { color: var(--soft); }
svg { display: block; height: auto; min-width: 40rem; width: 100%; }
table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem .25rem 0; text-align: left;
  vertical-align: top; }
th { vertical-align: bottom; white-space: nowrap; }
.number + :not(.number) { padding-left: .8rem; }
td.number, th.number { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; } summary { color: var(--soft); cursor: pointer; }
@media (max-width: 40rem) { body { padding: 1rem .8rem; } table { font-size: .8rem; } }
@media print { :root { --page: #fff; --text: #000; --soft: #333; --line: #bbb; --c0: #1b6ca8; --c1: #d1495b;
  --c2: #2e933c; --c3: #8f5db7; --c4: #b67a12; --c5: #6b7680; --c6: #0f8b8d;
  --c7: #7a4b2a; } body { font-size: 10pt; max-width: none;
  padding: 0; } section { break-inside: avoid; } details > * { display: block; } summary { display: none; }
  ::details-content { content-visibility: visible; } svg { min-width: 0; } th { white-space: normal; }
  .wide { overflow: visible; } }
"""


NUMBER = ' class="number"'


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence or two, a drawing (or "") and a table of text, which only a drawing must have."""

    title: str
    text: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    svg: str = ""


def page(title: str, lead: Sequence[str], sections: Sequence[Section], end: str) -> str:
    """The whole file. All text is escaped; there is no script and nothing to fetch."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(title)}</h1>",
        *[f"<p>{escape(line)}</p>" for line in lead],
        *[_section(one) for one in sections],
        f'<p class="soft">{escape(end)}</p>',
        "</main></body></html>",
        "",
    ]
    return "\n".join(parts)


def _section(one: Section) -> str:
    text = f"<p>{escape(one.text)}</p>" if one.text else ""
    table = _table(one) if one.heads else ""
    if one.svg:
        drawing = one.svg.replace('role="img"', f'role="img" aria-label="{escape(one.title, quote=True)}"', 1)
        twin = f"<details open><summary>The same in numbers</summary>{table}</details>"
        table = f'<div class="wide">{drawing}</div>{twin}'
    return f"<section><h2>{escape(one.title)}</h2>{text}{table}</section>"


def _table(one: Section) -> str:
    numeric = [all(_numeric(row[place]) for row in one.rows) for place in range(len(one.heads))]

    def line(cells: Sequence[str], tag: str) -> str:
        made = [
            f"<{tag}{NUMBER if right else ''}>{escape(cell)}</{tag}>"
            for cell, right in zip(cells, numeric, strict=True)
        ]
        return f"<tr>{''.join(made)}</tr>"

    body = "".join(line(row, "td") for row in one.rows)
    return (
        f'<div class="wide"><table><thead>{line(one.heads, "th")}</thead><tbody>{body}</tbody></table></div>'
    )


def _numeric(cell: str) -> bool:
    return bool(cell) and cell.lstrip("$x-~<>≤ ")[:1].isdigit()
