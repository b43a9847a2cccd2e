"""What stands on the page: sections, each with a figure, a sentence that says how to read it, and
the same figures as a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from kinfolk.bench import choosing
from kinfolk.bench.bends import BEND, bend
from kinfolk.bench.cases import METRICS, Case
from kinfolk.bench.report import plots
from kinfolk.bench.results import Document, Result
from kinfolk.bench.sizes import Shape, format_size
from kinfolk.bench.subject import NEEDS
from kinfolk.bench.tables import (
    Cell,
    Row,
    Table,
    cost_table,
    number,
    smallest_streams,
    table_of,
    tables,
    tail_table,
)


class Section(NamedTuple):
    """A part of the page."""

    anchor: str
    title: str
    #: HTML
    text: str
    plot: plots.Plot | None = None
    tables: tuple[Table, ...] = ()


def sections(document: Document) -> Iterator[Section]:
    """Those that this run has something for."""
    yield from _choice(document)
    yield from _over_size(document)
    yield from _tail(document)
    yield from _cpu(document)
    yield from _shapes(document)
    yield from _start_up(document)
    yield from _growth(document)
    yield from _others(document)
    yield from _claims(document)
    yield from _subjects(document)


def _choice(document: Document) -> Iterator[Section]:
    found = list(choosing.advice(document))
    if not found:
        return
    questions = choosing.questions(document)
    columns = [_question(question, questions) for question in questions]
    rows = []
    for advice in found:
        choices = [advice.choices.get(question) for question in questions]
        rows.append(Row(advice.need.words, [_cell(choice) for choice in choices]))
    # Turned over: there are more questions than needs, and a phone is narrow.
    turned = [
        Row(column, [row.cells[place] for row in rows]) for place, column in enumerate(columns)
    ]
    needs = "".join(
        f"<li><b>{escape(name)}</b>: {escape(words)}.</li>" for name, words in NEEDS.items()
    )
    text = (
        "<p>The best of this run, on this machine, by what one needs; what lies within a tenth of "
        "it stands beside it. "
        f"Take the line of your message size.</p><ul>{needs}</ul>"
    )
    table = Table("the best that was measured", [row.subject for row in rows], turned)
    yield Section("choose", "Which to choose", text, tables=(table,))


def _question(question: Case, among: list[Case]) -> str:
    many = len({(other.senders, other.receivers) for other in among}) > 1
    shape = f" {Shape(question.senders, question.receivers)}" if many else ""
    words = {"round trip": "shortest round trip", "stream": "highest rate"}
    return f"{format_size(question.size)}{shape}: {words[question.workload]}"


def _cell(choice: choosing.Choice | None) -> Cell:
    if choice is None:
        return Cell("–")
    figure = f"{number(choice.value)} {METRICS[choice.metric].unit}"
    return Cell(f"{' or '.join(choice.best)} ({figure})")


_CURVES = (
    ("latency", "Latency over message size", "round trip", "round_trip",
     "How long it takes until the answer to a message is there. Lower is better."),
    ("rate", "Messages a second over message size", "stream", "rate",
     "One process sends, another one receives and reads all of it. Higher is better."),
    ("throughput", "Throughput over message size", "stream", "bytes_rate",
     "The same in bytes a second. Higher is better."),
    ("arrays", "Arrays", "arrays", "rate", "NumPy arrays, sent as objects. Higher is better."),
)  # fmt: skip


def _over_size(document: Document) -> Iterator[Section]:
    for anchor, title, workload, metric, text in _CURVES:
        those = [
            result
            for result in document.measured(workload)
            if (result.case.senders, result.case.receivers) == (1, 1)
        ]
        if those:
            bars = "Bars reach from the best round to the worst one; what spins is dashed."
            plot = plots.over_size(document, those, metric)
            named = (
                _tables_of(document, workload)
                if metric != "bytes_rate"
                else (table_of(document, those, metric),)
            )
            yield Section(anchor, title, f"<p>{text} {bars}</p>", plot, named)


def _tail(document: Document) -> Iterator[Section]:
    those = [result for result in document.measured("round trip") if result.tail]
    if not those:
        return
    size = min(result.case.size for result in those)
    those = [result for result in those if result.case.size == size]
    text = (
        f"<p>Round trips of {format_size(size)}, all rounds together. On the right stands what "
        "happens to one message in a "
        "thousand: there the machine's other work shows, as it does in every program.</p>"
    )
    yield Section("tail", "The tail", text, plots.tails(document, those), (tail_table(those),))


def _cpu(document: Document) -> Iterator[Section]:
    those = smallest_streams(document.measured("stream"))
    if not those:
        return
    plot = plots.stacked(those, ("cpu_sender", "cpu_receiver"), ("sending side", "receiving side"))
    text = (
        "<p>CPU time of all threads of both sides for each message, as the kernel accounts it. "
        "What spins uses its CPU "
        "whether there are messages or not.</p>"
    )
    yield Section("cpu", "CPU time of a message", text, plot, (cost_table(those),))


def _shapes(document: Document) -> Iterator[Section]:
    those = document.measured("stream")
    if len({(result.case.senders, result.case.receivers) for result in those}) < 2:
        return
    size = min(result.case.size for result in those)
    those = [result for result in those if result.case.size == size]
    text = (
        f"<p>Messages of {format_size(size)}, of all senders together; "
        "each goes to one receiver.</p>"
    )
    plot, named = plots.shapes(document, those), (table_of(document, those, "rate"),)
    yield Section("shapes", "Several senders and receivers", text, plot, named)


def _start_up(document: Document) -> Iterator[Section]:
    if those := document.measured("start-up"):
        steps = ("import", "open", "first")
        names = ("import", "both ends open", "first message")
        text = "<p>In a fresh interpreter, until the first message has arrived.</p>"
        plot = plots.stacked(those, steps, names)
        yield Section("start", "Start-up", text, plot, _tables_of(document, "start-up"))


_UNITS = {
    "messages": "messages",
    "ends": "sending processes",
    "channels": "open channels",
    "segments": "bytes",
}


def _growth(document: Document) -> Iterator[Section]:
    for workload, units in _UNITS.items():
        if those := document.measured(workload):
            sentences = [f"<li>{escape(sentence)}</li>" for sentence in bends(those, units)]
            text = (
                "<p>What each costs as there are more. A curve bends where, from there on, each "
                "costs more than "
                f"{BEND:g} times the cheapest.</p><ul>{''.join(sentences)}</ul>"
            )
            plot = plots.growth(document, those, units)
            yield Section(workload, f"As {units} grow", text, plot, _tables_of(document, workload))


def bends(results: list[Result], units: str) -> Iterator[str]:
    """Where each curve bends, a sentence for each subject."""
    for subject in dict.fromkeys(result.case.subject for result in results):
        points = plots.curve([result for result in results if result.case.subject == subject])
        where = bend(points)
        last = f"{points[-1][0]:,.0f} {units}" if points else ""
        yield (
            f"{subject}: flat up to {last}, the most that was measured"
            if where is None
            else f"{subject}: bends at {where:,.0f} {units}"
        )


_OTHERS = (
    ("one core", "round_trip", "Round trips on one core"),
    ("one by one", "rate", "One call for each message"),
    ("batches", "rate", "One call for a hundred messages"),
    ("hand-over", "hand_over", "Messages that are built where they are read"),
    ("idle", "idle", "What waiting costs"),
    ("locks", "pair", "A lock taken and released, by one process"),
    ("locks", "pairs", "A lock between two processes"),
    ("locks", "takeover", "The next holder, when the holder is killed"),
    ("waking", "answer", "Waking each other"),
    ("waking", "call", "Events and conditions with nobody to be woken"),
    ("processes", "total", "Starting processes"),
)


def _others(document: Document) -> Iterator[Section]:
    for workload, metric, title in _OTHERS:
        those = [result for result in document.measured(workload) if metric in result.figures]
        if those:
            what = METRICS[metric]
            text = f"<p>{escape(what.meaning)}, {what.unit}. The {what.better} the better.</p>"
            named = tuple(t for t in _tables_of(document, workload) if what.meaning in t.title)
            anchor = f"{workload}-{metric}".replace(" ", "-")
            yield Section(anchor, title, text, plots.bars(those, metric), named)


def _claims(document: Document) -> Iterator[Section]:
    if document.verdicts:
        items = "".join(
            f"<li><p><b>{escape(verdict.claim)}</b></p><p><mark>{escape(verdict.holds)}</mark> "
            f"{escape(verdict.found)}</p>"
            f"<p><small>How: {escape(verdict.how)}</small></p></li>"
            for verdict in document.verdicts
        )
        yield Section("claims", "The source's claims", f"<ol>{items}</ol>")


def _subjects(document: Document) -> Iterator[Section]:
    rows = [
        Row(
            about.name,
            [
                Cell(text or "–")
                for text in (about.version, about.waiting, ", ".join(about.meets), about.why)
            ],
        )
        for about in document.subjects
    ]
    table = Table("what was measured, and how", ["version", "waits", "meets", "used as"], rows)
    failed = [
        f"<li>{escape(result.case.key)}: {escape(result.failure.reason)}: "
        f"{escape(result.failure.text)}</li>"
        for result in document.results
        if result.failure is not None and result.failure.reason in ("hung", "failed")
    ]
    text = f"<p>Cut off or failed:</p><ul>{''.join(failed)}</ul>" if failed else ""
    if rows:
        yield Section("subjects", "What took part", text, tables=(table,))


def _tables_of(document: Document, workload: str) -> tuple[Table, ...]:
    return tuple(table for table in tables(document) if table.title.startswith(f"{workload}:"))
