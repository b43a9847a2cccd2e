"""Results for other programs and other people: CSV, a line for each round and figure; Markdown, as
the project's own tables.
"""

from __future__ import annotations

import csv
import io

from kinfolk.bench.cases import METRICS
from kinfolk.bench.results import Document, in_order
from kinfolk.bench.tables import Table, tables

_CASE = ("workload", "subject", "size", "senders", "receivers", "grows", "variant")


def to_csv(document: Document) -> str:
    """One line for each figure of each round; ``round`` is ``tail`` for what is said of all samples
    together.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_CASE, "round", "count", "metric", "unit", "value", "failure"])
    for result in in_order(document.results):
        case = [getattr(result.case, field) for field in _CASE]
        if result.failure is not None:
            failure = f"{result.failure.reason}: {result.failure.text}"
            writer.writerow([*case, "", result.count, "", "", "", failure])
        for number, metrics in enumerate(result.rounds, 1):
            for metric, value in metrics.items():
                unit = METRICS[metric].unit if metric in METRICS else ""
                writer.writerow([*case, number, result.count, metric, unit, repr(value), ""])
        for level, value in result.tail.items():
            writer.writerow([*case, "tail", result.count, level, "µs", repr(value), ""])
    return text.getvalue()


def to_markdown(document: Document) -> str:
    """The tables, the claims, and on what it was measured."""
    parts = [_as_markdown(table) for table in tables(document)]
    if document.verdicts:
        parts.append(
            "\n".join(
                f"- **{verdict.claim}** {verdict.holds}. {verdict.found}"
                for verdict in document.verdicts
            )
        )
    parts.append(f"{document.machine.sentence}. {conditions(document)}")
    return "\n\n".join(parts) + "\n"


def conditions(document: Document) -> str:
    """How it was measured, and what may be wrong with it, in some sentences."""
    settings = document.settings
    said = [
        f"{_rounds(document)} interleaved rounds after {settings.warmup} of warm-up, processes "
        f"{settings.placement}; others used {document.others:.0%} of the CPUs meanwhile."
    ]
    if document.interrupted:
        said.append("The run ended early: not all of it was measured.")
    if document.missing:
        said.append(f"Not installed: {', '.join(document.missing)} (pip install kinfolk[peers]).")
    return " ".join(said)


def _rounds(document: Document) -> str:
    """As many as the cases have; those whose turns came before time was up have one more."""
    counts = {len(result.rounds) for result in document.measured()} or {0}
    fewest, most = min(counts), max(counts)
    return str(most) if fewest == most else f"{fewest} to {most}"


def _as_markdown(table: Table) -> str:
    rows = [
        "| " + " | ".join([row.subject, *(_bold(c.text, c.best) for c in row.cells)]) + " |"
        for row in table.rows
    ]
    head = "| | " + " | ".join(table.columns) + " |"
    line = "|---|" + "---:|" * len(table.columns)
    return "\n".join([f"**{table.title}**", "", head, line, *rows])


def _bold(text: str, best: bool) -> str:
    return f"**{text}**" if best else text
