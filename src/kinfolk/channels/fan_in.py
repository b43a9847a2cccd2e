"""A one-way receiver over a listening socket: any number of senders, each with a connection of its own.

    sender ──┐ backlog        epoll ── which of them have something? ── in turn ──> receive
    sender ──┼─────────> [listening socket]
    sender ──┘

Rules:
1. Connections are taken inside `receive`; no thread waits for them. All are served in turn, one message each.
2. The channel ends when some sender has come and the last has left. A connection that says nothing of kinfolk's (a port
   scan, garbage) is no sender; with framing="raw" every one is.
3. At the end the door is shut first, and only if nobody slipped in before is it the end; then the name is removed, and later
   senders wait for the next receiver.
4. What is corrupt or lost breaks its own connection: CorruptChannel or BrokenChannel is raised once, and the others go on.
   So does that connection itself where each packet stands on its own: what was committed behind is delivered.
5. A forked copy has an epoll of its own, for an epoll is shared by fork, and what one removes is gone for both.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from kinfolk.channels.claims import RECEIVING, Claim
from kinfolk.channels.contract import Message, Passed, ReceiveTransport
from kinfolk.channels.kernel_buffers import bytes_waiting
from kinfolk.channels.listening import Door, listening_at
from kinfolk.channels.message_reader import MessageReader, check_copy, pass_ahead
from kinfolk.channels.socket_names import SocketName
from kinfolk.channels.stream_terms import Stream, Terms
from kinfolk.errors import BrokenChannel, Busy, Closed, CorruptChannel, EndOfChannel
from kinfolk.interest import Interest, Steps

_AT_ONCE = 64  # connections taken before senders are looked at again


class FanIn(ReceiveTransport):
    """Receives from everybody who connects."""

    clonable = False

    def __init__(self, door: Door) -> None:
        """Take over ``door``."""
        self._door, self._terms = door, door.terms
        self.reads_ahead = not door.terms.raw
        self.limits = door.terms.limits(door.sock, senders="many")
        self._claim = Claim(door.fileno(), RECEIVING, door.terms.subject, sole=True)
        self._senders: dict[int, tuple[Stream, MessageReader]] = {}
        self._ready: deque[int] = deque()  # senders that may have a message, in turn
        self._lost = 0  # messages dropped on connections that have ended
        self._came = self._shut = self._ended = self._passed_on = False
        self._pid = os.getpid()
        try:
            self._epoll = self._new_epoll()
        except BaseException:
            door.close()
            raise

    @property
    def dropped(self) -> int:  # type: ignore[override]
        """Incomplete messages that were dropped, and connections that were refused."""
        here = sum(reader.dropped for _, reader in self._present())
        return self._lost + here + self._door.refused

    def _present(self) -> list[tuple[Stream, MessageReader]]:
        """The senders at one moment, for who looks while another thread takes them in and dismisses them."""
        return list(self._senders.values())

    @property
    def address(self) -> str:
        """Where senders find it (a port of 0 has become a number)."""
        return listening_at(self._door.sock, self._terms)

    def receive(self) -> Steps[Message]:
        """The next message of any sender."""
        while (message := self.try_receive()) is None:
            yield self.interest
        return message

    def try_receive(self) -> Message | None:
        """The next message, if one is here."""
        if self._ended:
            raise EndOfChannel("every sender has gone", subject=self._terms.subject)
        self._claim.take()
        if self._pid != os.getpid():
            self._begin_in_this_process()
        if self._passed_on:
            raise Busy(
                "this end was passed on, with messages that it had read",
                subject=self._terms.subject,
                remedy="close it",
            )
        while True:
            while self._ready:
                message = self._next_of(self._ready.popleft())
                if message is not None:
                    return message
            if not self._look():
                return None

    def _next_of(self, number: int) -> Message | None:
        stream, reader = self._senders[number]
        try:
            message = reader.next_message()
        except EndOfChannel:
            self._dismiss(number)
            return None
        except CorruptChannel:
            if not reader.goes_on:
                self._dismiss(number)
            raise
        except BrokenChannel:
            self._dismiss(number)
            raise
        finally:
            # After an error too: the kernel does not tell of what was read ahead.
            if number in self._senders and reader.buffered():
                self._ready.append(number)
        if message is not None:
            message.sender = message.sender or stream.peer
        return message

    def _look(self) -> bool:
        """Ask the kernel who has something; False when nobody has. Raises EndOfChannel."""
        events = self._epoll.poll(0)
        if not events:
            return self._came and not self._senders and self._try_to_end()
        door = self._door.fileno()
        self._ready = deque(number for number, _ in events if number != door)
        if len(self._ready) < len(events):
            try:
                self._take_connections()
            except OSError:
                if not self._ready:  # those who are in come first
                    raise
        return True

    def _take_connections(self) -> int:
        for count in range(_AT_ONCE):
            stream = self._door.admit()
            if stream is None:
                return count
            self._add(stream)
        return _AT_ONCE

    def _add(self, stream: Stream, ahead: bytes = b"") -> None:
        number = stream.join().sock.fileno()
        try:
            self._epoll.register(number, select.EPOLLIN)
        except OSError:  # a limit of the kernel's
            stream.leave()
            raise
        reader = self._terms.reader(stream.sock, ahead)
        reader.spoke = self._terms.raw
        self._senders[number] = stream, reader
        if ahead:
            self._ready.append(number)

    def _dismiss(self, number: int) -> None:
        stream, reader = self._senders.pop(number)
        self._came = self._came or reader.spoke
        reader.discard()
        self._lost += reader.dropped
        # Not left to close: a forked copy of the connection would keep it in the epoll.
        self._epoll.unregister(number)
        stream.leave()

    def _try_to_end(self) -> bool:
        """Shut the door; True if somebody was in it. Raises EndOfChannel when nobody was."""
        if not self._shut:
            self._door.shut()
            self._shut = True
            self._epoll.unregister(self._door.fileno())  # shut, it would be ready for ever
        if self._take_connections():
            return True
        self._ended = True
        self._door.close()
        self._claim.closed()
        raise EndOfChannel("every sender has gone", subject=self._terms.subject)

    def _new_epoll(self) -> select.epoll:
        epoll = select.epoll()
        for number in self._senders:
            epoll.register(number, select.EPOLLIN)
        if not self._shut:
            epoll.register(self._door.fileno(), select.EPOLLIN)
        self.interest = Interest(readable=(epoll.fileno(),))
        return epoll

    def _begin_in_this_process(self) -> None:
        for _, reader in self._senders.values():
            check_copy(reader, self._terms.subject)
        self._epoll.close()
        self._epoll = self._new_epoll()
        self._ready.clear()
        self._pid = os.getpid()

    def buffered(self) -> bool:
        """Whether a message was read ahead."""
        here = (self._senders.get(number) for number in list(self._ready))  # another thread may ask
        return any(sender is not None and sender[1].buffered() for sender in here)

    def fileno(self) -> int:
        """Readable when a sender came, sent or left."""
        if self._epoll.closed:
            raise Closed("this end is closed")
        if self._pid != os.getpid():
            self._begin_in_this_process()
        return self._epoll.fileno()

    def depth(self) -> int | None:
        """Bytes in the sockets of all senders that were taken in, headers included; None while there are none."""
        here = self._present()
        return sum(bytes_waiting(stream.fileno()) for stream, _ in here) if here else None

    def unlink(self) -> None:
        """Remove the name; who is connected stays so."""
        if self._door.name is None:
            super().unlink()
        else:
            self._door.name.unlink()

    def close(self) -> None:
        """Leave; senders get BrokenChannel once no copy is left."""
        self._epoll.close()
        for stream, reader in self._senders.values():
            reader.discard()
            stream.leave()
        self._senders.clear()
        self._door.close()
        self._claim.closed()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The door and every connection, each with what was read ahead of it, in another process."""
        if self._shut:
            raise EndOfChannel("nobody can come any more", subject=self._terms.subject)
        ahead = [pass_ahead(reader, self._terms.subject) for _, reader in self._senders.values()]
        self._passed_on = any(ahead)
        numbers = [Passed(number) for number in self._senders]
        return rebuild, (
            self._terms,
            self._door.name,
            ahead,
            self._came,
            Passed(self._door.fileno()),
            *numbers,
        )


def rebuild(
    terms: Terms, name: SocketName | None, ahead: list[bytes], came: bool, door: int, *senders: int
) -> FanIn:
    """A receiver around descriptors that came from another process."""
    receiver = FanIn(Door(socket.socket(fileno=door), terms, name))
    for number, rest in zip(senders, ahead, strict=True):
        receiver._add(Stream(socket.socket(fileno=number), terms), rest)
    receiver._came = came
    return receiver
