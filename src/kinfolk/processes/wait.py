"""Waiting for several processes: for one of them, whichever is first, or for all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import cast

from kinfolk.errors import InvalidValue
from kinfolk.interest import Interest, Steps
from kinfolk.processes.custody import TRACED, awaiting, blocking
from kinfolk.processes.exit_status import ExitStatus
from kinfolk.processes.process import Process


def wait_any(processes: Iterable[Process], timeout: float | None = None) -> Process:
    """Wait until one of several processes has ended; which: the first in order, when more than one has.

    Its ``status`` says how. ``timeout`` in seconds (None: for ever; 0: only one that has ended, as WNOHANG). Raises
    Timeout, InvalidValue for none at all or for what is no Process, LimitReached: it takes a descriptor each meanwhile. Thread-safe.
    """
    several = _some(processes)
    return blocking(_first(several), timeout, f"none of {len(several)} processes has ended")


async def await_any(processes: Iterable[Process], timeout: float | None = None) -> Process:
    """`wait_any`, on asyncio."""
    several = _some(processes)
    return await awaiting(_first(several), timeout, f"none of {len(several)} processes has ended")


def wait_all(processes: Iterable[Process], timeout: float | None = None) -> list[ExitStatus]:
    """Wait until all of several processes have ended; how, in their order.

    ``timeout`` in seconds for all of them together (None: for ever; 0: only if all have ended). Raises Timeout: those
    that have ended keep their ``status``. Thread-safe.
    """
    several = _listed(processes)
    return blocking(_every(several), timeout, f"not all of {len(several)} processes have ended")


async def await_all(processes: Iterable[Process], timeout: float | None = None) -> list[ExitStatus]:
    """`wait_all`, on asyncio."""
    several = _listed(processes)
    what = f"not all of {len(several)} processes have ended"
    return await awaiting(_every(several), timeout, what)


def _some(processes: Iterable[Process]) -> list[Process]:
    several = _listed(processes)
    if not several:
        raise InvalidValue("there is no process to wait for", remedy="give one or more")
    return several


def _listed(processes: Iterable[Process]) -> list[Process]:
    several: list[object] = list(processes) if isinstance(processes, Iterable) else []
    wrong = [each for each in several if not isinstance(each, Process)]
    if wrong or not isinstance(processes, Iterable):
        raise InvalidValue(
            f"{(wrong or [processes])[0]!r} can't be waited for here",
            remedy="give a sequence of what kin.spawn has returned",
        )
    return cast("list[Process]", several)


def _first(processes: list[Process]) -> Steps[Process]:
    if (done := _ended_one(processes)) is not None:
        return done
    with contextlib.ExitStack() as watches:
        interests = [watches.enter_context(process._custody.watched()) for process in processes]
        either = Interest(readable=tuple(fd for each in interests for fd in each.readable))
        while (done := _ended_one(processes)) is None:
            yield either
            if (done := _ended_one(processes)) is not None:
                break
            yield Interest(again_in=TRACED)
    return done


def _ended_one(processes: list[Process]) -> Process | None:
    return next((process for process in processes if process.status is not None), None)


def _every(processes: list[Process]) -> Steps[list[ExitStatus]]:
    statuses = []
    for process in processes:
        statuses.append((yield from process._custody.ended()))  # noqa: PERF401
    return statuses
