"""The page itself: one file, in which everything is.

Rules:
1. No network: what the page needs is in it, and a Content-Security-Policy forbids it to ask
   anybody.
2. Whatever a run brought along (names, errors of peers) is escaped before it is text, and before it
   is a script's data.
3. Without JavaScript the tables are there, and a sentence in place of each picture.
"""

from __future__ import annotations

import importlib.resources
import json
from html import escape

from kinfolk.bench.exporting import conditions
from kinfolk.bench.report import plotly_js
from kinfolk.bench.report.sections import Section, sections
from kinfolk.bench.results import Document
from kinfolk.bench.tables import Table

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)


def page(document: Document) -> str:
    """The page of a run. Raises NotFound where plotly is not installed."""
    parts = list(sections(document))
    figures = {
        part.anchor: {"traces": part.plot.traces, "layout": part.plot.layout}
        for part in parts
        if part.plot is not None
    }
    links = "".join(f'<li><a href="#{part.anchor}">{escape(part.title)}</a></li>' for part in parts)
    body = "\n".join(map(_section, parts))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>kin bench, {escape(document.begun[:10])}</title>
<link rel="icon" href="data:,">
<style>{_file("page.css")}</style>
</head>
<body>
<a class="skip" href="#content">To the figures</a>
<header>
<h1>kin bench</h1>
<p>{escape(document.begun[:10])}. {escape(document.machine.sentence)}.</p>
<p>{escape(conditions(document))} Only the ratios of one run mean anything.</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main id="content">
{body}
</main>
<script id="figures" type="application/json">{_data(figures)}</script>
<script>{plotly_js.script()}</script>
<script>{_file("page.js")}</script>
</body>
</html>
"""


def _section(part: Section) -> str:
    picture = ""
    if part.plot is not None:
        picture = (
            f'<figure><div class="plot" id="plot-{part.anchor}" role="img" '
            f'aria-label="{escape(part.title)}; the same figures stand in the table below"></div>'
            "<noscript><p>The plot needs JavaScript; the figures are in the "
            "table.</p></noscript></figure>"
        )
    listed = "".join(_table(table, folded=part.plot is not None) for table in part.tables)
    head = f"<h2>{escape(part.title)}</h2>{part.text}"
    return f'<section id="{part.anchor}">{head}{picture}{listed}</section>'


def _table(table: Table, *, folded: bool) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(row.subject)}</th>{"".join(map(_cell, row.cells))}</tr>'
        for row in table.rows
    )
    title = escape(table.title)
    # Wider than a phone it scrolls by itself, also by keyboard.
    whole = (
        f'<div class="wide" role="region" tabindex="0" aria-label="{title}">'
        f"<table><caption>{title}</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return f"<details><summary>{title}, as a table</summary>{whole}</details>" if folded else whole


def _cell(cell: tuple[str, bool, str]) -> str:
    text, best, note = cell
    title = f' title="{escape(note)}"' if note else ""
    shown = f"<strong>{escape(text)}</strong>" if best else escape(text)
    return f"<td{title}>{shown}</td>"


def _file(name: str) -> str:
    return importlib.resources.files("kinfolk.bench.report").joinpath(name).read_text("utf-8")


def _data(figures: object) -> str:
    """JSON that no content can end the script with."""
    return json.dumps(figures, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")
