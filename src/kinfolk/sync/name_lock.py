"""The lock under which the objects of this user get their names, and lose them: that of the runtime directory.

It is held for microseconds. So who has it for seconds was stopped in the middle of that (SIGSTOP, a debugger, a frozen cgroup), and
nobody who waits for it is told how long that will be: after `PATIENCE` seconds that is an error, which names him.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import TypeVar

from kinfolk import runtime_directory
from kinfolk.deadlines import NEVER
from kinfolk.errors import KinfolkError, Timeout, UntrustedPeer, from_os_error
from kinfolk.interest import Interest, Steps
from kinfolk.rendezvous import NotYet
from kinfolk.room import no_shared_memory
from kinfolk.sync.lock_holders import described, holders
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import run

T = TypeVar("T")

#: seconds; as many as a maker of an object may take (native/sync_object.c)
PATIENCE = 5.0


def lock(subject: str) -> Steps[runtime_directory.Lock]:
    """Take it, in order to make, find or remove what a ``subject`` names. Raises Timeout, UntrustedPeer, OSError."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return runtime_directory.try_lock()
        except NotYet as not_yet:
            if time.monotonic() > until:
                raise _kept(subject) from None
            again_in = not_yet.again_in
        yield Interest(again_in=again_in)


def _kept(subject: str) -> Timeout:
    directory = runtime_directory.path_name()
    try:
        status = os.stat(directory)
        pids = holders("flock", (status.st_dev, status.st_ino))
    except OSError:
        pids = []
    who = " and ".join(described(pid) for pid in pids) or "somebody"
    return Timeout(
        "no name could be looked up",
        subject=subject,
        why=f"{who} has had {directory} locked for all of {PATIENCE:g} s, which takes microseconds",
        remedy="see whether it is stopped: let it go on (kill -CONT), or end it",
    )


def under(work: Callable[[], T], subject: str, size: int = 0) -> T:
    """Do some work under it, whose OSErrors are those of a path; it takes up to ``size`` bytes of /dev/shm.

    Raises as `lock`, and what they mean.
    """

    def steps() -> Steps[T]:
        with (yield from lock(subject)):
            return work()

    try:
        return run(steps(), Turnstile(subject, lambda: None), NEVER, f"{subject}: open")
    except KinfolkError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UntrustedPeer(
                "its name is a symbolic link, which is not followed",
                subject=subject,
                remedy="remove the link",
            ) from error
        if error.errno == errno.ENOSPC:
            raise no_shared_memory(size, subject, errno.ENOSPC) from error
        raise from_os_error(error, "can't open it", subject) from error
