"""``sysv-mq:KEY`` — System V message queues (sysvipc(7)).

    sysv-mq:1234        a queue by its key, decimal or hexadecimal (0x4d2)
    sysv-mq:/path#7     by the key that ftok(3) makes of a file and a project number (or one letter)
    sysv-mq:            a new queue without a key, with `channel` and `pair`

Options: type, capacity (msg_qbytes), max_message, mode, lifetime, codec, framing. A message has a type, which is sent as priority=
(1 unless type= says otherwise). A receiver's type= is that of msgrcv(2): 0 takes the oldest message (the default), a positive
one the oldest of that type, a negative one the lowest type up to its absolute value. Any number of processes send and
receive, and each message goes to one of them. See `kinfolk.channels.queue_transport` for what travels.

Rules:
1. lifetime="name" is the default: the queue stays until `unlink`, absence blocks, nobody's exit is an end.
2. There is no descriptor: no fileno(), and a wait is a blocked system call (see `kinfolk.channels.sysv_queue`).
3. `unlink` removes the queue itself at once, with what is in it: whoever uses it gets BrokenChannel.
4. Who may have written into a queue is told by its mode, its owner, and its creator, who keeps the owner's rights.
"""

from __future__ import annotations

import os
from typing import TypeVar

import sysv_ipc

from kinfolk.channels.address import Address
from kinfolk.channels.contract import Duplex, Limits, Mechanism, ReceiveTransport, SendTransport
from kinfolk.channels.presence import Presence, presence_path
from kinfolk.channels.queue_limits import message_refused, too_small
from kinfolk.channels.queue_transport import FOOTER_SIZE, QueueReceiver, QueueSender
from kinfolk.channels.sysv_queue import (
    Hold,
    Status,
    clear_stale,
    find,
    make,
    private_presence,
    status_of,
    sweep,
)
from kinfolk.channels.trust import check_object
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.rendezvous import retry
from kinfolk.sysctl import kernel_number
from kinfolk.sysv_keys import key_of

Kind = TypeVar("Kind", QueueReceiver, QueueSender)


class SysvMqMechanism(Mechanism):
    """System V message queues."""

    scheme = "sysv-mq"
    options = frozenset({"codec", "framing", "lifetime", "mode", "capacity", "max_message", "type"})
    default_lifetime = "name"
    remedy = "open two queues, one each way, or use unix:/path"

    def completed(self, address: Address) -> Address:
        """An anonymous queue can't outlive its peers."""
        if not address.name and address.options.lifetime == "name":
            raise AddressError(
                "a queue without a key lives as long as its peers",
                subject=str(address),
                remedy="leave lifetime out, or write sysv-mq:KEY",
            )
        return super().completed(address)

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the queue, or join it as one of its receivers."""
        key = _key_of(address)
        sweep()
        presence = None
        if address.options.lifetime == "peers":
            presence = yield from Presence.join_receiver(
                _presence_path(key),
                if_first=lambda had_members: clear_stale(key, had_members),
            )
        try:
            number, status = yield from retry(lambda: _make_or_find(address, key))
            return _end(QueueReceiver, address, number, status, presence)
        except BaseException:
            if presence is not None:
                presence.leave()
            raise

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait for the queue, and with lifetime="peers" for a receiver, and join."""
        key = _key_of(address)
        presence = None
        if address.options.lifetime == "peers":
            presence = yield from Presence.join_sender(_presence_path(key))
        try:
            number, status = yield from retry(lambda: _find(address, key, receiving=False))
            return _end(QueueSender, address, number, status, presence)
        except BaseException:
            if presence is not None:
                presence.leave()
            raise

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends: of the queue with a key, or of a new one without."""
        if not address.name:
            return (yield from _anonymous(address))
        receiver = yield from self.open_receiver(address)
        try:
            return receiver, (yield from self.open_sender(address))
        except BaseException:
            receiver.close()
            raise

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Two queues, one each way: of one queue, an end would receive what it sent itself."""
        if address.name:
            raise self._lacks("a queue goes one way only", address)
        return super().pair(address)


def _key_of(address: Address) -> int:
    return key_of(address.scheme, address.name, "kin.channel('sysv-mq:')")


def _presence_path(key: int) -> str:
    return presence_path("sysv-mq", f"{key & 0xFFFFFFFF:#x}")


# ── opening ──────────────────────────────────────────────────────────────────────────────────


def _make_or_find(address: Address, key: int) -> tuple[int, Status]:
    try:
        return _make(address, key)
    except sysv_ipc.ExistentialError:
        return _find(address, key, receiving=True)


def _make(address: Address, key: int) -> tuple[int, Status]:
    options = address.options
    mode = 0o600 if options.mode is None else options.mode
    check_object(os.geteuid(), mode, options.codec or "pickle", str(address), receiving=True)
    _largest(address, options.capacity or kernel_number("kernel.msgmnb"))
    for_peers = not key or options.lifetime == "peers"
    number = make(key, mode, options.capacity, str(address), for_peers=for_peers)
    return number, status_of(number, str(address))


def _find(address: Address, key: int, *, receiving: bool) -> tuple[int, Status]:
    options, subject = address.options, str(address)
    number = find(key, subject, receiving=receiving)
    status = status_of(number, subject)
    for user in (status.owner, status.creator):
        check_object(user, status.mode, options.codec or "pickle", subject, receiving=receiving)
    if options.capacity is not None and status.capacity < options.capacity:
        raise too_small("capacity", status.capacity, options.capacity, subject)
    _largest(address, status.capacity)
    return number, status


def _anonymous(address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
    sweep()
    number, status = yield from retry(lambda: _make(address, 0))
    receives = sends = None
    try:
        receives = yield from Presence.join_receiver(private_presence(number))
        sends = yield from Presence.join_sender(private_presence(number))
        return (
            _end(QueueReceiver, address, number, status, receives),
            _end(QueueSender, address, number, status, sends),
        )
    except BaseException:
        sysv_ipc.remove_message_queue(number)
        for presence in (receives, sends):
            if presence is not None:
                presence.leave()
        raise


def _largest(address: Address, capacity: int) -> int:
    """Bytes in the largest message that can be sent. Raises LimitReached when it has to be larger."""
    options = address.options
    footer = 0 if options.framing == "raw" else FOOTER_SIZE
    msgmax = kernel_number("kernel.msgmax")
    most = min(msgmax, capacity) - footer
    if options.max_message is not None and options.max_message > most:
        raise message_refused(options.max_message + footer, msgmax, capacity, str(address))
    return most if options.max_message is None else options.max_message


def _end(
    kind: type[Kind], address: Address, number: int, status: Status, presence: Presence | None
) -> Kind:
    subject, raw = str(address), address.options.framing == "raw"
    limits = _limits(address, status.capacity, presence=presence is not None)
    return kind(Hold(number, address.options.type, subject), presence, limits, subject, raw=raw)


def _limits(address: Address, capacity: int, *, presence: bool) -> Limits:
    lifetime = "Nobody's exit is an end: the queue and what is in it stay until unlink()."
    if not address.name:
        lifetime = (
            "The last peer to close removes the queue; when all of them are killed, the kernel keeps it until a process"
            " of the same user opens a receiver or an anonymous channel of sysv-mq: the next time."
        )
    elif presence:
        lifetime = (
            "The last peer to close removes the queue; when all of them are killed, it stays, and the next receiver"
            " removes it. lifetime='peers' is for processes of one user."
        )
    return Limits(
        "sysv-mq",
        max_message=_largest(address, capacity),
        capacity=capacity,
        depth=capacity,  # a queue takes no more messages than bytes, be they empty (msgsnd(2))
        receivers="many",
        presence=presence,
        priorities=True,
        empty_messages=address.options.framing != "raw",
        too_big_remedy="open it with a larger capacity= if that is the limit, raise kernel.msgmax by sysctl,"
        " or use unix: or fifo:",
        notes=(
            "Messages come in the order of sending; a receiver with a negative type= gets lower types first.",
            "There is no descriptor: a task that waits here occupies a helper thread.",
            lifetime,
        ),
    )


MECHANISM: Mechanism = SysvMqMechanism()
