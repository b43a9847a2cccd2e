"""The bar of `kin bench`: which case, how many of them, how long still. Only where `kinfolk.cli.progress` would show one."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from kinfolk.cli.progress import can_show, start
from kinfolk.cli.signals import held_back

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Turns:
    """Counts turns, and shows them where somebody looks; a context manager."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = can_show() and not quiet
        self._bar: Bar | None = None

    def __enter__(self) -> Self:
        if self._shown:
            self._bar = _make_bar()
            self._task = self._bar.add_task("", total=None, left="")
            start(self._bar)
        return self

    def show(self, what: str, number: int, of: int, left: float | None) -> None:
        """Turn ``number`` of ``of`` begins, and ``left`` seconds remain, if anybody knows."""
        if self._bar is not None:
            remaining = "" if left is None else _duration(left)
            self._bar.update(
                self._task, description=what[:_WIDTH], completed=number, total=of, left=remaining
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            with held_back():
                self._bar.stop()


_WIDTH = 44


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s left"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s left"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min left"


def _make_bar() -> Bar:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    return Bar(
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
