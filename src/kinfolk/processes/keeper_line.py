"""One keeper as its owner sees it: started, asked, gone.

    start ── vfork, exec python ──────────> the keeper's program (keeper.py)
      │  line: socket pair      pidfd of the owner      complaints: a memfd, its standard error
      │
      ├─ exchange: one request, one reply ──> the same number, or nobody's: a reply that was given up is dropped
      └─ goodbye: it ends everything below itself, and itself

Rules:
1. It is started as a program, so that it takes nothing of the owner's memory along (`launch.start`), with an interpreter like the owner's
   and the owner's sys.path. It answers as soon as it runs; what is sent before waits in the socket.
2. A request that was never read is sent again to a new keeper. One that may have been read is not: it raises KeeperDied.
3. Whoever is interrupted while it waits for a reply says so (`Abandon`): what was started meanwhile is ended.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import socket
from collections.abc import Callable, Sequence

from kinfolk.ancillary import close_all
from kinfolk.descriptors import Descriptor, above_standard
from kinfolk.errors import KeeperDied, Timeout, from_os_error
from kinfolk.interest import Interest, Steps
from kinfolk.processes import inheritance
from kinfolk.processes.custody import Containment, blocking
from kinfolk.processes.direct import Direct
from kinfolk.processes.interpreter import command
from kinfolk.processes.keeper_messages import (
    DEAF_TO,
    LINE,
    OF_A_CHILD,
    OWNER,
    Abandon,
    Goodbye,
    Reply,
    Request,
    Started,
    receive_reply,
    send,
)
from kinfolk.processes.launch import Launch

#: What a keeper runs, by the containment that it gives.
PROGRAMS = {
    "keeper": "kinfolk.processes.keeper:main",
    "kernel": "kinfolk.processes.namespace:main",
}

#: Seconds that a keeper has to end after its goodbye, beside the grace of those below it.
_PATIENCE = 5.0


class NotRead(Exception):
    """The keeper had gone before it read the request."""


class KeeperLine:
    """The owner's side of one keeper. For one thread at a time, but for `goodbye`."""

    def __init__(self, containment: Containment) -> None:
        """Start a keeper. Raises LimitReached, Unsupported, … when it can't be started."""
        around = inheritance.look()
        self.standing = around.standing
        #: that it has, and that its owner had when they were last compared
        self.limits = self.compared = around.limits
        self._numbers, self._latest = itertools.count(1), 0
        with contextlib.ExitStack() as lent, contextlib.ExitStack() as unless_started:
            try:
                line, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                lent.callback(other.close)
                self._line = socket.socket(fileno=above_standard(line.detach()))
                unless_started.callback(self._line.close)
                self._answered = Interest(readable=(self._line.fileno(),))
                if containment == "kernel":
                    self._line.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                self._complaints = Descriptor.opened(
                    "a keeper's complaints", os.memfd_create, "kin-keeper"
                )
                unless_started.callback(self._complaints.close)
                owner = os.pidfd_open(os.getpid())
                lent.callback(os.close, owner)
                null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                lent.callback(os.close, null)
            except OSError as error:
                raise from_os_error(error, "no keeper can be started") from error
            words = command(PROGRAMS[containment])
            self._custody = Direct(
                Launch(
                    argv=words,
                    executables=words[:1],
                    # In a pid namespace nobody can join our group; who starts there is in the keeper's.
                    process_group=None if containment == "kernel" else 0,
                    descriptors=[
                        (null, 0),
                        (null, 1),
                        (self._complaints.fileno(), 2),
                        (other.fileno(), LINE),
                        (owner, OWNER),
                    ],
                    cwd=b"/",  # ours may have been removed, and then no interpreter starts
                    blocked=[*DEAF_TO, signal.SIGCHLD],
                )
            )
            unless_started.pop_all()

    @property
    def pid(self) -> int:
        """Of the keeper."""
        return self._custody.pid

    def exchange(
        self, request: Callable[[int], Request], descriptors: Sequence[int] = ()
    ) -> Steps[tuple[Reply, list[int]]]:
        """Ask for something, and wait for the answer and its descriptors. Raises NotRead, KeeperDied."""
        self._latest = number = next(self._numbers)
        try:
            try:
                send(self._line, request(number), descriptors)
            except (BrokenPipeError, ConnectionResetError):
                raise NotRead from None
            while True:
                yield self._answered
                received = self._receive()
                if received is None:
                    raise self._died()
                reply, theirs, about = received
                if reply.number != number:  # somebody's who gave up
                    close_all(theirs)
                elif not isinstance(reply, Started):
                    return reply, theirs
                elif len(theirs) == OF_A_CHILD:
                    return reply if about is None else Started(number, about), theirs
                else:  # the kernel drops what there is no room for (unix(7))
                    close_all(theirs)
                    raise from_os_error(
                        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
                        "a process can't be watched, and was killed",
                    )
        except (NotRead, KeeperDied):
            raise
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Have the keeper end what the latest request started, if it did and that lives: nobody will know of it."""
        with contextlib.suppress(OSError):
            send(self._line, Abandon(self._latest))

    def _receive(self) -> tuple[Reply, list[int], int | None] | None:
        try:
            return receive_reply(self._line)
        except ConnectionResetError:  # it was closed with the request unread (unix(7))
            raise NotRead from None

    def _died(self) -> KeeperDied:
        return KeeperDied(
            "the keeper died before it had answered",
            subject=f"process {self.pid}",
            why=f"{self.ending()}; what it may have started was killed with it",
        )

    def ending(self) -> str:
        """How it ended, with its last words; its line is closed a moment before it has."""
        try:
            how = str(blocking(self._custody.ended(), _PATIENCE, "a keeper that hung up"))
        except Timeout:
            how = "it has hung up"
        with open(os.dup(self._complaints.fileno()), "rb") as file:
            file.seek(0)
            words = file.read().decode(errors="replace").strip().splitlines()
        # Of a traceback the last line says it, of an interpreter that did not start the first.
        fatal = [line for line in words if line.startswith("Fatal Python error")]
        return ": ".join((how, *(fatal or words)[-1:]))

    def goodbye(self, grace: float) -> None:
        """Have everything below it ended, and wait until it has ended itself: a moment longer than ``grace`` seconds."""
        with contextlib.suppress(OSError):
            send(self._line, Goodbye(grace))
        with contextlib.suppress(Timeout):
            blocking(self._custody.ended(), grace + _PATIENCE, "a keeper that was told to end")
        self.discard()

    def discard(self) -> None:
        """Give everything back. What lives below it may live on, as long as this process does."""
        if not self._custody.known:
            self._custody.abandon()
        self._line.close()
        self._complaints.close()

    def forget(self) -> None:
        """Give back what a forked copy has of it."""
        self._line.close()
        self._complaints.close()
        self._custody.close()
