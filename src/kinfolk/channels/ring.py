"""``ring:NAME`` — messages in shared memory, at the speed of memory.

    ring:NAME   a ring by name; receivers make it (0600), senders wait for it
    ring:       a new ring without a name, with `channel` and `pair`

Options: capacity (bytes for small messages, 1 MiB) and arena (for blocks, 256 MiB), rounded up to powers of two; max_message, codec,
framing; acknowledge on its receivers. Any number of processes send and receive, and each message goes to one of them. See `kinfolk.channels.ring_transport`, and docs/design/ring.md.

Rules:
1. It lives as long as its peers; a name that all of them left by being killed is taken over by the next receiver.
2. A block takes memory when it is first used, so an arena costs what has ever been in it at once. The largest message is half of it.
3. All ends of a ring are of one user: whoever may write to its memory can do with the others what he likes.
"""

from __future__ import annotations

import os
from dataclasses import replace

from kinfolk.channels import ring_memory
from kinfolk.channels.address import Address
from kinfolk.channels.contract import Duplex, Mechanism, ReceiveTransport, SendTransport
from kinfolk.channels.presence import Presence, presence_path
from kinfolk.channels.ring_acknowledging import receiver_of
from kinfolk.channels.ring_transport import RingSender, Terms
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError, UntrustedPeer
from kinfolk.interest import Steps
from kinfolk.rendezvous import retry

_CAPACITY = 1 << 20
_SMALLEST, _LARGEST = 1 << 12, 1 << 34
_ARENA = 256 << 20
_SMALLEST_ARENA, _LARGEST_ARENA = 1 << 16, 1 << 40
_LONGEST_NAME = 255


class RingMechanism(Mechanism):
    """Rings in shared memory."""

    scheme = "ring"
    options = frozenset(
        {"codec", "framing", "capacity", "arena", "max_message", "lifetime", "mode", "acknowledge"}
    )
    remedy = "open two rings, one each way, or use unix:/path"

    def completed(self, address: Address) -> Address:
        """A ring can't outlive its peers."""
        if address.options.lifetime == "name":
            raise AddressError(
                "a ring lives as long as its peers",
                subject=str(address),
                remedy="leave lifetime out",
            )
        if (address.options.mode or 0o600) & 0o077:
            raise UntrustedPeer(
                "a ring is for processes of one user",
                subject=str(address),
                why="whoever may write to its memory can do with its peers what he likes",
                remedy="leave mode out, or use unix: or fifo: with codec=msgpack between users",
            )
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the ring, or join it as one of its receivers."""
        name, sizes, subject = _name_of(address), _sizes_of(address), str(address)
        presence = yield from Presence.join_receiver(
            presence_path("ring", name), if_first=lambda _: ring_memory.forget(name)
        )
        try:
            memory = yield from retry(lambda: ring_memory.make_or_open(name, *sizes, subject))
        except BaseException:
            presence.leave()
            raise
        return receiver_of(memory, presence, name, subject, sizes, _terms_of(address))

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver, and join."""
        name, sizes, subject = _name_of(address), _sizes_of(address), str(address)
        if address.options.acknowledge is not None:
            raise AddressError(
                "acknowledge= is for receivers",
                subject=subject,
                remedy="leave it out: senders see it in the ring",
            )
        presence = yield from Presence.join_sender(presence_path("ring", name))
        try:
            memory = yield from retry(lambda: ring_memory.open_existing(name, subject))
        except BaseException:
            presence.leave()
            raise
        return RingSender(memory, presence, name, subject, sizes, _terms_of(address))

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends: of the named ring, or of a new one without a name."""
        if address.name:
            receiver = yield from self.open_receiver(address)
            try:
                return receiver, (yield from self.open_sender(_for_sender(address)))
            except BaseException:
                receiver.close()
                raise
        sizes, subject, terms = _sizes_of(address), str(address), _terms_of(address)
        memory = ring_memory.nameless(*sizes)
        try:
            second = Descriptor(os.dup(memory.fileno()), subject)
            try:
                receives, sends = Presence.anonymous()
            except BaseException:
                second.close()
                raise
        except BaseException:
            memory.close()
            raise
        try:
            receiving = receiver_of(memory, receives, "", subject, sizes, terms)
        except BaseException:
            second.close()
            sends.leave()
            raise
        try:
            return receiving, RingSender(second, sends, "", subject, sizes, terms)
        except BaseException:
            receiving.close()
            raise

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two rings, one each way: of one, an end would receive what it sent itself."""
        if address.name:
            raise self._lacks("a ring goes one way only", address)
        return super().pair(address)


def _name_of(address: Address) -> str:
    name = address.name
    if not name or "/" in name or len(os.fsencode(name)) > _LONGEST_NAME:
        raise AddressError(
            "this is no name of a ring",
            subject=str(address),
            why=f"it has between 1 and {_LONGEST_NAME} bytes, and no slash",
            remedy="write ring:name",
        )
    return name


def _for_sender(address: Address) -> Address:
    return replace(address, options=replace(address.options, acknowledge=None))


def _terms_of(address: Address) -> Terms:
    options = address.options
    return Terms(options.max_message, options.framing == "raw", bool(options.acknowledge))


def _sizes_of(address: Address) -> tuple[int, int]:
    """Of the ring, and of its arena: powers of two. Raises AddressError."""
    options = address.options
    arena = options.arena
    if arena is None:
        arena = max(_ARENA, 2 * (options.max_message or 0))
    capacity = options.capacity or _CAPACITY
    return (
        _rounded("a ring", capacity, _SMALLEST, _LARGEST, address),
        _rounded("an arena", arena, _SMALLEST_ARENA, _LARGEST_ARENA, address),
    )


def _rounded(what: str, wanted: int, smallest: int, largest: int, address: Address) -> int:
    if wanted > largest:
        raise AddressError(
            f"{what} of {wanted} bytes is too large",
            subject=str(address),
            why=f"the limit is {largest}",
            remedy="ask for less, or a smaller max_message",
        )
    return max(smallest, 1 << (wanted - 1).bit_length())


MECHANISM: Mechanism = RingMechanism()
