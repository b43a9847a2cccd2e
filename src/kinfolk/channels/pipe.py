"""``pipe:`` — anonymous pipes, between a process and those that inherit or are passed an end.

    pipe:       a new pipe (`channel`), or two, one each way (`pair`)
    pipe:N      the end with descriptor number N, inherited from whoever started this process; it becomes non-blocking
                (O_NONBLOCK), also for others who share it

Options: capacity (F_SETPIPE_SZ), senders (one, many), max_message, codec, framing.
See `kinfolk.channels.pipe_transport` for what travels.
"""

from __future__ import annotations

import fcntl
import os
import stat

from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    DEFAULT_MAX_MESSAGE,
    Limits,
    Mechanism,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.pipe_receiver import PipeReceiver
from kinfolk.channels.pipe_sender import PipeSender
from kinfolk.channels.pipe_size import pipe_limits, set_capacity
from kinfolk.descriptors import Descriptor
from kinfolk.errors import AddressError
from kinfolk.interest import Steps, ready


class PipeMechanism(Mechanism):
    """Anonymous pipes."""

    scheme = "pipe"
    options = frozenset({"codec", "framing", "capacity", "max_message", "senders"})
    remedy = "use kin.channel('pipe:') or kin.pair('pipe:') and pass an end on; by name: fifo:/path"

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """A new pipe."""
        if address.name:
            raise AddressError(
                "a new pipe has no name", subject=str(address), remedy="write pipe:, or fifo:/path"
            )
        receiver, sender = Descriptor.pipe("pipe:")
        try:
            writing = sender.fileno()
            if address.options.capacity is not None:
                set_capacity(writing, address.options.capacity, str(address))
            limits = _limits(address, writing)
            raw = address.options.framing == "raw"
            ends = (
                PipeReceiver(receiver, limits, str(address), raw=raw),
                PipeSender(sender, limits, str(address), raw=raw),
            )
        except BaseException:
            receiver.close()
            sender.close()
            raise
        return ready(ends)

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Adopt the inherited write end with the number in the address."""
        descriptor = _adopt(address, os.O_WRONLY)
        raw = address.options.framing == "raw"
        return ready(
            PipeSender(descriptor, _limits(address, descriptor.fileno()), str(address), raw=raw)
        )

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Adopt the inherited read end with the number in the address."""
        descriptor = _adopt(address, os.O_RDONLY)
        raw = address.options.framing == "raw"
        return ready(
            PipeReceiver(descriptor, _limits(address, descriptor.fileno()), str(address), raw=raw)
        )


def _limits(address: Address, fd: int) -> Limits:
    options = address.options
    return pipe_limits(
        "pipe",
        fd,
        options.max_message or DEFAULT_MAX_MESSAGE,
        options.senders or "many",
        options.framing == "raw",
    )


def _adopt(address: Address, direction: int) -> Descriptor:
    if not address.name.isdecimal():
        raise AddressError(
            "an anonymous pipe is opened by the number of its descriptor",
            subject=str(address),
            remedy="write pipe:N for an inherited end, kin.channel('pipe:') for a new pipe, fifo:/path for a named one",
        )
    number = int(address.name)
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(number).st_mode)
        right_way = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == direction
    except (OSError, OverflowError):
        raise AddressError(
            f"descriptor {number} is not open",
            subject=str(address),
            remedy="inherit it (pass_fds=, or os.set_inheritable before exec)",
        ) from None
    if not is_pipe or not right_way:
        raise AddressError(
            f"descriptor {number} is not the {'write' if direction == os.O_WRONLY else 'read'} end of a pipe",
            subject=str(address),
            remedy="name the other end, or use fifo: or unix:",
        )
    if address.options.capacity is not None:
        set_capacity(number, address.options.capacity, str(address))
    os.set_inheritable(number, False)
    return Descriptor(number, str(address))


MECHANISM: Mechanism = PipeMechanism()
