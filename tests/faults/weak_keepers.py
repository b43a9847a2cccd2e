"""Keepers without one of their guards: what the tests of containment must notice.

Each is what a keeper process runs, in place of `kinfolk.processes.keeper:main`.
"""

from __future__ import annotations

import os
import signal

import msgspec

from kinfolk import _native
from kinfolk.processes import felling, keeper, namespace
from kinfolk.processes.keeper_messages import LINE, OWNER


def _loop_with(**changes: int) -> None:
    """Make the native loop with other arguments than the keeper's."""
    real = _native.KeeperLoop
    names = ("line", "owner", "ended", "death_signal", "vouches")

    def altered(*arguments: int) -> object:
        return real(**{**dict(zip(names, arguments, strict=True)), **changes})  # type: ignore[arg-type]

    _native.KeeperLoop = altered  # type: ignore[misc,assignment]


def without_subreaper() -> None:
    """Orphans go to init."""
    keeper.Keeper._adopt_orphans = lambda self: None  # type: ignore[method-assign]
    keeper.main()


def without_owner_watch() -> None:
    """The owner's death is not seen, though the end of its line is."""
    never, _held = os.pipe()
    _loop_with(owner=never)
    keeper.main()


def without_death_signal() -> None:
    """Programs outlive the keeper."""
    here = keeper._here

    def deaf(launch, descriptors):
        return msgspec.structs.replace(here(launch, descriptors), death_signal=None)

    keeper._here = deaf
    _loop_with(death_signal=0)
    keeper.main()


def without_anchor() -> None:
    """The keeper's parent is another process than the owner, in another group than he."""
    if pid := os.fork():
        os.close(LINE)
        os.close(OWNER)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    keeper.main()


def with_one_round() -> None:
    """Kills its own children once, and ends."""

    def end_all(self: keeper.Keeper) -> None:
        for pid in felling.children_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)

    keeper.Keeper.end_all = end_all  # type: ignore[method-assign]
    keeper.main()


def that_can_not_kill() -> None:
    """As where all below it are another user's."""
    felling.kill_below = lambda pid, pidfd, *, spared=0: felling.children_of(pid)
    keeper.main()


def that_dies_of_requests() -> None:
    """Reads a request, and is killed before it can answer."""

    def run(self: keeper.Keeper) -> None:
        self._line.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)

    keeper.Keeper.run = run  # type: ignore[method-assign]
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
