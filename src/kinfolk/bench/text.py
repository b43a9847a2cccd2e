"""Results as lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from kinfolk.bench.exporting import conditions
from kinfolk.bench.results import Document
from kinfolk.bench.tables import Table, tables


def lines(document: Document) -> Iterator[str]:
    """All of it. The best of each column has a star; what spins is compared with what spins."""
    for table in tables(document):
        yield from _lines_of(table)
        yield ""
    for verdict in document.verdicts:
        yield f"{verdict.claim}"
        yield f"  {verdict.holds}: {verdict.found}"
        yield f"  how: {verdict.how}"
        yield ""
    failed = [
        f"{result.case.key}: {result.failure.reason}: {result.failure.text}"
        for result in document.results
        if result.failure is not None and result.failure.reason in ("hung", "failed")
    ]
    yield from failed
    yield from [""] if failed else []
    yield f"{document.machine.sentence}."
    yield conditions(document)


def _lines_of(table: Table) -> Iterator[str]:
    yield table.title
    first = max([*(len(row.subject) for row in table.rows), 8])
    widths = [
        max([len(column) + 1, *(len(row.cells[place].text) + 1 for row in table.rows)])
        for place, column in enumerate(table.columns)
    ]
    heads = zip((f"{column} " for column in table.columns), widths, strict=True)
    yield " " * (first + 3) + "  ".join(f"{column:>{width}}" for column, width in heads)
    for row in table.rows:
        cells = zip(row.cells, widths, strict=True)
        shown = (f"{cell.text + ('*' if cell.best else ' '):>{width}}" for cell, width in cells)
        yield f"  {row.subject:{first}} {'  '.join(shown)}".rstrip()
