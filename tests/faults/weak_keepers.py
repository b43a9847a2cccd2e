"""Keepers without one of their guards: what the tests of containment must notice.

Each is what a keeper process runs, in place of `kinfolk.processes.keeper:main`.
"""

from __future__ import annotations

import os
import select
import signal

import msgspec

from kinfolk.processes import felling, keeper, namespace
from kinfolk.processes.keeper_messages import OWNER


def without_subreaper() -> None:
    """Orphans go to init."""
    keeper.Keeper._adopt_orphans = lambda self: None  # type: ignore[method-assign]
    keeper.main()


def without_owner_watch() -> None:
    """The owner's death is not seen, nor the end of its line."""
    real = select.poll

    class Blind:
        def __init__(self) -> None:
            self._poll = real()

        def register(self, fd: int, mask: int) -> None:
            if fd != OWNER:
                self._poll.register(fd, mask)

        def __getattr__(self, name: str):
            return getattr(self._poll, name)

    select.poll = Blind  # type: ignore[assignment,misc]
    keeper.main()


def without_death_signal() -> None:
    """Programs outlive the keeper."""
    here = keeper._here

    def deaf(launch, descriptors):
        return msgspec.structs.replace(here(launch, descriptors), death_signal=None)

    keeper._here = deaf
    keeper.main()


def with_one_round() -> None:
    """Kills its own children once, and ends."""

    def end_all(self: keeper.Keeper) -> None:
        for pid in felling.children_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)

    keeper.Keeper.end_all = end_all  # type: ignore[method-assign]
    keeper.main()


def that_dies_of_requests() -> None:
    """Reads a request, and is killed before it can answer."""
    keeper.Keeper._serve = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    keeper.main()


def that_can_not_run() -> None:
    """Has a fault of its own."""
    raise RuntimeError("no keeper today")


def without_namespaces() -> None:
    """Runs where the kernel refuses them."""

    def refused(flags: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    namespace._native.unshare = refused  # type: ignore[attr-defined]
    namespace.main()
