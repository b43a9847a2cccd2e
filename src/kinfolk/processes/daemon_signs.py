"""How a program that is a daemon says that it is ready, as its guard sees it.

OwnWord       it says so on the line to its guard: `Daemon.ready`, in Python
Alive         it does not say so, and counts as ready when it has lived for a moment since its execve
Newline       it writes a line to a descriptor that it was given, as programs for s6 do
Notification  it sends READY=1 to $NOTIFY_SOCKET (sd_notify(3)), as programs for systemd do
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import struct

from kinfolk.descriptors import Descriptor
from kinfolk.errors import InvalidValue, KernelError
from kinfolk.processes.daemon_guard import Sign

_CREDENTIALS = struct.Struct("@iII")  # struct ucred: pid, uid, gid (unix(7))


class ProgramsSign(Sign):
    """A sign of a program that is executed, and how that program comes by the means to give it."""

    remedy = "give it more time"
    #: the number that the daemon has to have free for `give`
    number: int | None = None

    def give(self, env: dict[bytes, bytes]) -> None:
        """In the daemon, before its execve; ``env`` is changed as needed."""

    def close(self) -> None:
        """In the original, after the outcome."""


class Alive(ProgramsSign):
    """Lived for ``settle`` seconds."""

    def __init__(self, settle: float) -> None:
        self.settle = settle


class Newline(ProgramsSign):
    """A line on descriptor ``number`` of the program."""

    def __init__(self, number: int) -> None:
        """Raises InvalidValue for a number that no program can have, and OSError when there is no pipe."""
        if not 3 <= number < resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise InvalidValue(
                f"{number} can't be the descriptor of readiness",
                why="0 to 2 are standard streams, and no number reaches ulimit -n",
                remedy="give 3, say",
            )
        self.number = number
        self._reader, self._writer = Descriptor.pipe("pipe")
        self.fd = self._reader.fileno()

    def seen(self) -> bool:
        """Whether a newline came. The end of the pipe is not seen, for the guard can write, too."""
        return b"\n" in os.read(self._reader.fileno(), 4096)

    def give(self, env: dict[bytes, bytes]) -> None:
        """The writing end, under its number."""
        if self._writer.fileno() == self.number:
            os.set_inheritable(self.number, True)
        elif self.number is not None:
            os.dup2(self._writer.fileno(), self.number, inheritable=True)

    def close(self) -> None:
        """Close the pipe."""
        self._reader.close()
        self._writer.close()


class Notification(ProgramsSign):
    """READY=1 on a datagram socket, from a process of the daemon's session, or of its user."""

    def __init__(self) -> None:
        """Raises OSError."""
        import socket

        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind("")  # a free name in the abstract namespace, so that no file is left
        except OSError:
            self._socket.close()
            raise
        self._room = socket.CMSG_SPACE(_CREDENTIALS.size)
        self.fd = self._socket.fileno()

    def seen(self) -> bool:
        """Whether this datagram says it."""
        # Descriptors that come along find no room, and are closed by the kernel.
        data, ancillary, _, _ = self._socket.recvmsg(4096, self._room)
        return b"READY=1" in data.split(b"\n") and any(
            len(each) == _CREDENTIALS.size and _is_daemons(*_CREDENTIALS.unpack(each)[:2])
            for _, _, each in ancillary
        )

    def give(self, env: dict[bytes, bytes]) -> None:
        """The name of the socket."""
        name = self._socket.getsockname()
        if not isinstance(name, bytes) or not name.startswith(b"\0"):
            raise KernelError("the socket of readiness has no name", why=repr(name))
        env[b"NOTIFY_SOCKET"] = b"@" + name[1:]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _is_daemons(pid: int, uid: int) -> bool:
    """Whether a sender speaks for the daemon: the abstract namespace is open to everybody."""
    if uid in (0, os.geteuid()):
        return True
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid) == os.getsid(0)  # the guard's
    return False


def move_above(descriptor: Descriptor, number: int) -> Descriptor:
    """The same file under a number above ``number``."""
    with contextlib.closing(descriptor):
        moved = fcntl.fcntl(descriptor.fileno(), fcntl.F_DUPFD_CLOEXEC, number + 1)
        return Descriptor(moved, descriptor.name)
