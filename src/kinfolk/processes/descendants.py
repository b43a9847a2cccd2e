"""A child of this process and everything below it: to signal them all, and to end them all, also when the child itself has ended.

    root ─┬─ child ── grandchild          by parent (kinfolk.processes.felling)
          └─ …
    whoever is in the session or process group that the root leads, wherever his parent has gone
    whoever the keeper has adopted from below the root (kinfolk.processes.mark), whatever his session

Rules:
1. Whoever was seen once stays a member, with what he starts, even when he has lost his parent and so his place below the root.
2. Members are identities, and a signal goes through a pidfd whose process was seen to be the one meant.
3. Without a keeper, who changed his session and lost his parent before anybody looked is not found.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from kinfolk.errors import from_os_error
from kinfolk.identity import Identity, is_dead, open_pidfd, start_time
from kinfolk.processes.felling import kill_below, send, visit


class Descendants:
    """A root and everybody below it. Not thread-safe. Everything raises LimitReached for want of descriptors."""

    def __init__(
        self,
        root: Identity,
        *,
        leads: bool,
        orphans: Callable[[], Iterable[Identity]] = tuple,
    ) -> None:
        """``leads``: whether it leads a process group, and perhaps a session, of its own.

        ``orphans`` finds those whom their adopter knows to stem from the root.
        """
        self._root, self._leads, self._orphans = root, leads, orphans
        self._known = {root}

    def members(self) -> list[int]:
        """The pids of the living ones. None: at a moment at which nobody went who could have left another one."""
        found: dict[int, None] = {}
        gone = True
        while gone and not found:
            gone, strays = False, self._strays()
            for identity in dict.fromkeys((self._root, *self._known, *strays)):
                if identity.pid not in found:
                    with _held(identity) as pidfd:
                        if pidfd is not None:
                            found |= dict.fromkeys((identity.pid, *visit(identity.pid, pidfd)))
                        elif identity in strays:
                            gone = True
        self._learn(found)
        return list(found)

    def signal(self, number: int) -> None:
        """Send a signal to each; after SIGTERM those that have stopped are woken for it."""
        self.members()  # before anybody ends of it, and those below him lose their place
        for identity in self._tops():
            with _held(identity) as pidfd:
                if pidfd is not None:
                    send(pidfd, number)
                    if number == signal.SIGTERM:
                        send(pidfd, signal.SIGCONT)

    def kill(self) -> None:
        """Kill each, and whoever they start meanwhile."""
        done: set[Identity] = set()
        while new := [identity for identity in self._tops() if identity not in done]:
            for identity in new:
                with _held(identity) as pidfd:
                    if pidfd is not None:
                        self._learn(kill_below(identity.pid, pidfd))
                        send(pidfd, signal.SIGKILL)
            done.update(new)

    def _learn(self, pids: Iterable[int]) -> None:
        self._known.update(filter(None, map(Identity.of, pids)))

    def _tops(self) -> list[Identity]:
        """Who is known, the root first, and the strays: below these are all others."""
        return list(dict.fromkeys((self._root, *self._known, *self._strays())))

    def _strays(self) -> set[Identity]:
        """Who lives elsewhere: was adopted, or is in its group."""
        strays = set(self._orphans())
        # As long as somebody is in a group, its number is given to no other process.
        if self._leads and start_time(self._root.pid) in (None, self._root.start_time):
            strays.update(_group(self._root.pid))
        return strays


def _group(number: int) -> Iterator[Identity]:
    """Who lives in a process group or session; fields 3, 5, 6 and 22 of proc_pid_stat(5)."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if number in (int(fields[2]), int(fields[3])) and fields[0] not in (b"Z", b"X"):
                    yield Identity(int(name), int(fields[19]))


@contextlib.contextmanager
def _held(identity: Identity) -> Iterator[int | None]:
    """A pidfd of exactly this process; None when it is dead."""
    try:
        pidfd = open_pidfd(identity.pid)
    except OSError as error:
        raise from_os_error(error, "can't signal", f"process {identity.pid}") from error
    if pidfd is None:
        yield None
        return
    try:
        # If it is there now, it was when the pidfd was opened, for a start time never comes back.
        same = start_time(identity.pid) == identity.start_time
        yield pidfd if same and not is_dead(pidfd) else None
    except OSError as error:
        raise from_os_error(error, "can't signal", f"process {identity.pid}") from error
    finally:
        os.close(pidfd)
