"""``containment="kernel"``: a keeper that is the first process of a pid namespace of its own. pid_namespaces(7)

    owner ── start ──> porter: unshare(2) ── fork ──> keeper, pid 1 there ──> programs, functions
      ^                   │ holds a pipe open            │  /proc of its own
      └── pid of a child as it is here (SCM_CREDENTIALS) ┘

Rules:
1. When pid 1 ends, however, the kernel kills everything in the namespace, whoever it belongs to, and nothing can leave it.
2. The porter does nothing but wait: it is the process that the owner knows. If it is killed, pid 1 is too (PR_SET_PDEATHSIG).
3. With CAP_SYS_ADMIN the namespaces are made as they are; without, in a user namespace in which the user is himself and nobody else.
   Where neither is allowed, each request is answered by Unable, and why. Nothing weaker takes its place.
4. Mounts that are made outside later are seen inside, not the other way round.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from typing import NoReturn

from kinfolk import _native
from kinfolk.ancillary import close_all
from kinfolk.processes import keeper
from kinfolk.processes.keeper_messages import (
    LINE,
    OWNER,
    Abandon,
    Goodbye,
    Unable,
    receive_request,
    send,
)

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000


class FirstKeeper(keeper.Keeper):
    """A keeper that is pid 1."""

    _vouches = True

    def _adopt_orphans(self) -> None:
        """As the first process it does."""


def main() -> NoReturn:
    """Be the porter of a keeper."""
    try:
        _enter()
        open_end, held = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
    except OSError as error:
        _refuse(f"a pid namespace can't be made: {error.strerror}")
    if pid == 0:
        os.close(held)
        _native.set_death_signal(signal.SIGKILL)
        poll = select.poll()
        poll.register(open_end, 0)
        if poll.poll(0):  # the porter died before it could be noticed by a signal
            os._exit(1)
        os.close(open_end)
        try:
            _native.mount_proc()
        except OSError as error:
            _refuse(f"/proc can't be mounted in a pid namespace: {error.strerror}")
        keeper.main(FirstKeeper)
    os.close(LINE)
    os.close(OWNER)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)


def _enter() -> None:
    try:
        _native.unshare(_CLONE_NEWPID | _CLONE_NEWNS)
    except PermissionError:
        uid, gid = os.geteuid(), os.getegid()
        _native.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="utf-8") as file:
                file.write(text)


def _refuse(why: str) -> NoReturn:
    """Say to every request that there is no such keeper here."""
    with socket.socket(fileno=LINE) as line:
        while (received := receive_request(line)) is not None:
            close_all(received[1])
            if not isinstance(received[0], Abandon | Goodbye):
                send(line, Unable(received[0].number, why))
            elif isinstance(received[0], Goodbye):
                break
    os._exit(0)
