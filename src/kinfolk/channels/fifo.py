"""``fifo:/path`` — named pipes, between processes that share nothing but the name.

The receiver makes the FIFO (0600) and removes it when it leaves last; senders wait for it. Any number of processes send:
every chunk is one packet of at most PIPE_BUF bytes, so that messages stay whole, also when a sender is killed
half way through one of megabytes. See `kinfolk.channels.pipe_transport` for what travels.

Options: mode, capacity (F_SETPIPE_SZ), max_message, codec, lifetime, framing.

    framing="raw"       bare bytes: the other side may be cat, or the C sender and receiver of the source
    lifetime="name"     both directions are held open: nobody's leaving is an end, nobody's absence an error;
                        what is sent waits in the pipe as long as one process has it open

Opening never hangs on a half-open FIFO: both ends are opened without blocking, and a sender waits by inotify for
somebody to open the other one. Who opens it blocking, as cat and C programs do, is announced only once he has
met somebody: with framing="raw" a sender looks for him 50 times a second.
"""

from __future__ import annotations

import os
import stat

from kinfolk.channels.address import Address
from kinfolk.channels.contract import (
    DEFAULT_MAX_MESSAGE,
    Duplex,
    Limits,
    Mechanism,
    ReceiveTransport,
    SendTransport,
)
from kinfolk.channels.pipe_receiver import PipeReceiver
from kinfolk.channels.pipe_sender import PipeSender
from kinfolk.channels.pipe_size import pipe_limits, set_capacity
from kinfolk.channels.presence import FifoEnd, open_end
from kinfolk.channels.trust import check_object
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.rendezvous import NotYet, wait_for_path

_STRANGERS_LOOK = 0.02


class FifoMechanism(Mechanism):
    """Named pipes."""

    scheme = "fifo"
    options = frozenset({"codec", "framing", "capacity", "max_message", "mode", "lifetime"})
    remedy = "open two FIFOs, one each way, or use unix:/path"

    def open_receiver(self, address: Address) -> Steps[ReceiveTransport]:
        """Make the FIFO, or take over one that nobody receives from."""
        mode = 0o600 if address.options.mode is None else address.options.mode
        end = yield from _open(address, _flags(address, os.O_RDONLY), make=mode)
        try:
            _check(address, end, receiving=True)
            receiver = PipeReceiver(
                end, _limits(address, end), str(address), raw=address.options.framing == "raw"
            )
            receiver.reserve()
            return receiver
        except BaseException:
            end.close()
            raise

    def open_sender(self, address: Address) -> Steps[SendTransport]:
        """Wait until somebody has the FIFO open for reading, and join."""
        end = yield from _open(address, _flags(address, os.O_WRONLY))
        try:
            _check(address, end, receiving=False)
            return PipeSender(
                end, _limits(address, end), str(address), raw=address.options.framing == "raw"
            )
        except BaseException:
            end.close()
            raise

    def channel(self, address: Address) -> Steps[tuple[ReceiveTransport, SendTransport]]:
        """Both ends of the FIFO in this process."""
        receiver = yield from self.open_receiver(address)
        try:
            return receiver, (yield from self.open_sender(address))
        except BaseException:
            receiver.close()
            raise

    def pair(self, address: Address) -> Steps[tuple[Duplex, Duplex]]:
        """Not of one name: a FIFO goes one way."""
        raise self._lacks("a FIFO goes one way only", address)
        yield


def _flags(address: Address, direction: int) -> int:
    # Open both ways, an end is never alone: see lifetime="name" above (fifo(7) allows it on Linux).
    return os.O_RDWR if address.options.lifetime == "name" else direction


def _open(address: Address, flags: int, make: int | None = None) -> Steps[FifoEnd]:
    if not address.name:
        raise AddressError("a FIFO needs a path", subject=str(address), remedy="write fifo:/path")
    path = os.path.abspath(address.name)
    keep_name = address.options.lifetime == "name"

    def attempt() -> FifoEnd:
        try:
            return open_end(path, flags, make=make, keep_name=keep_name)
        except NotYet:
            if address.options.framing == "raw" and os.path.lexists(path):
                raise NotYet(_STRANGERS_LOOK) from None
            raise

    return (yield from wait_for_path(path, attempt))


def _check(address: Address, end: FifoEnd, *, receiving: bool) -> None:
    status = os.fstat(end.fileno())
    codec = address.options.codec or "pickle"
    check_object(
        status.st_uid, stat.S_IMODE(status.st_mode), codec, str(address), receiving=receiving
    )
    if address.options.capacity is not None:
        set_capacity(end.fileno(), address.options.capacity, str(address))


def _limits(address: Address, end: FifoEnd) -> Limits:
    options = address.options
    raw = options.framing == "raw"
    return pipe_limits(
        "fifo",
        end.fileno(),
        options.max_message or DEFAULT_MAX_MESSAGE,
        "many",
        raw,
        presence=options.lifetime != "name",
    )


MECHANISM: Mechanism = FifoMechanism()
