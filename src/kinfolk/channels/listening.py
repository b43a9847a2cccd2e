"""A listening socket: who may come in, and as what. Shared by `unix:` and `tcp:`.

Rules:
1. Who may not come in is turned away unseen, and counted.
2. A connection that can't be taken now (EMFILE, ENFILE, ENOMEM) waits in the backlog: LimitReached, and the
   next call tries again.
3. A connection that ended while it waited is skipped, and so are errors that accept(2) hands on from its network.
"""

from __future__ import annotations

import errno
import socket

from kinfolk.channels.contract import Duplex, ListenTransport
from kinfolk.channels.socket_names import SocketName
from kinfolk.channels.socket_transport import duplex
from kinfolk.channels.stream_terms import Stream, Terms
from kinfolk.errors import UntrustedPeer
from kinfolk.interest import Interest, Steps

#: net.core.somaxconn bounds it.
BACKLOG = 4096

# accept(2), "Error handling": errors of the new connection, not of the listening socket.
_SKIPPED = frozenset(
    {
        errno.ECONNABORTED,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.EOPNOTSUPP,
        errno.ENETUNREACH,
    }
)


class Door:
    """A listening socket and its name."""

    def __init__(self, sock: socket.socket, terms: Terms, name: SocketName | None = None) -> None:
        """Take over a socket that listens already."""
        sock.setblocking(False)
        self.sock, self.terms, self.name = sock, terms, name
        self.refused = 0

    def admit(self) -> Stream | None:
        """The next connection, None when none waits. Raises OSError (rule 2)."""
        while True:
            try:
                sock, _ = self.sock.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno == errno.EINVAL:  # shut: see `shut`
                    return None
                if error.errno not in _SKIPPED:
                    raise
                continue
            try:
                return Stream(sock, self.terms)
            except UntrustedPeer:
                self.refused += 1

    def shut(self) -> None:
        """Let nobody connect any more; who waits can still be admitted (unix only: TCP turns them away)."""
        if self.sock.family == socket.AF_UNIX:
            self.sock.shutdown(socket.SHUT_RDWR)

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self.sock.fileno()

    def close(self) -> None:
        """Stop listening; the last holder removes the name. Closing twice does nothing."""
        self.sock.close()
        if self.name is not None:
            self.name.release()


class StreamListener(ListenTransport):
    """Gives connections."""

    def __init__(self, door: Door) -> None:
        """Take over ``door``."""
        self._door = door
        self.limits = door.terms.limits(door.sock, senders="one")
        self._address = listening_at(door.sock, door.terms)  # to be asked for after a close, too

    @property
    def refused(self) -> int:  # type: ignore[override]
        """Connections of users who may not."""
        return self._door.refused

    def accept(self) -> Steps[Duplex]:
        """The next connection."""
        while (stream := self._door.admit()) is None:
            yield Interest(readable=(self._door.fileno(),))
        return duplex(stream, self._door.terms)

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self._door.fileno()

    def close(self) -> None:
        """Stop listening and remove the name, if no forked copy goes on."""
        self._door.close()

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address


def listening_at(sock: socket.socket, terms: Terms) -> str:
    """The address of a listening socket, a port of 0 replaced by the kernel's choice."""
    if sock.family == socket.AF_UNIX:
        return terms.subject
    host, port = sock.getsockname()[:2]
    return f"{terms.mechanism}:{f'[{host}]' if ':' in host else host}:{port}"
