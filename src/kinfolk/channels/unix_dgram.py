"""``unix-dgram:/path``, ``unix-dgram:@abstract`` — Unix datagram sockets: one socket, into which everybody sends.

    open_receiver / open_sender     many senders, one socket; several receivers are forked copies or clones of one
    listen / connect                connections, each a pair of sockets of its own, see below
    channel, pair (no name)         between a process and those that inherit or are passed an end

A datagram socket holds a few messages whatever their size (net.unix.max_dgram_qlen), of all senders together, and its kernel
object tells neither end of the other. So:

1. Who is there is told by a FIFO beside the name (`kinfolk.channels.presence`), anonymous where there is no name: a
   receiver finds the socket empty once more after the last sender has left, and ends. Senders need not ask it: the
   kernel refuses what is sent to a closed socket.
2. Who sent what is told by the credentials of each message, so a name may be open to other users (mode=) and pickles of
   theirs are dropped all the same. An abstract name meets only processes of one user, where its FIFO lies.
3. A sender with the pickle codec makes sure that the name is its own user's, or root's.

    connect                                           listen
      socketpair, two pipes for presence
      message of kind CONNECTION ── one socket, ─────> accept: checks who sent it, and what came
      closes what it sent           one end of each    the other half of the pair: a connection
                                    pipe

A connection is thus like a `pair`: with backpressure, boundaries and an end of its own, however many clients there are, and gone
with whoever is killed. It needs kinfolk on both sides.

Options: mode, capacity (SO_SNDBUF), max_message, codec, framing, lifetime (peers only).

With framing="raw" C programs and socat are the peers: no FIFO, so a receiver waits for ever once the senders have gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Sequence
from typing import NamedTuple

from kinfolk.ancillary import close_all
from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    Duplex,
    Limits,
    ListenTransport,
    Mechanism,
    Message,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.packet_format import CONNECTION
from kinfolk.channels.packet_limits import packet_limits, set_options
from kinfolk.channels.packet_transport import PacketReceiver, PacketSender
from kinfolk.channels.presence import Presence, presence_path
from kinfolk.channels.socket_names import SocketName, bind, connecting, is_abstract
from kinfolk.channels.stream_terms import Terms
from kinfolk.channels.trust import check_object, check_peer
from kinfolk.errors import AddressError, CorruptChannel, UntrustedPeer
from kinfolk.identity import Peer
from kinfolk.interest import Interest, Steps, ready

_AGAIN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_NAME_LOST = 0.01  # seconds until looking again for a receiver that left while being connected to


class UnixDgramMechanism(Mechanism):
    """Unix sockets of type SOCK_DGRAM."""

    scheme = "unix-dgram"
    options = frozenset({"codec", "framing", "capacity", "max_message", "mode", "lifetime"})
    remedy = "use unix-seqpacket:, which keeps messages whole too, or framing=framed"

    def completed(self, address: Address) -> Address:
        """What a socket holds is gone with it."""
        whole = super().completed(address)
        Terms.of(whole)
        return whole

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the name. Raises Busy when a live socket has it."""
        sock, name, presence = yield from _bound(address)
        limits = _named_limits(address, sock)
        return PacketReceiver(
            sock, limits, str(address), raw=_is_raw(address), presence=presence, name=name
        )

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver to be there, and connect."""
        return (yield from _joined(address))

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Two connected sockets without a name, or a receiver at a name and its first sender."""
        if address.name:
            receiver = yield from self.open_receiver(address)
            try:
                return receiver, (yield from self.open_sender(address))
            except BaseException:
                receiver.close()
                raise
        here, there = yield from self.pair(address)
        here.sending.close()
        there.receiving.close()
        return here.receiving, there.sending

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two connected sockets."""
        if address.name:
            raise AddressError(
                "a pair has no name", subject=str(address), remedy="use listen and connect"
            )
        here, there = _halves(address)
        try:
            return ready((_duplex(here, address), _duplex(there, address)))
        except BaseException:
            here.close()
            there.close()
            raise

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Make the name, and take connections there."""
        if _is_raw(address):
            raise self._lacks("bare datagrams make no connection", address)
        sock, name, presence = yield from _bound(address)
        limits = _named_limits(address, sock)
        door = PacketReceiver(sock, limits, str(address), raw=False, name=name, connections=True)
        return DgramListener(door, presence, address)

    def connect(self, address: Address) -> Steps[Duplex]:
        """Wait for a listener, and hand it one half of a new connection."""
        if _is_raw(address):
            raise self._lacks("bare datagrams make no connection", address)
        door = yield from _joined(address)
        try:
            here, there = _halves(address)
            try:
                duplex = _duplex(here, address)
            except BaseException:
                here.close()
                there.close()
                raise
            try:
                yield from door.send(Message(CONNECTION, (), descriptors=there.numbers()))
                return duplex
            except BaseException:
                duplex.close()
                raise
            finally:
                there.close()
        finally:
            door.close()


class DgramListener(ListenTransport):
    """A named socket that takes halves of connections."""

    def __init__(self, door: PacketReceiver, presence: Presence | None, address: Address) -> None:
        self._door, self._presence, self._address = door, presence, address
        self.limits = door.limits
        self._untrusted = 0
        # Kept while there is no descriptor for its second half: the next call tries again.
        self._arrived: tuple[_Half, Peer | None] | None = None

    @property
    def refused(self) -> int:  # type: ignore[override]
        """Connections of users who may not, and whatever else came that is no connection."""
        return self._untrusted + self._door.dropped

    def accept(self) -> Steps[Duplex]:
        """The next connection whose user may send what this end decodes."""
        while True:
            if self._arrived is None:
                self._arrived = yield from self._arrival()
            half, sender = self._arrived
            try:
                if sender is None:
                    raise UntrustedPeer("nobody vouches for the peer", subject=str(self._address))
                check_peer(sender, self._address.options.codec or "pickle", str(self._address))
                set_options(half.sock, self._address.options.capacity, str(self._address))
                duplex = _duplex(half, self._address, sender)
            except UntrustedPeer:
                self._untrusted += 1
            except OSError as error:
                if error.errno not in _AGAIN:
                    self._refuse()
                raise
            else:
                self._arrived = None
                return duplex
            self._refuse()

    def _arrival(self) -> Steps[tuple[_Half, Peer | None]]:
        while True:
            try:
                message = yield from self._door.receive()
                return _Half.arrived(message.descriptors, str(self._address)), message.sender
            except CorruptChannel:
                self._untrusted += 1

    def _refuse(self) -> None:
        if self._arrived is not None:
            self._arrived[0].close()
            self._arrived = None

    def fileno(self) -> int:
        """Readable when a connection waits."""
        return self._door.fileno()

    def close(self) -> None:
        """Stop listening; the last holder of the socket removes its name."""
        self._refuse()
        if self._presence is not None:
            self._presence.leave()
        self._door.close()

    @property
    def address(self) -> str:
        """The address as it was given."""
        return str(self._address)


# ── names ────────────────────────────────────────────────────────────────────────────────────

_Bound = tuple[socket.socket, SocketName, Presence | None]


def _bound(address: Address) -> Steps[_Bound]:
    """A socket with a name, whose presence says so once it can be sent to."""
    sock, name, presence = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), None, None
    try:
        set_options(sock, address.options.capacity, str(address))
        name = yield from bind(sock, address)
        if not _is_raw(address):
            mode = 0o600 if address.options.mode is None else address.options.mode
            presence = yield from Presence.join_receiver(_presence_path(address), mode)
            status = os.fstat(presence.fileno())
            check_object(status.st_uid, 0o600, "pickle", presence.path or "", receiving=True)
        return sock, name, presence
    except BaseException:
        if presence is not None:
            presence.leave()
        sock.close()
        if name is not None:
            name.release()
        raise


def _joined(address: Address) -> Steps[PacketSender]:
    """A sender to the socket with a name, once a receiver has it."""
    presence = None
    if not _is_raw(address):
        presence = yield from Presence.join_sender(_presence_path(address))
    try:
        sock = yield from connecting(address, _connect)
        # If our receivers have left meanwhile, who has the name now may be anybody.
        while presence is not None and presence.others_gone():
            sock.close()
            yield Interest(again_in=_NAME_LOST)
            sock = yield from connecting(address, _connect)
    except BaseException:
        if presence is not None:
            presence.leave()
        raise
    try:
        if not is_abstract(address):
            owner, codec = os.stat(address.name).st_uid, address.options.codec or "pickle"
            check_object(owner, 0o600, codec, str(address), receiving=False)
        set_options(sock, address.options.capacity, str(address))
        limits, raw = _named_limits(address, sock), _is_raw(address)
        return PacketSender(sock, limits, str(address), raw=raw, presence=presence)
    except BaseException:
        sock.close()
        if presence is not None:
            presence.leave()
        raise


def _connect(where: bytes) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.connect(where)
    except BaseException:
        sock.close()
        raise
    return sock


def _presence_path(address: Address) -> str:
    if is_abstract(address):
        return presence_path(UnixDgramMechanism.scheme, address.name)
    directory, name = os.path.split(os.path.abspath(address.name))
    return f"{directory}/.{name}.presence"


# ── connections ──────────────────────────────────────────────────────────────────────────────


class _Half(NamedTuple):
    """One side of a connection: its socket, and its two ends of the two pipes."""

    sock: socket.socket
    receiving: Presence
    sending: Presence

    @classmethod
    def arrived(cls, descriptors: Sequence[int], subject: str) -> _Half:
        """Out of descriptors that came from a peer. Raises CorruptChannel for any others, and closes them."""
        if [_kind_of(fd) for fd in descriptors] != ["socket", os.O_RDONLY, os.O_WRONLY]:
            close_all(descriptors)
            raise CorruptChannel("what came is no connection of kinfolk's", subject=subject)
        sock = socket.socket(fileno=descriptors[0])
        half = cls(sock, *(Presence.passed(fd, None) for fd in descriptors[1:]))
        if (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_DGRAM):
            half.close()
            raise CorruptChannel("what came is no datagram socket", subject=subject)
        return half

    def numbers(self) -> list[int]:
        """The descriptors, in the order in which they ride."""
        return [self.sock.fileno(), self.receiving.fileno(), self.sending.fileno()]

    def close(self) -> None:
        """Close all three."""
        self.sock.close()
        self.receiving.leave()
        self.sending.leave()


def _kind_of(fd: int) -> str | int:
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode):
        return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    return "socket" if stat.S_ISSOCK(mode) else "another"


def _halves(address: Address) -> tuple[_Half, _Half]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        set_options(one, address.options.capacity, str(address))
        set_options(other, address.options.capacity, str(address))
        one_receives, other_sends = Presence.anonymous()
        try:
            other_receives, one_sends = Presence.anonymous()
        except BaseException:
            one_receives.leave()
            other_sends.leave()
            raise
    except BaseException:
        one.close()
        other.close()
        raise
    return _Half(one, one_receives, one_sends), _Half(other, other_receives, other_sends)


def _duplex(half: _Half, address: Address, peer: Peer | None = None) -> Duplex:
    limits, raw = _limits(address, half.sock), _is_raw(address)
    second = half.sock.dup()
    return Duplex(
        PacketReceiver(
            half.sock, limits, str(address), raw=raw, presence=half.receiving, peer=peer
        ),
        PacketSender(second, limits, str(address), raw=raw, presence=half.sending, peer=peer),
    )


# ── limits ───────────────────────────────────────────────────────────────────────────────────


def _limits(address: Address, sock: socket.socket) -> Limits:
    limit, raw = address.options.max_message, _is_raw(address)
    return packet_limits(UnixDgramMechanism.scheme, sock, limit, raw=raw)


def _named_limits(address: Address, sock: socket.socket) -> Limits:
    with open("/proc/sys/net/unix/max_dgram_qlen", encoding="ascii") as file:
        depth = int(file.read()) + 1  # the kernel stops when more than so many wait
    limit, raw = address.options.max_message, _is_raw(address)
    return packet_limits(
        UnixDgramMechanism.scheme, sock, limit, raw=raw, presence=not raw, depth=depth
    )


def _is_raw(address: Address) -> bool:
    return address.options.framing == "raw"


MECHANISM: Mechanism = UnixDgramMechanism()
