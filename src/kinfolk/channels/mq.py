"""``mq:/name`` — POSIX message queues (mq_overview(7)).

    mq:/name    a queue by name; receivers make it (0600), senders wait for it
    mq:         a new queue without a name, with `channel` and `pair`

Options: depth (messages), max_message, mode, lifetime, codec, framing. Messages carry priority= 0 to 32767: the highest is
received first, equal ones in the order in which they were sent. Any number of processes send and receive, and each
message goes to one of them. See `kinfolk.channels.queue_transport` for what travels.

Rules:
1. lifetime="name" is the default: the name stays until `unlink`, absence blocks, nobody's exit is an end.
2. An anonymous queue loses its name as soon as it is made; the kernel frees it with its last descriptor.
3. The queue is its descriptor: it is inherited, passed and cloned like any other, and polled.
"""

from __future__ import annotations

import os
from typing import TypeVar

from kinfolk._native import mq_attributes
from kinfolk.channels.address import Address
from kinfolk.channels.contract import Duplex, Limits, Mechanism, ReceiveTransport, SendTransport
from kinfolk.channels.posix_queue import (
    Patience,
    PosixQueue,
    clear_stale,
    make_nameless,
    make_or_open,
)
from kinfolk.channels.presence import Presence, presence_path
from kinfolk.channels.queue_transport import FOOTER_SIZE, QueueReceiver, QueueSender
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.rendezvous import retry

Kind = TypeVar("Kind", QueueReceiver, QueueSender)

_LONGEST_NAME = 255


class MqMechanism(Mechanism):
    """POSIX message queues."""

    scheme = "mq"
    options = frozenset({"codec", "framing", "lifetime", "mode", "depth", "max_message"})
    default_lifetime = "name"
    remedy = "open two queues, one each way, or use unix:/path"

    def completed(self, address: Address) -> Address:
        """An anonymous queue can't outlive its peers."""
        if not address.name and address.options.lifetime == "name":
            raise AddressError(
                "a queue without a name lives as long as its peers",
                subject=str(address),
                remedy="leave lifetime out, or write mq:/name",
            )
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the queue, or join it as one of its receivers."""
        _check_name(address)
        presence = None
        if address.options.lifetime == "peers":
            presence = yield from Presence.join_receiver(
                presence_path("mq", address.name),
                if_first=lambda had_members: clear_stale(address.name, had_members),
            )
        try:
            descriptor = yield from retry(lambda: make_or_open(address))
        except BaseException:
            if presence is not None:
                presence.leave()
            raise
        return _end(QueueReceiver, address, descriptor, presence)

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for the queue, and with lifetime="peers" for a receiver, and join."""
        _check_name(address)
        presence = None
        if address.options.lifetime == "peers":
            presence = yield from Presence.join_sender(presence_path("mq", address.name))
        patience = Patience(address)
        try:
            descriptor = yield from retry(patience.attempt)
        except BaseException:
            if presence is not None:
                presence.leave()
            raise
        return _end(QueueSender, address, descriptor, presence)

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends: of the named queue, or of a new one without a name."""
        if address.name:
            receiver = yield from self.open_receiver(address)
            try:
                return receiver, (yield from self.open_sender(address))
            except BaseException:
                receiver.close()
                raise
        descriptor = make_nameless(address)
        try:
            second = descriptor.duplicate()
            try:
                receives, sends = Presence.anonymous()
            except BaseException:
                second.close()
                raise
        except BaseException:
            descriptor.close()
            raise
        return (
            _end(QueueReceiver, address, descriptor, receives),
            _end(QueueSender, address, second, sends),
        )

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two queues, one each way: of one queue, an end would receive what it sent itself."""
        if address.name:
            raise self._lacks("a queue goes one way only", address)
        return super().pair(address)


def _check_name(address: Address) -> None:
    name = address.name
    if not name.startswith("/") or "/" in name[1:] or name in {"/", "/.", "/.."}:
        raise AddressError(
            "this is no name of a queue",
            subject=str(address),
            why="it is one slash, and then no other (mq_overview(7))",
            remedy="write mq:/name",
        )
    if len(os.fsencode(name)) - 1 > _LONGEST_NAME:
        raise AddressError(
            f"the name has {len(os.fsencode(name)) - 1} bytes, and {_LONGEST_NAME} is the limit",
            subject=str(address),
            remedy="choose a shorter one",
        )


def _end(
    kind: type[Kind], address: Address, descriptor: Descriptor, presence: Presence | None
) -> Kind:
    raw = address.options.framing == "raw"
    limits = _limits(descriptor.fileno(), raw=raw, presence=presence is not None)
    return kind(PosixQueue(descriptor, address.name), presence, limits, str(address), raw=raw)


def _limits(fd: int, *, raw: bool, presence: bool) -> Limits:
    depth, size, _ = mq_attributes(fd)
    return Limits(
        "mq",
        max_message=size if raw else size - FOOTER_SIZE,
        depth=depth,
        receivers="many",
        presence=presence,
        priorities=True,
        empty_messages=not raw,
        too_big_remedy="make the queue anew with a larger max_message (sysctl fs.mqueue.msgsize_max is the limit),"
        " or use unix: or fifo:",
        notes=(
            "Messages come by priority, and in the order of sending within one priority.",
            "lifetime='peers' is for processes of one user."
            if presence
            else "Nobody's exit is an end: the name and what is in it stay until unlink().",
        ),
    )


MECHANISM: Mechanism = MqMechanism()
