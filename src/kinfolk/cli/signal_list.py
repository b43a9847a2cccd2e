"""`kin signals`: the table of this machine's signals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import click

import kinfolk as kin
from kinfolk.cli import parameters
from kinfolk.cli.reports import emit, print_bytes

Value = int | str | bool


class _Column(NamedTuple):
    value: Callable[[kin.signals.Entry], Value]
    is_number: bool = False

    def text(self, entry: kin.signals.Entry) -> str:
        value = self.value(entry)
        return ("no", "yes")[value] if isinstance(value, bool) else str(value)


COLUMNS: dict[str, _Column] = {
    "number": _Column(lambda entry: int(entry.number), is_number=True),
    "name": _Column(lambda entry: entry.name),
    "action": _Column(lambda entry: entry.action),
    "catchable": _Column(lambda entry: entry.catchable),
    "meaning": _Column(lambda entry: entry.meaning),
}


@click.command(short_help="List the signals: numbers, default actions, meanings.")
@click.argument("names", nargs=-1, metavar="[SIGNAL]...")
@click.option(
    "-o",
    "--output",
    "columns",
    metavar="COLUMNS",
    help=f"Show these columns, with commas between: {', '.join(COLUMNS)}.",
)
@click.option("-n", "--noheadings", is_flag=True, help="No line of headings.")
@parameters.as_json("standard output, instead of the table")
def command(names: tuple[str, ...], columns: str | None, noheadings: bool, as_json: bool) -> None:
    """Show each SIGNAL, by number or name, or all of them: what it is called, what it does to who says nothing, and why it is sent."""
    chosen = tuple(COLUMNS) if columns is None else _parsed(columns)
    entries = [kin.signals.entry_of(name) for name in names] or kin.signals.table()
    if as_json:
        rows = [{name: COLUMNS[name].value(entry) for name in chosen} for entry in entries]
        emit({"command": "signals", "signals": rows}, to_stderr=False)
    else:
        _print(list(_lines(entries, chosen)), headings=not noheadings)


def _parsed(columns: str) -> tuple[str, ...]:
    chosen = tuple(name.strip().lower() for name in columns.split(","))
    for name in chosen:
        if name not in COLUMNS:
            raise kin.UsageError(
                f"there is no column {name!r}",
                subject="-o",
                remedy=f"choose of {', '.join(COLUMNS)}",
            )
    return chosen


def _lines(entries: Sequence[kin.signals.Entry], columns: Sequence[str]) -> Iterator[str]:
    """The headings, then a line each."""
    rows = [[name.upper() for name in columns]]
    rows += [[COLUMNS[name].text(entry) for name in columns] for entry in entries]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if COLUMNS[name].is_number else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        ]
        yield " ".join(cells).rstrip()


def _print(lines: list[str], headings: bool) -> None:
    shown = lines if headings else lines[1:]
    if not os.isatty(1):
        print_bytes("".join(f"{line}\n" for line in shown).encode())
        return
    # rich cuts to the width of the terminal, and leaves colour out where NO_COLOR or the terminal forbids it.
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    with console.capture() as captured:
        for line in shown:
            style = "bold" if line is lines[0] else ""
            console.print(Text(line, style=style, no_wrap=True), overflow="ellipsis", crop=True)
    print_bytes(captured.get().encode(console.encoding, "backslashreplace"))
