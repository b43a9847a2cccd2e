"""The tree of processes: a snapshot of all of them, and who is whose child.

    process_tree() ──> list /proc, read each ──> whose parent is missing? read again ──> zombies: still there? ──> ProcessTree

The kernel gives no snapshot: while /proc is read, processes start and end. So it is read until it fits:

Rules:
1. A parent that is not there has ended meanwhile, and its children were adopted; or it is younger than the listing. It is looked
   for, and they are read again. What does not fit after `_ROUNDS` is left as a root.
2. No process is younger than its children: an ancestor is older, also one that adopted them. Such a parent is another process that
   got the pid, and counts as missing.
3. A zombie that its parent collected while we read is no news, and is left out. Each process is one for a moment.
4. Nothing here recurses or compares each with each: a tree may be ten thousand processes deep, or wide.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping

from kinfolk.errors import NotFound
from kinfolk.inspection.adoption import find_adoptions
from kinfolk.inspection.process_info import ProcessInfo, Reader
from kinfolk.inspection.procfs import Gone, Procfs

_ROUNDS = 3


class ProcessTree:
    """A snapshot of the processes, made by `process_tree`. Immutable; safe to share between threads."""

    def __init__(
        self, procfs: Procfs, processes: Mapping[int, ProcessInfo], unreadable: int = 0
    ) -> None:
        """``processes`` by pid; ``unreadable`` more are there, of which this user may know no more."""
        #: where it was read
        self.procfs = procfs
        self._processes = dict(processes)
        self.unreadable = unreadable
        ordered = sorted(self._processes.values(), key=_age_order)
        self._parents: dict[int, ProcessInfo] = {}
        self._children: dict[int, list[ProcessInfo]] = {}
        for process in ordered:
            parent = self._processes.get(process.parent)
            if parent is not None and _may_be_parent(parent, process):
                self._parents[process.pid] = parent
                self._children.setdefault(parent.pid, []).append(process)
        #: those whose parent is not among them: init, kthreadd, and what came in from other pid namespaces
        self.roots: tuple[ProcessInfo, ...] = tuple(self._find_roots(ordered))

    def __iter__(self) -> Iterator[ProcessInfo]:
        """Every process, the oldest first, its descendants right after it."""
        return (process for process, _ in self.walk(self.roots))

    def __len__(self) -> int:
        return len(self._processes)

    def __contains__(self, pid: object) -> bool:
        return pid in self._processes

    def get(self, pid: int) -> ProcessInfo | None:
        """The process of that pid, None when there is none, or none that this user may see."""
        return self._processes.get(pid)

    def process(self, pid: int) -> ProcessInfo:
        """The process of that pid. Raises NotFound."""
        found = self._processes.get(pid)
        if found is None:
            raise NotFound(
                "there is no such process, or none that this user may see",
                subject=f"process {pid}",
                remedy="list them: kin tree",
            )
        return found

    def children(self, process: ProcessInfo) -> tuple[ProcessInfo, ...]:
        """Its children, the oldest first."""
        return tuple(self._children.get(process.pid, ()))

    def parent(self, process: ProcessInfo) -> ProcessInfo | None:
        """Its parent, None for one of the `roots`."""
        return self._parents.get(process.pid)

    def ancestors(self, process: ProcessInfo) -> tuple[ProcessInfo, ...]:
        """Its parent, the parent's parent, and so on."""
        found = []
        parent = self._parents.get(process.pid)
        while parent is not None:
            found.append(parent)
            parent = self._parents.get(parent.pid)
        return tuple(found)

    def walk(self, tops: Iterable[ProcessInfo]) -> Iterator[tuple[ProcessInfo, int]]:
        """Each of ``tops`` and its descendants, with how deep below its top it stands; parents first."""
        waiting = [(process, 0) for process in reversed(list(tops))]
        while waiting:
            process, depth = waiting.pop()
            yield process, depth
            below = self._children.get(process.pid, ())
            waiting.extend((child, depth + 1) for child in reversed(below))

    @property
    def zombies(self) -> tuple[ProcessInfo, ...]:
        """Those that have ended and that nobody has collected."""
        return tuple(process for process in self if process.zombie)

    @property
    def orphans(self) -> tuple[ProcessInfo, ...]:
        """Those of which something shows that they were adopted."""
        return tuple(process for process in self if process.adopted is not None)

    @property
    def stopped(self) -> tuple[ProcessInfo, ...]:
        """Those that a signal or a tracer has stopped."""
        return tuple(process for process in self if process.stopped)

    def _find_roots(self, ordered: list[ProcessInfo]) -> Iterator[ProcessInfo]:
        """Those without a parent; and, where a torn snapshot made a circle of some born in one tick, one of these."""
        reached: set[int] = set()
        for certain in (True, False):
            for process in ordered:
                if process.pid in reached or (certain and process.pid in self._parents):
                    continue
                parent = self._parents.pop(process.pid, None)
                if parent is not None:
                    self._children[parent.pid].remove(process)
                reached.update(each.pid for each, _ in self.walk([process]))
                yield process

    def __repr__(self) -> str:
        return f"<ProcessTree of {len(self)} processes>"


def process_tree(*, threads: bool = False) -> ProcessTree:
    """All processes that this user may see, as they are now, and who is whose child.

    ``threads`` lists the threads of each, too. Other users' processes are there as well, unless the proc file system was mounted with
    hidepid. Sends no signal, stops nobody. Raises NotFound when no proc file system is mounted, LimitReached. Thread-safe. See proc(5).
    """
    return read_tree(Procfs(), threads=threads)


def read_tree(procfs: Procfs, *, threads: bool = False) -> ProcessTree:
    """The same of any proc file system."""
    snapshot = _Snapshot(procfs, threads=threads)
    snapshot.look_at(procfs.pids())
    for _ in range(_ROUNDS):
        lost = snapshot.with_missing_parent()
        if not lost:
            break
        snapshot.look_at({process.parent for process in lost})
        snapshot.look_at(process.pid for process in snapshot.with_missing_parent())
    snapshot.look_at(pid for pid, process in snapshot.seen.items() if process.zombie)
    return ProcessTree(procfs, find_adoptions(snapshot.seen), len(snapshot.unreadable))


class _Snapshot:
    """What was seen so far."""

    def __init__(self, procfs: Procfs, *, threads: bool) -> None:
        self.seen: dict[int, ProcessInfo] = {}
        self.unreadable: set[int] = set()
        self._users: dict[int, str | None] = {}
        ticks = os.sysconf("SC_CLK_TCK")
        self._reader = Reader(procfs, ticks, self._user_name, threads=threads)

    def look_at(self, pids: Iterable[int]) -> None:
        """Read these processes, anew if need be."""
        for pid in list(pids):
            try:
                process = self._reader.read(pid)
            except Gone:
                self.seen.pop(pid, None)
                continue
            if process is None:
                self.unreadable.add(pid)
            else:
                self.seen[pid] = process

    def with_missing_parent(self) -> list[ProcessInfo]:
        """Those whose parent should be here and is not."""
        found = []
        for process in self.seen.values():
            if process.parent and process.parent not in self.unreadable:
                parent = self.seen.get(process.parent)
                if parent is None or not _may_be_parent(parent, process):
                    found.append(process)
        return found

    def _user_name(self, uid: int) -> str | None:
        if uid not in self._users:
            try:
                self._users[uid] = pwd.getpwuid(uid).pw_name
            except (KeyError, OverflowError):
                self._users[uid] = None
        return self._users[uid]


def _age_order(process: ProcessInfo) -> tuple[int, int]:
    return process.start_time, process.pid


def _may_be_parent(parent: ProcessInfo, child: ProcessInfo) -> bool:
    return parent.start_time <= child.start_time and parent.pid != child.pid
