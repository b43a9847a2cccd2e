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

import os
import socket
import stat
from collections.abc import Sequence

from kinfolk.channels.address import Address
from kinfolk.channels.ancillary import close_all
from kinfolk.channels.contract import (
    Duplex,
    Limits,
    ListenTransport,
    Mechanism,
    Message,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.packet_limits import check_lifetime, packet_limits, set_options, socket_pair
from kinfolk.channels.packet_transport import CONNECTION, PacketReceiver, PacketSender
from kinfolk.channels.presence import Presence, presence_path
from kinfolk.channels.socket_names import bind, connecting, is_abstract
from kinfolk.channels.trust import check_object, is_trusted
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, CorruptChannel, UntrustedPeer
from kinfolk.identity import Peer
from kinfolk.waiting import Interest, Steps, ready

_NAME_LOST = 0.01  # seconds until looking again for a receiver that left while being connected to


class UnixDgramMechanism(Mechanism):
    """Unix sockets of type SOCK_DGRAM."""

    scheme = "unix-dgram"
    options = frozenset({"codec", "framing", "capacity", "max_message", "mode", "lifetime"})
    remedy = "use unix-seqpacket:, which keeps messages whole too, or framing='framed'"

    def completed(self, address: Address) -> Address:
        """What a socket holds is gone with it."""
        check_lifetime(address)
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the name. Raises Busy when a live socket has it."""
        return (yield from _bound(address))

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
        here, there = _ends(address)
        here.sending.close()
        there.receiving.close()
        return here.receiving, there.sending

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two connected sockets."""
        if address.name:
            raise AddressError(
                "a pair has no name", subject=str(address), remedy="use listen and connect"
            )
        return ready(_ends(address))

    def listen(self, address: Address) -> Steps[ListenTransport]:
        """Make the name, and take connections there."""
        if _is_raw(address):
            raise self._lacks("bare datagrams make no connection", address)
        return DgramListener((yield from _bound(address, connections=True)), address)

    def connect(self, address: Address) -> Steps[Duplex]:
        """Wait for a listener, and hand it the other end of a new connection."""
        if _is_raw(address):
            raise self._lacks("bare datagrams make no connection", address)
        door = yield from _joined(address)
        try:
            here, there = _halves(address)
            try:
                numbers = [number.fileno() for number in there]
                yield from door.send(Message(CONNECTION, (), descriptors=numbers))
            except BaseException:
                _close(here)
                raise
            finally:
                _close(there)
            return _duplex(here, address)
        finally:
            door.close()
