"""The bar on a terminal: what, how much, how fast, how long still.

Only where standard error is a terminal that can move its cursor, nobody said --quiet, and the data itself does not run
over the same terminal. NO_COLOR is honoured, by rich. Elsewhere a `Progress` does nothing, and rich is not imported.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kinfolk.cli.signals import held_back

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Counts bytes, and shows them where somebody looks; a context manager."""

    def __init__(
        self, what: str, total: int | None, *, quiet: bool, data_on_terminal: bool
    ) -> None:
        """``total`` is None while nobody knows it."""
        self._what, self._total = what, total
        self._bar: Bar | None = None
        self._shown = not quiet and not data_on_terminal and can_show()

    def __enter__(self) -> Self:
        if self._shown:
            self._bar = _make_bar()
            self._task = self._bar.add_task(_shortened(self._what), total=self._total)
            start(self._bar)
        return self

    def expect(self, total: int | None) -> None:
        """The total has become known."""
        if self._bar is not None and total is not None:
            self._bar.update(self._task, total=total)

    def advance(self, size: int) -> None:
        """So many bytes more."""
        if self._bar is not None:
            self._bar.advance(self._task, size)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            if error is None:  # a total that nobody knew is what came
                done = self._bar.tasks[0].completed
                self._bar.update(self._task, total=done, completed=done)
            with held_back():
                self._bar.stop()


def start(bar: Bar) -> None:
    """Show a bar."""
    try:
        with held_back():
            bar.start()
    except BaseException:  # a signal: nobody else would give the cursor back
        bar.stop()
        raise


def can_show() -> bool:
    """Whether standard error is a terminal that can move its cursor."""
    try:
        return os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    except OSError:
        return False


def _make_bar() -> Bar:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar
    from rich.table import Column

    numbers = (DownloadColumn, TransferSpeedColumn, TimeRemainingColumn)
    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(24)]
    columns += [number(table_column=Column(no_wrap=True)) for number in numbers]
    return Bar(*columns, console=Console(stderr=True))


def _shortened(what: str) -> str:
    """The end of a name says more than its beginning."""
    return what if len(what) <= _NAME else "…" + what[1 - _NAME :]


_NAME = 26
