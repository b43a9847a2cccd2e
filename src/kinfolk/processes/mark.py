"""The mark by which a child's orphans are told from those of its siblings, once the keeper has adopted all of them.

    child ── RLIMIT_LOCKS: soft limit 0x2c91… ──> whatever it starts inherits it, however it is started and whoever adopts it

The kernel keeps limits for each process, hands them on at fork and execve, and shows them to everybody (getrlimit(2),
proc_pid_limits(5)). RLIMIT_LOCKS is one that it has not looked at since Linux 2.4.25, so its value is free to be a random number. ``ulimit -x``
shows it, and nothing else differs.

Rules:
1. A process is a child's orphan when it carries the child's mark *and* its parent is the child's keeper. No stranger has that parent, and
   no sibling that number. Both are seen while the process is known to be the same one. When the keeper was killed, somebody else has
   adopted them, and the mark alone decides: nobody has it by chance, and who puts it on himself asks to be ended with them.
2. Only the soft limit is used: who wants to be rid of the mark may raise it, and programs that set a user's limits anew (login, su, sshd:
   pam_limits(8)) do so. Then `Process.stop` does not find what they start once it is an orphan; the keeper does, at the owner's end.
3. Where there is no room for a mark (a low hard limit, a system without this limit), there is none, and a start succeeds all the same.
"""

from __future__ import annotations

import functools
import os
import resource
from collections.abc import Collection

from kinfolk.identity import Identity
from kinfolk.processes.felling import children_of
from kinfolk.processes.launch import Launch

#: Python's resource module does not name it.
_LOCKS = 10

#: As many different marks fit below any hard limit that leaves room for them.
_ROOM = 1 << 62

#: How often the children are looked at while some of them go. Others may come and go for ever.
_LOOKS = 100


def limits() -> list[tuple[int, int, int]]:
    """A new mark, as a limit of a `Launch`; none where there is no room for it."""
    if not _is_possible():
        return []
    hard = resource.getrlimit(_LOCKS)[1]
    if hard != resource.RLIM_INFINITY and hard < _ROOM:
        return []
    return [(_LOCKS, int.from_bytes(os.urandom(8), "little") % _ROOM, hard)]


def of(launch: Launch) -> int | None:
    """The mark that a launch puts on its child."""
    return launch.rlimits[-1][1] if launch.rlimits and launch.rlimits[-1][0] == _LOCKS else None


def orphans(mark: int, keeper: int, *, inside: bool = False) -> list[Identity]:
    """Who lives and carries a mark: children of the keeper, a child of this process; everywhere when that has died.

    ``inside``: not it, but its child, adopts orphans.
    """
    found = bearers(mark, children_of(keeper) if inside else (keeper,))
    # Afterwards: it dies and loses its children in one moment (exit_notify of the kernel).
    return found if _child(keeper, os.getpid()) is not None else _bearers_anywhere(mark)


def _bearers_anywhere(mark: int) -> list[Identity]:
    found: list[Identity] = []
    for _ in range(_LOOKS):
        before = _everybody()
        for pid in before:
            if _read(pid) == mark:
                who = _child(pid)
                if who is not None and _read(pid) == mark and _child(pid) == who:
                    found.append(who)
        if found or before <= _everybody():  # who went may have left another one
            break
    return found


def _everybody() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def bearers(mark: int, parents: Collection[int]) -> list[Identity]:
    """The living children of some processes that carry a mark.

    None are there when none was found, while none of the children went. Else one who went may have left another one, who is not in
    the list: a chain of processes that fork and end. (The kernel itself passes over some when others go; proc_pid_task(5).)
    """
    found: list[Identity] = []
    for _ in range(_LOOKS):
        before = {parent: children_of(parent) for parent in parents}
        for parent, children in before.items():
            for pid in children:
                if _read(pid) == mark:
                    who = _child(pid, parent)
                    # By now the number may be another one's; if not, all of this was seen of this one.
                    if who is not None and _read(pid) == mark and _child(pid, parent) == who:
                        found.append(who)
        if found or before == {parent: children_of(parent) for parent in parents}:
            break
    return found


def _child(pid: int, parent: int | None = None) -> Identity | None:
    """Who lives by a number, as the child of a parent; fields 3, 4 and 22 of proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in (b"Z", b"X") or parent not in (None, int(fields[1])):
        return None
    return Identity(pid, int(fields[19]))


@functools.cache
def _is_possible() -> bool:
    try:
        resource.setrlimit(_LOCKS, resource.getrlimit(_LOCKS))
    except (OSError, ValueError):
        return False
    return True


def _read(pid: int) -> int | None:
    """The soft limit; None when the process has gone, or has none."""
    try:
        return resource.prlimit(pid, _LOCKS)[0]
    except ProcessLookupError:
        return None
    except PermissionError:  # of another user, where root has lost CAP_SYS_RESOURCE
        return _read_in_proc(pid)


def _read_in_proc(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/limits", "rb") as file:
            lines = [line for line in file if line.startswith(b"Max file locks ")]
    except (FileNotFoundError, ProcessLookupError):
        return None
    word = lines[0].split()[3] if lines else b""
    return int(word) if word.isdigit() else None
