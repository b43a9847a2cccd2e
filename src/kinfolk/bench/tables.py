"""Results as tables: the rows are subjects, the columns cases that differ in nothing else; for the
terminal, Markdown and HTML alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kinfolk.bench.cases import METRICS, Case
from kinfolk.bench.results import Document, Result, in_order
from kinfolk.bench.sizes import Shape, format_size


class Cell(NamedTuple):
    """One figure."""

    text: str
    #: the best of its column, among those that wait in the same way
    best: bool = False
    #: more of it, for who asks: the spread, or why there is none
    note: str = ""


class Row(NamedTuple):
    """A subject."""

    subject: str
    cells: list[Cell]


class Table(NamedTuple):
    """A workload."""

    title: str
    columns: list[str]
    rows: list[Row]


def number(value: float | None) -> str:
    """Three digits that count, as people read them."""
    if value is None:
        return "–"
    if value != 0 and abs(value) < 0.01:
        return f"{value:.2g}"
    if abs(value) >= 1_000:
        digits = len(f"{abs(value):.0f}")
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


def tables(document: Document) -> Iterator[Table]:
    """All of a run's, the main figure of each case."""
    results = in_order(document.results)
    for workload in dict.fromkeys(result.case.workload for result in results):
        those = [result for result in results if result.case.workload == workload]
        for metric in _metrics(those):
            yield table_of(document, _about(those, metric), metric)
        if tails := [result for result in those if result.tail]:
            yield tail_table(tails)
        if workload == "stream" and (streams := smallest_streams(those)):
            yield cost_table(streams)


def _about(results: list[Result], metric: str) -> list[Result]:
    """Those of the variants that have this figure at all."""
    variants = {result.case.variant for result in results if metric in result.figures or not metric}
    return [result for result in results if not variants or result.case.variant in variants]


def table_of(document: Document, results: list[Result], metric: str) -> Table:
    """One figure of results that differ in subject, size, shape, …; of one workload."""
    columns = list(dict.fromkeys(_column(result.case) for result in results))
    rows = _rows(document, results, columns, metric)
    title = _title(results[0].case.workload, metric)
    return Table(title, [_heading(column, columns) for column in columns], rows)


_Column = tuple[str, int, int, int, int]


def _column(case: Case) -> _Column:
    return case.variant, case.senders, case.receivers, case.size, case.grows


def _heading(column: _Column, among: list[_Column]) -> str:
    """What tells it from the others."""
    variant, senders, receivers, size, grows = column
    if grows:
        large = all(other[4] % (1 << 20) == 0 for other in among)
        return format_size(grows) if large else f"{grows:,}"
    words = [variant] if variant else []
    if len({other[1:3] for other in among}) > 1:
        words.append(str(Shape(senders, receivers)))
    words += [format_size(size)] if size else []
    return " ".join(words)


def _metrics(results: Iterable[Result]) -> list[str]:
    """The figures that are shown: where a workload is about several, all of them."""
    first = next((result for result in results if result.rounds), None)
    if first is None:
        return [""]
    several = {
        "start-up": ["import", "open", "first"],
        "processes": ["start", "total"],
        "locks": ["pair", "pairs", "takeover"],
        "waking": ["answer", "call"],
    }
    return several.get(first.case.workload, [first.main])


def _title(workload: str, metric: str) -> str:
    if not metric:
        return workload
    unit = f", {METRICS[metric].unit}" if METRICS[metric].unit else ""
    return f"{workload}: {METRICS[metric].meaning}{unit}"


def _rows(
    document: Document, results: list[Result], columns: list[_Column], metric: str
) -> list[Row]:
    best = {
        (column, waiting): _best(
            [
                value
                for result in results
                if _column(result.case) == column
                and _waiting(document, result) == waiting
                and (value := result.figure(metric)) is not None
            ],
            metric,
        )
        for column in columns
        for waiting in ("blocking", "spinning")
    }
    found: dict[str, dict[_Column, Cell]] = {}
    for result in results:
        value = result.figure(metric)
        note = result.failure.text if result.failure else _spread(result, metric)
        winner = (
            value is not None and value == best[_column(result.case), _waiting(document, result)]
        )
        text = number(value) if result.failure is None else _word(result)
        found.setdefault(result.case.subject, {})[_column(result.case)] = Cell(text, winner, note)
    return [
        Row(subject, [cells.get(column, Cell("–")) for column in columns])
        for subject, cells in found.items()
        if any(cell.text != "–" for cell in cells.values())
    ]


def _best(values: list[float], metric: str) -> float | None:
    if len(values) < 2:
        return None
    return min(values) if METRICS[metric].better == "lower" else max(values)


def _word(result: Result) -> str:
    assert result.failure is not None
    return "–" if result.failure.reason in ("unsupported", "missing") else result.failure.reason


def _spread(result: Result, metric: str) -> str:
    spread = result.spread(metric)
    return f"± {spread / 2:.0%}" if spread else ""


def _waiting(document: Document, result: Result) -> str:
    about = document.about(result.case.subject)
    return about.waiting if about else "blocking"


def tail_table(results: list[Result]) -> Table:
    """How bad it can get: of the smallest size, where the tail is the machine's and the mechanism's
    alone.
    """
    case = min((result.case for result in results), key=lambda case: case.size)
    levels = ["p50", "p99", "p99.9", "max"]
    rows = [
        Row(result.case.subject, [Cell(number(result.tail.get(level))) for level in levels])
        for result in results
        if result.case.size == case.size
    ]
    of = f" of {format_size(case.size)}" if case.size else f", {case.variant}"
    return Table(f"{case.workload}{of}: the tail, µs", levels, rows)


def smallest_streams(results: Iterable[Result]) -> list[Result]:
    """Those of the smallest size between two processes, where the cost is that of the call."""
    two = [r for r in results if r.rounds and (r.case.senders, r.case.receivers) == (1, 1)]
    size = min((result.case.size for result in two), default=0)
    return [result for result in two if result.case.size == size]


_COSTS = {
    "cpu_sender": "sender, µs",
    "cpu_receiver": "receiver, µs",
    "switches": "context switches",
    "faults": "page faults",
    "memory": "memory, B",
}


def cost_table(results: list[Result]) -> Table:
    """What each message costs, beside time; of streams of one size."""
    rows = [
        Row(result.case.subject, [Cell(number(result.figure(metric))) for metric in _COSTS])
        for result in results
    ]
    size = format_size(results[0].case.size)
    title = f"cost of a message of {size} in a stream: CPU time, …; memory of all of it"
    return Table(title, list(_COSTS.values()), rows)
