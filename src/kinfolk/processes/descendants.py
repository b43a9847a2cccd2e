"""A child of this process and everything below it: to signal them all, and to end them all, also when the child itself has ended.

    root ─┬─ child ── grandchild          by parent (kinfolk.processes.felling)
          └─ …
    with a keeper: whoever carries the mark of the root (kinfolk.processes.mark), whatever his session
    without one: whoever is in the session or process group that the root leads, and has lost his parent

Rules:
1. Whoever was seen once stays a member, with what he starts, even when he has lost his parent and so his place below the root.
2. Members are identities, and a signal goes through a pidfd whose process was seen to be the one meant.
3. Without a keeper, who changed his session and lost his parent before anybody looked is not found.
4. The number of a group says whose it is only as long as somebody has been in it without a gap: else it may be a stranger's by now, who has got
   the root's old number, and whose leader has gone too. So after the group was read, a pidfd of the root is asked whether its own group still has
   somebody (PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9); on older kernels its number has to be the root's still.
5. Who is in the group because another child of this process has joined it, or is below that one, is none of the root's: seen by his parents. So where
   this process adopts orphans itself (a subreaper, process 1), those of the root are not told from its other children, and left alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from kinfolk.errors import from_os_error, is_bare
from kinfolk.identity import Identity, is_dead, open_pidfd, start_time
from kinfolk.processes.felling import kill_below, parent_of, send, visit

#: For pidfd_send_signal(2): to the group of the number that the pidfd stands for. Python does not name it.
_PROCESS_GROUP = 1 << 2


class Descendants:
    """A root and everybody below it. Not thread-safe. Everything raises LimitReached for want of descriptors."""

    def __init__(
        self,
        root: Identity,
        *,
        leader: Callable[[], int | None] = lambda: None,
        orphans: Callable[[], Iterable[Identity]] = tuple,
    ) -> None:
        """``leader``: a pidfd of the root, if that leads a process group, and perhaps a session, of its own.

        ``orphans`` finds those that carry its mark.
        """
        self._root, self._leader, self._orphans = root, leader, orphans
        self._known = {root}

    def members(self) -> list[int]:
        """The pids of the living ones. None: at a moment at which nobody went who could have left another one."""
        found: dict[int, None] = {}
        gone = True
        with self._translated():
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
        with self._translated():
            for identity in self._tops():
                with _held(identity) as pidfd:
                    if pidfd is not None:
                        send(pidfd, number)
                        if number == signal.SIGTERM:
                            send(pidfd, signal.SIGCONT)

    def kill(self) -> None:
        """Kill each, and whoever they start meanwhile."""
        done: set[Identity] = set()
        with self._translated():
            while new := [identity for identity in self._tops() if identity not in done]:
                for identity in new:
                    with _held(identity) as pidfd:
                        if pidfd is not None:
                            self._learn(kill_below(identity.pid, pidfd))
                            send(pidfd, signal.SIGKILL)
                done.update(new)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not is_bare(error):
                raise
            what = "what is below it can't be seen"
            raise from_os_error(error, what, f"process {self._root.pid}") from error

    def _learn(self, pids: Iterable[int]) -> None:
        self._known.update(filter(None, map(Identity.of, pids)))

    def _tops(self) -> list[Identity]:
        """Who is known, the root first, and the strays: below these are all others."""
        return list(dict.fromkeys((self._root, *self._known, *self._strays())))

    def _strays(self) -> set[Identity]:
        """Who lives elsewhere: carries the mark, or is in its group."""
        strays = set(self._orphans())
        if (leader := self._leader()) is not None:
            strays.update(self._in_group(leader))
        return strays

    def _in_group(self, leader: int) -> list[Identity]:
        """Rules 4 and 5."""
        found = [who for who in _group(self._root.pid) if not self._is_another_child(who.pid)]
        # Now, for until now it has been the same group then.
        if not found or (has := has_a_group(leader)) is False:
            return []
        if has is None:
            has = start_time(self._root.pid) == self._root.start_time
        return found if has else []

    def _is_another_child(self, pid: int) -> bool:
        """Whether it is a child of this process, or below one, and that is not the root."""
        own = os.getpid()
        while parent := parent_of(pid):
            if parent == own:
                return pid != self._root.pid
            pid = parent
        return False


def has_a_group(leader: int) -> bool | None:
    """Whether somebody, be it a zombie, is in the process group that the process of a pidfd leads or has led; None: the kernel is too old."""
    try:
        signal.pidfd_send_signal(leader, 0, None, _PROCESS_GROUP)
    except ProcessLookupError:
        return False
    except PermissionError:  # to somebody who is there
        return True
    except OSError:
        return None
    return True


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
    """A pidfd of exactly this process; None when it is dead. Raises OSError for want of descriptors."""
    pidfd = open_pidfd(identity.pid)
    if pidfd is None:
        yield None
        return
    try:
        # If it is there now, it was when the pidfd was opened, for a start time never comes back.
        same = start_time(identity.pid) == identity.start_time
        yield pidfd if same and not is_dead(pidfd) else None
    finally:
        os.close(pidfd)
