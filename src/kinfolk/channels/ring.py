"""``ring:NAME`` — messages in shared memory, at the speed of memory.

    ring:NAME   a ring by name; receivers make it (0600), senders wait for it
    ring:       a new ring without a name, with `channel` and `pair`

Options: capacity (bytes for small messages, 1 MiB) and arena (for blocks, 256 MiB), rounded up to powers of two; max_message, codec,
framing; acknowledge on its receivers. Any number of processes send and receive, and each message goes to one of them. See `kinfolk.channels.ring_transport`, and docs/design/ring.md.

Rules:
1. It lives as long as its peers; a name that all of them left by being killed is taken over by the next receiver, or swept by
   who opens another one (`ring_sweep`).
2. A block takes memory when it is first used, so an arena costs what has ever been in it at once. The largest message is half of it.
3. All ends of a ring are of one user: whoever may write to its memory can do with the others what he likes.
"""

from __future__ import annotations

import os

from kinfolk.channels import ring_memory, ring_sweep
from kinfolk.channels.address import Address
from kinfolk.channels.contract import Duplex, Mechanism, ReceiveTransport, SendTransport
from kinfolk.channels.presence import Presence, presence_path
from kinfolk.channels.ring_acknowledging import receiver_of
from kinfolk.channels.ring_options import (
    for_sender,
    refuse_acknowledging,
    refuse_others,
    sizes_of,
    terms_of,
)
from kinfolk.channels.ring_transport import RingSender
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.rendezvous import retry

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
        refuse_others(address)
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the ring, or join it as one of its receivers."""
        name, sizes, subject = _name_of(address), sizes_of(address), str(address)
        terms = terms_of(address)
        presence = yield from Presence.join_receiver(
            presence_path("ring", name), if_first=lambda _: ring_memory.forget(name)
        )
        try:
            memory = yield from retry(
                lambda: ring_memory.make_or_open(name, *sizes, terms.acknowledge, subject)
            )
        except BaseException:
            presence.leave()
            raise
        ring_sweep.sweep(name)
        return receiver_of(memory, presence, name, subject, sizes, terms)

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for a receiver, and join."""
        name, sizes, subject = _name_of(address), sizes_of(address), str(address)
        refuse_acknowledging(address)
        presence = yield from Presence.join_sender(presence_path("ring", name))
        try:
            memory = yield from retry(lambda: ring_memory.open_existing(name, subject))
        except BaseException:
            presence.leave()
            raise
        ring_sweep.sweep(name)
        return RingSender(memory, presence, name, subject, sizes, terms_of(address))

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends: of the named ring, or of a new one without a name."""
        if address.name:
            receiver = yield from self.open_receiver(address)
            try:
                return receiver, (yield from self.open_sender(for_sender(address)))
            except BaseException:
                receiver.close()
                raise
        sizes, subject, terms = sizes_of(address), str(address), terms_of(address)
        memory = ring_memory.nameless(*sizes, subject)
        try:
            second = Descriptor.opened(subject, os.dup, memory.fileno())
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


MECHANISM: Mechanism = RingMechanism()
