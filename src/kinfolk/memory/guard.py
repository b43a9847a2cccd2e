"""The guard of what has lifetime="peers": a small process that sees the last user go, whatever ended him.

    creator ──starts──> guard ── flock exclusive: granted when nobody has it shared any more ──> unlink

A user who closes finds that he is the last, and removes the name himself. One who is killed can't; the kernel frees what he held,
but no kernel removes a name. So each name that was created like this has a process that waits, for 3 MiB and no CPU.

Rules:
1. It is started before the name exists, and so misses no kill. (A System V key exists first: who is killed within that moment leaves
   it to the next who asks for it.) It is nobody's child: no wait(2) of the program meets it.
2. It removes a name only under the exclusive lock, and only while it is that file's: like every user who leaves.
3. Where it is killed too (a whole control group, a container, everything below a keeper), the name stays for the next who
   creates, and its memory until then.

- *Rejected: a guard for all names of a process.* It holds a pipe to each process that may create more, and their forks.
- *Rejected: to leave it to the next who creates.* Who runs a program once leaves its memory for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys

from kinfolk.errors import KinfolkError, LimitReached, Unsupported

_PROGRAM = os.path.join(os.path.dirname(__file__), "guard_program.py")


def start(fd: int, path: str, *segment: int) -> None:
    """Start the guard of a new file, which is to be at ``path``; with it goes a System V ``segment``, by id and key.

    Raises LimitReached, Unsupported where no other interpreter can be started.
    """
    if not sys.executable or getattr(sys, "frozen", False):
        raise _refused("this program has no interpreter that could be its guard: sys.executable")
    words = [sys.executable, "-I", "-S", _PROGRAM, path, *map(str, segment)]
    actions = [
        (os.POSIX_SPAWN_DUP2, fd, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        pid = os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsigmask=())
    except BlockingIOError as error:
        raise LimitReached(
            "its guard can't be started",
            subject=path,
            why=os.strerror(error.errno or 0),
            remedy="end some processes, raise the limit (ulimit -u), or leave out lifetime='peers'",
            code=error.errno,
        ) from error
    except (FileNotFoundError, PermissionError) as error:
        raise _refused(f"{sys.executable}: {error.strerror}") from error
    with contextlib.suppress(ChildProcessError):  # reaped by a handler of the program's
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
            raise _refused(f"{sys.executable} could not run {_PROGRAM}")


def _refused(why: str) -> KinfolkError:
    return Unsupported(
        "its guard can't be started",
        why=why,
        remedy="leave out lifetime='peers', and unlink() it",
    )
