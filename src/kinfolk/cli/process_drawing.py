"""The tree as lines: columns, and one of them indented by the branches of the tree.

      PID USER STATE    AGE NOTE COMMAND
        1 root sleeping  3d      init
       80 root sleeping  3d      ├─ cron
      112 ann  sleeping  2h      └─ sh
      113 ann  running   2h         └─ make

Rules:
1. One process is one line, whatever its name and arguments hold.
2. The branches of `_DEEPEST` levels are drawn, and deeper ones begin with an ellipsis: a line stays short, however deep the tree.
3. Nothing recurses.
"""

from __future__ import annotations

import codecs
import locale
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import kinfolk as kin
from kinfolk.cli.failures import printable
from kinfolk.cli.process_columns import COLUMNS, DRAWN

_DEEPEST = 40


class Glyphs(NamedTuple):
    """What branches are made of."""

    child: str
    last: str
    passing: str
    nothing: str
    deeper: str


_BOX = Glyphs("├─ ", "└─ ", "│  ", "   ", "… ")
_ASCII = Glyphs("|- ", "`- ", "|  ", "   ", "+ ")


class Line(NamedTuple):
    """A line to print, and what it is about; None for the headings."""

    text: str
    process: kin.ProcessInfo | None


class _Row(NamedTuple):
    cells: list[str]
    process: kin.ProcessInfo


def charset() -> str:
    """The encoding of the user's locale (LC_ALL, LC_CTYPE, LANG)."""
    try:
        return codecs.lookup(locale.nl_langinfo(locale.CODESET)).name
    except LookupError:
        return "ascii"


def glyphs_for(encoding: str) -> Glyphs:
    """Box drawing where the encoding has it, else ASCII."""
    try:
        "".join(_BOX).encode(encoding)
    except UnicodeEncodeError:
        return _ASCII
    return _BOX


def draw(
    tree: kin.ProcessTree,
    tops: Iterable[kin.ProcessInfo],
    shown: set[int] | None,
    columns: Sequence[str],
    *,
    glyphs: Glyphs,
    headings: bool,
) -> Iterator[Line]:
    """The processes below ``tops``, those of ``shown`` alone if given, as lines."""
    drawn = next((columns.index(name) for name in DRAWN if name in columns), None)
    rows = list(_rows(tree, tops, shown, columns, drawn, glyphs))
    head = [name.upper() for name in columns]
    widths = [
        max([len(head[n]) if headings else 0, *(len(row.cells[n]) for row in rows)])
        for n in range(len(columns))
    ]
    if headings:
        yield Line(_join(head, widths, columns), None)
    for row in rows:
        yield Line(_join(row.cells, widths, columns), row.process)


def _join(cells: Sequence[str], widths: Sequence[int], columns: Sequence[str]) -> str:
    padded = [
        cell.rjust(width) if COLUMNS[name].is_number else cell.ljust(width)
        for cell, width, name in zip(cells, widths, columns, strict=True)
    ]
    if columns and not COLUMNS[columns[-1]].is_number:
        padded[-1] = cells[-1]
    return " ".join(padded)


def _rows(
    tree: kin.ProcessTree,
    tops: Iterable[kin.ProcessInfo],
    shown: set[int] | None,
    columns: Sequence[str],
    drawn: int | None,
    glyphs: Glyphs,
) -> Iterator[_Row]:
    # What is still to draw, with the branches above its children and the ones right before it.
    waiting = [(process, _Branches(glyphs, ""), "") for process in reversed(list(tops))]
    while waiting:
        process, above, branch = waiting.pop()
        yield _Row(_cells(process, columns, drawn, above.before(branch)), process)
        below = above.below(branch)
        children = [
            child for child in tree.children(process) if shown is None or child.pid in shown
        ]
        threads = [thread for thread in process.threads or () if thread.tid != process.pid]
        for number, thread in enumerate(threads):
            is_last = number == len(threads) - 1 and not children
            yield _Row(
                _thread_cells(thread, columns, drawn, below.before(_branch(glyphs, is_last))),
                process,
            )
        waiting.extend(
            (child, below, _branch(glyphs, child is children[-1])) for child in reversed(children)
        )


def _branch(glyphs: Glyphs, is_last: bool) -> str:
    return glyphs.last if is_last else glyphs.child


class _Branches(NamedTuple):
    """The branches that pass by a line on its left; at most `_DEEPEST` of them."""

    glyphs: Glyphs
    passing: str
    depth: int = 0

    def before(self, branch: str) -> str:
        """All that stands before a line whose own branch is ``branch``."""
        deeper = self.glyphs.deeper if self.depth > _DEEPEST else ""
        return f"{deeper}{self.passing}{branch}"

    def below(self, branch: str) -> _Branches:
        """Those by its children."""
        if not branch:
            return self
        goes_on = self.glyphs.passing if branch == self.glyphs.child else self.glyphs.nothing
        width = _DEEPEST * len(goes_on)
        return _Branches(self.glyphs, (self.passing + goes_on)[-width:], self.depth + 1)


def _cells(
    process: kin.ProcessInfo, columns: Sequence[str], drawn: int | None, before: str
) -> list[str]:
    cells = [COLUMNS[name].text(process) for name in columns]
    if drawn is not None:
        cells[drawn] = before + cells[drawn]
    return cells


def _thread_cells(
    thread: kin.ThreadInfo, columns: Sequence[str], drawn: int | None, before: str
) -> list[str]:
    cells = [""] * len(columns)
    for number, name in enumerate(columns):
        if name == "pid":
            cells[number] = str(thread.tid)
        elif name == "state":
            cells[number] = thread.condition
        elif number == drawn:
            cells[number] = f"{before}{{{printable(thread.name)}}}"
    return cells
