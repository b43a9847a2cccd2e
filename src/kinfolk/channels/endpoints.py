"""What users hold: Sender, Receiver, Connection, Listener. The same for every mechanism."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, NoReturn, TypeVar

from kinfolk.channels.address import Codec
from kinfolk.channels.contract import Duplex, ListenTransport, ReceiveTransport, SendTransport
from kinfolk.channels.end import End, Statistics, guarded, located, unlink
from kinfolk.channels.passing import Dismantled, assemble, clone, dismantle, moving
from kinfolk.channels.receiving import Receives
from kinfolk.channels.sending import Sends
from kinfolk.deadlines import Deadline
from kinfolk.errors import KinfolkError, UsageError
from kinfolk.identity import Peer
from kinfolk.interest import Steps
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

Transport = TypeVar("Transport", SendTransport, ReceiveTransport)


class Sender(Sends):
    """The sending end of a one-way channel."""

    def __init__(self, address: str, codec: Codec, transport: SendTransport) -> None:
        """Made by `kinfolk.open_sender`, `kinfolk.channel`."""
        super().__init__(address, codec, transport.limits)
        self._attach_sending(transport)

    def close(self) -> None:
        """Close this end; what was sent is still delivered. Blocked calls raise Closed."""
        self._send_turn.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._send_turn.closed

    @property
    def peer(self) -> Peer | None:
        """Who receives, where the kernel vouches for one process."""
        return self._sending.peer()

    def fileno(self) -> int:
        """A descriptor that is writable when there is room, for select and event loops."""
        return self._sending.fileno()

    def unlink(self) -> None:
        """Remove the name; who has it open goes on. Raises Unsupported where there is no name."""
        unlink(self._sending, self._address)

    def statistics(self) -> Statistics:
        """What went through this end."""
        return self._count(self._sending)

    def clone(self) -> Sender:
        """A second end of the same channel in this process, to pass on while keeping this one."""
        return Sender(self._address, self._codec, _cloned(self, self._sending))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = dismantle(self._sending)
        moving(self.close)
        return rebuild, (Sender, self._address, self._codec, parts)


class Receiver(Receives):
    """The receiving end of a one-way channel. Iterating over it gives objects until the channel ends."""

    def __init__(self, address: str, codec: Codec, transport: ReceiveTransport) -> None:
        """Made by `kinfolk.open_receiver`, `kinfolk.channel`."""
        super().__init__(address, codec, transport.limits)
        self._attach_receiving(transport)

    def close(self) -> None:
        """Close this end; senders get BrokenChannel once no receiver is left. Blocked calls raise Closed."""
        self._receive_turn.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._receive_turn.closed

    @property
    def peer(self) -> Peer | None:
        """Who sends, where the kernel vouches for one process."""
        return self._receiving.peer()

    def unlink(self) -> None:
        """Remove the name; who has it open goes on. Raises Unsupported where there is no name."""
        unlink(self._receiving, self._address)

    def statistics(self) -> Statistics:
        """What went through this end."""
        return self._count(self._receiving)

    def clone(self) -> Receiver:
        """A second end of the same channel in this process, to pass on while keeping this one."""
        return Receiver(self._address, self._codec, _cloned(self, self._receiving))

    def __reduce__(self) -> tuple[Any, ...]:
        parts = dismantle(self._receiving)
        moving(self.close)
        return rebuild, (Receiver, self._address, self._codec, parts)


class Connection(Sends, Receives):
    """Both ways with one peer."""

    def __init__(self, address: str, codec: Codec, duplex: Duplex) -> None:
        """Made by `kinfolk.connect`, `kinfolk.pair`, `Listener.accept`."""
        super().__init__(address, codec, duplex.sending.limits)
        self._attach_sending(duplex.sending)
        self._attach_receiving(duplex.receiving)

    def close(self) -> None:
        """Close both directions. Blocked calls raise Closed."""
        self._send_turn.close()
        self._receive_turn.close()

    def send_eof(self) -> None:
        """End the sending direction: the peer gets EndOfChannel, and may go on sending."""
        self._check_open()
        try:
            self._sending.send_eof()
        except (OSError, KinfolkError) as error:
            self._check_open()  # another thread may have closed it meanwhile
            raise located(error, "can't end sending", self._address) from error.__cause__

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._send_turn.closed

    @property
    def peer(self) -> Peer | None:
        """Who is at the other end, where the kernel vouches for it."""
        return self._receiving.peer()

    def statistics(self) -> Statistics:
        """What went through this end, both ways."""
        return self._count(self._receiving, self._sending)

    def clone(self) -> Connection:
        """A second end of the same connection in this process, both ways, to pass on while keeping this one."""
        sending = _cloned(self, self._sending)
        try:
            # Last, as it takes along what was read ahead.
            receiving = _cloned(self, self._receiving)
        except BaseException:
            sending.close()
            raise
        return Connection(self._address, self._codec, Duplex(receiving, sending))

    def __reduce__(self) -> tuple[Any, ...]:
        receiving, sending = dismantle(self._receiving), dismantle(self._sending)
        moving(self.close)
        return rebuild_connection, (self._address, self._codec, receiving, sending)


class Listener(End):
    """Accepts connections at an address. Iterating over it gives connections."""

    def __init__(self, address: str, codec: Codec, transport: ListenTransport) -> None:
        """Made by `kinfolk.listen`."""
        super().__init__(address, codec, transport.limits)
        self._transport = transport
        self._turn = Turnstile(address, transport.close)
        self._accept_what = f"{address.removesuffix(':')}: accept"

    @property
    def address(self) -> str:
        """Where it listens; a port that was asked for as 0 is the one the kernel chose."""
        return self._transport.address

    def accept(self, *, timeout: float | None = None) -> Connection:
        """The next connection. Raises Timeout, Closed. Connections of users who may not are refused unseen."""
        return run(self._accept_steps(), self._turn, Deadline(timeout), self._accept_what)

    async def aaccept(self, *, timeout: float | None = None) -> Connection:
        """`accept`, on asyncio."""
        return await arun(self._accept_steps(), self._turn, Deadline(timeout), self._accept_what)

    def _accept_steps(self) -> Steps[Connection]:
        duplex = yield from guarded(self._transport.accept(), "can't accept", self._address)
        return Connection(self._address, self._codec, duplex)

    def __iter__(self) -> Iterator[Connection]:
        while True:
            yield self.accept()

    async def __aiter__(self) -> AsyncIterator[Connection]:
        while True:
            yield await self.aaccept()

    def fileno(self) -> int:
        """Readable when a connection waits."""
        self._check_open()
        return self._transport.fileno()

    def close(self) -> None:
        """Stop listening and remove the name; connections that were accepted live on."""
        self._turn.close()

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._turn.closed

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a listener can't be passed on",
            subject=self._address,
            why="its name would have two owners, and each would know connections of its own",
            remedy="pass on the connections that it accepts, listen in the other process, or fork",
        )


def _cloned(end: End, transport: Transport) -> Transport:
    """A second transport like the one of an end. Raises Closed, Unsupported, LimitReached."""
    end._check_open()
    try:
        second: Transport = clone(transport)
        return second
    except (OSError, KinfolkError) as error:
        end._check_open()  # another thread may have closed it meanwhile
        raise located(error, "can't be cloned", end.address) from error.__cause__


# ── how an end is passed to a child: see `kinfolk.channels.passing` ──────────────────────────


def rebuild(
    kind: type[Sender] | type[Receiver], address: str, codec: Codec, parts: Dismantled
) -> Sender | Receiver:
    """An end that came from another process."""
    return kind(address, codec, assemble(parts))


def rebuild_connection(
    address: str, codec: Codec, receiving: Dismantled, sending: Dismantled
) -> Connection:
    """A connection that came from another process."""
    return Connection(address, codec, Duplex(assemble(receiving), assemble(sending)))
