"""How a stop speaks: lines, tables, figures and checks, for people and, the same, for programs.

Rules:
1. What is printed at once for people is also written down in an `Account`, which becomes the JSON.
2. A check is a sentence that is true or not: ✓ or ✗. Checks alone decide whether a stop passed.
3. Colour and a progress bar only on a terminal (rich sees to it, and to NO_COLOR); plain text in a
   pipe, where a sentence stays on one line.
4. What this kernel was built without is said (–) and is no failure.
"""

from __future__ import annotations

import contextlib
import errno
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

import kinfolk as kin

#: Seconds between two pictures of the progress bar.
_REFRESH = 0.1

#: How system calls say that the kernel was built without something.
_NOT_BUILT_IN = frozenset(
    {
        errno.ENOSYS,
        errno.EAFNOSUPPORT,
        errno.EPROTONOSUPPORT,
        errno.ESOCKTNOSUPPORT,
    }
)


class Column(NamedTuple):
    """A column of a table: the key in its rows, the heading, and how a value is shown."""

    key: str
    heading: str
    show: Callable[[Any], str] = str
    number: bool = True


@dataclass(slots=True)
class Check:
    """One sentence that a stop put to the test."""

    check: str
    ok: bool
    detail: str = ""


@dataclass(slots=True)
class Account:
    """Everything that a stop said and found. Its fields are the keys of the JSON."""

    name: str
    title: str
    chapter: str
    ok: bool = False
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    #: what this kernel was built without
    lacking: list[str] = field(default_factory=list)
    #: where the stop broke off, for who repairs it; empty when it was walked to its end
    traceback: str = ""


class Narrator:
    """The voice of one stop. Used by the process that walks the tour, never by its children."""

    def __init__(self, console: Console, account: Account) -> None:
        """Print to ``console`` and write down in ``account``."""
        self._console = console
        self.account = account

    def heading(self, number: int, of: int) -> None:
        """Announce the stop."""
        self._print(Text(f"{number}/{of} {self.account.name}: {self.account.title}", style="bold"))
        self._print(Text(f"the source: {self.account.chapter}", style="dim"))

    def says(self, sentence: str) -> None:
        """One line of what happened."""
        self.account.said.append(sentence)
        self._print(Text(sentence), indent=2)

    def figure(self, name: str, value: Any) -> None:
        """A number for programs; people read it in a sentence or a table."""
        self.account.figures[name] = value

    def table(
        self, name: str, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """A table, printed as the columns say and written down as the figure ``name``."""
        self.figure(name, [dict(row) for row in rows])
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for column in columns:
            table.add_column(
                self._writable(column.heading),
                justify="right" if column.number else "left",
                no_wrap=" " not in column.heading and column.number,
                overflow="fold",
            )
        for row in rows:
            cells = (
                "–" if row.get(column.key) is None else column.show(row[column.key])
                for column in columns
            )
            table.add_row(*(Text(self._writable(cell)) for cell in cells))
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def check(self, sentence: str, ok: bool, detail: str = "") -> bool:
        """Say that ``sentence`` holds, or that it does not, with what was found instead."""
        self.account.checks.append(Check(sentence, ok, detail))
        line = Text()
        line.append("✓ " if ok else "✗ ", style="bold green" if ok else "bold red")
        line.append(sentence)
        if detail and not ok:
            line.append(f" ({detail})", style="red")
        self._print(line, indent=2)
        return ok

    def broke_off(self, error: BaseException) -> None:
        """The stop could not be finished."""
        self.account.traceback = "".join(traceback.format_exception(error))
        self.unavailable(self.account.name, error, "the stop was walked to its end")

    def unavailable(self, what: str, error: BaseException, sentence: str = "") -> None:
        """It could not be shown: a failed check, unless this kernel was built without it."""
        if not kernel_lacks(error):
            self.check(sentence or f"{what} is available", False, one_line(error))
            return
        self.account.lacking.append(f"{what}: {one_line(error)}")
        self._print(Text(f"– {self.account.lacking[-1]}", style="yellow"), indent=2)

    def finish(self, seconds: float) -> None:
        """Sum up: passed when every check holds, and there was something to check."""
        account = self.account
        account.seconds = seconds
        account.ok = all(check.ok for check in account.checks) and bool(
            account.checks or account.lacking
        )
        self._console.print()

    @contextlib.contextmanager
    def progress(self, total: int) -> Iterator[Callable[[str, int], None]]:
        """A bar over ``total`` bytes; call what you get with a label and the bytes that went by.

        Nothing is shown where standard output is no terminal. No thread draws it.
        """
        bar = Progress(
            TextColumn("  {task.description:18}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=self._console,
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not self._console.is_terminal,
        )
        task = bar.add_task("", total=total)
        drawn = 0.0

        def advance(label: str, count: int) -> None:
            nonlocal drawn
            bar.update(task, advance=count, description=label)
            if time.monotonic() - drawn > _REFRESH:
                drawn = time.monotonic()
                bar.refresh()

        with bar:
            yield advance

    def _print(self, line: Text, indent: int = 0) -> None:
        line.plain = self._writable(line.plain)
        if self._console.is_terminal:
            self._console.print(Padding(line, (0, 0, 0, indent), expand=False))
        else:  # a sentence stays on one line, so that grep finds it
            self._console.print(Text(" " * indent) + line, soft_wrap=True)

    def _writable(self, text: str) -> str:
        """The text as far as the encoding of the output has it; a check mark is worth no crash."""
        encoding = self._console.encoding
        return text.encode(encoding, "replace").decode(encoding)


def kernel_lacks(error: BaseException) -> bool:
    """Whether an error comes from a system call that this kernel was built without."""
    cause: BaseException | None = error
    seen: set[int] = set()  # causes may go in a circle
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OSError) and cause.errno in _NOT_BUILT_IN:
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


def one_line(error: BaseException) -> str:
    """An error as a sentence; what is no error for people also says its type."""
    lines = str(error).strip().splitlines()
    text = lines[-1] if lines else ""
    for_people = text and type(error).__module__.startswith("kinfolk.")
    return text if for_people else f"{type(error).__name__}: {text}".rstrip(": ")


def reason(error: BaseException) -> str:
    """An error in a few words, for a cell of a table."""
    cause = error.__cause__ if isinstance(error.__cause__, kin.KinfolkError) else error
    return cause.what if isinstance(cause, kin.KinfolkError) else one_line(error)


def mib_a_second(count: int, seconds: float) -> float:
    """A rate in MiB/s; 0 when there was no time to measure."""
    return count / seconds / 2**20 if seconds > 0 else 0.0
