"""The methods of an end that receives.

Rule: a message that could not be handed over (a buffer too small, descriptors that were not asked for) is held for
the next call: none is lost by asking wrongly.
"""

from __future__ import annotations

import functools
import operator
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from kinfolk._native import Finally
from kinfolk.channels.array_format import array_in
from kinfolk.channels.codec import ARRAY, OUT_OF_BAND, decode, holds_addresses
from kinfolk.channels.contract import Message, ReceiveTransport
from kinfolk.channels.delivery import Delivery
from kinfolk.channels.end import End, located
from kinfolk.channels.readiness import Readiness
from kinfolk.deadlines import Deadline, deadline
from kinfolk.errors import (
    BufferTooSmall,
    EndOfChannel,
    InvalidValue,
    KinfolkError,
    Unsupported,
    UsageError,
)
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import ablock, aenter, block, enter

#: Raises when a message can't be handed over to the call that got it.
Accept = Callable[[Message], None]


def anything(message: Message) -> None:
    """Every message will do."""


def no_descriptors(message: Message) -> None:
    """Raise UsageError for a message whose descriptors would be lost."""
    if message.descriptors:
        raise UsageError(
            f"the next message carries {len(message.descriptors)} descriptors",
            remedy="take it with recv_fds()",
        )


def to_be_acknowledged(message: Message) -> None:
    """Every message of an end that acknowledges."""


class Receives(End):
    """The methods of an end that receives."""

    def _attach_receiving(self, transport: ReceiveTransport) -> None:
        self._receiving = transport
        held: list[Message] = []  # one at most
        readiness: list[Readiness] = []  # one at most, once somebody asked for a descriptor
        self._held, self._readiness = held, readiness
        self._postponed: list[KinfolkError] = []  # likewise

        # Not a method: a cycle would have the parts of a dropped end collected before the end.
        def finish() -> None:
            for message in held:
                for fd in message.descriptors:
                    os.close(fd)
            for made in readiness:
                made.close()
            transport.close()

        self._receive_turn = Turnstile(self._address, finish)
        self._receive_what = f"{self._address.removesuffix(':')}: receive"
        guards = (self._receive_turn.inside, held, self._postponed, readiness)
        vars(self).update(transport.shortcuts(self, *guards))

    def _receive(self, timeout: float | None, accept: Accept = no_descriptors) -> Message:
        self._check_asked(accept)
        due, turn, token = deadline(timeout), self._receive_turn, object()
        with Finally(self._leave_receiving, token):
            enter(turn, token, due, self._receive_what)
            message = self._next_message()
            if message is None:
                message = self._wait_for_message(due)
            return self._handed_over(message, accept)

    def _wait_for_message(self, due: Deadline) -> Message:
        while True:
            block(self._receiving.interest, self._receive_turn, due, self._receive_what)
            if (message := self._next_message()) is not None:
                return message

    async def _areceive(self, timeout: float | None, accept: Accept = no_descriptors) -> Message:
        self._check_asked(accept)
        due, turn, token = deadline(timeout), self._receive_turn, object()
        with Finally(self._leave_receiving, token):
            await aenter(turn, token, due, self._receive_what)
            message = self._next_message()
            if message is None:
                message = await self._await_message(due)
            return self._handed_over(message, accept)

    async def _await_message(self, due: Deadline) -> Message:
        while True:
            await ablock(self._receiving.interest, self._receive_turn, due, self._receive_what)
            if (message := self._next_message()) is not None:
                return message

    def _leave_receiving(self, token: object) -> None:
        if self._readiness:
            self._readiness[0].tell(self._has_something())
        self._receive_turn.leave(token)

    def _has_something(self) -> bool:
        """Whether the next receive finds something in user space."""
        return bool(self._held or self._postponed) or self._receiving.buffered()

    def fileno(self) -> int:
        """A descriptor that is readable when `recv` would not block, for select and event loops.

        It may be readable for half a message too: receive with ``timeout=0``. After a fork, ask again. Raises
        Unsupported where the kernel gives none (sysv-mq:), LimitReached when this process may open no more.
        """
        try:
            return self._ready_descriptor()
        except (OSError, KinfolkError) as error:
            raise located(error, "can't make a descriptor to wait on", self._address) from (
                error.__cause__
            )

    def _ready_descriptor(self) -> int:
        kernel = self._receiving.fileno()
        hangups = self._receiving.hangups()
        if not self._receiving.reads_ahead and not hangups:
            return kernel
        if self._readiness and self._readiness[0].is_a_copy:
            self._readiness.pop().close()
        if not self._readiness:
            made = Readiness(kernel, hangups)
            self._readiness.append(made)
            if self._readiness[0] is not made:  # another thread was quicker
                self._readiness.remove(made)
                made.close()
            # Only ever this way: a thread that receives meanwhile knows better, and says so when it leaves.
            if self._has_something():
                self._readiness[0].tell(True)
        return self._readiness[0].fileno()

    def _next_message(self) -> Message | None:
        """What was held or postponed comes first; None when there is nothing now."""
        if self._postponed:
            raise self._postponed.pop()
        if self._held:
            return self._held.pop()
        try:
            return self._receiving.try_receive()
        except (OSError, KinfolkError) as error:
            raise located(error, "can't receive", self._address) from error.__cause__

    def _handed_over(self, message: Message, accept: Accept) -> Message:
        """Count a message, unless it can't be taken like this: then it is held for the next call."""
        try:
            accept(message)
        except KinfolkError as error:
            self._held.append(message)
            raise located(error, "can't receive", self._address) from None
        self._statistics.messages_received += 1
        self._statistics.bytes_received += message.size
        return message

    def _receive_now(self) -> Message | None:
        """The next message if it is here and nobody else is receiving."""
        token = object()
        with Finally(self._leave_receiving, token):
            message = self._next_message() if self._receive_turn.enter(token) else None
            return None if message is None else self._handed_over(message, no_descriptors)

    def _decoded(self, message: Message, copy: bool) -> Any:
        try:
            return decode(message, self._codec, copy=copy)
        except KinfolkError as error:
            error.subject = error.subject or self._address
            raise

    def _unpacked(self, kind: int, body: memoryview) -> Any:
        """What a shortcut received without the turnstile."""
        if kind == ARRAY | OUT_OF_BAND:
            try:
                return array_in(memoryview(body))
            except Exception:
                pass  # said below, as always
        return self._decoded(Message(kind, (memoryview(body),)), False)

    def _recv_more(self, objects: list[Any], most: int, copy: bool) -> list[Any]:
        """Add what is here already, up to ``most`` in all."""
        try:
            while len(objects) < most and (message := self._receive_now()) is not None:
                objects.append(self._decoded(message, copy))
        except UsageError:
            pass  # the next call will find the same, if it asks wrongly too
        except KinfolkError as error:
            self._postponed.append(error)  # what came before it is not lost: the next call says so
        return objects

    def _check_asked(self, accept: Accept) -> None:
        acknowledges = self._receiving.acknowledges
        if acknowledges is (accept is to_be_acknowledged):
            return
        if acknowledges:
            raise UsageError(
                "what is received here has to be acknowledged",
                subject=self._address,
                remedy="with receiver.recv_message() as message: work(message.object)",
            )
        raise Unsupported(
            "nothing is acknowledged here",
            subject=self._address,
            remedy="receive with recv(), or open ring: with acknowledge=True on its receivers",
        )

    def _delivered(self, message: Message, copy: bool) -> Delivery:
        assert message.claim is not None  # _check_asked saw to it
        decode = functools.partial(self._decoded, message, copy)
        return Delivery(decode, message.claim, self._address)

    def _check_most(self, most: int) -> None:
        try:
            sensible = operator.index(most) >= 1
        except TypeError:
            sensible = False
        if not sensible:
            raise InvalidValue(
                f"recv_many({most!r}) can't receive anything",
                subject=self._address,
                remedy="ask for 1 or more",
            )

    def _descriptors_allowed(self) -> None:
        if not self._limits.descriptors:
            raise Unsupported(
                "descriptors can't be passed here",
                subject=self._address,
                remedy="use unix: or unix-seqpacket:",
            )

    def recv(self, *, timeout: float | None = None, copy: bool = False) -> Any:
        """The next object. Raises EndOfChannel when every sender has gone and all was received.

        Arrays in it are read-only views of the message; ``copy=True`` gives arrays of your own. ``timeout`` in seconds
        (None: for ever, 0: only what is there now). Raises also Timeout, Closed, CorruptChannel, DecodeError. Thread-safe.
        """
        return self._decoded(self._receive(timeout), copy)

    async def arecv(self, *, timeout: float | None = None, copy: bool = False) -> Any:
        """`recv`, on asyncio. A cancelled one loses no message."""
        return self._decoded(await self._areceive(timeout), copy)

    def recv_message(self, *, timeout: float | None = None, copy: bool = False) -> Delivery:
        """The next object of an end that was opened with ``acknowledge=True``, which is this end's until it is acknowledged.

        It is received again when it is given back, or garbage, when this end is closed before, or its process dies. ``with
        receiver.recv_message() as message:`` acknowledges at the end of the block. EndOfChannel waits until the other receivers
        have acknowledged theirs, unless this process has some itself. Raises Unsupported elsewhere, and like `recv`; but what
        can't be decoded raises when ``message.object`` is asked for. Thread-safe.
        """
        return self._delivered(self._receive(timeout, to_be_acknowledged), copy)

    async def arecv_message(self, *, timeout: float | None = None, copy: bool = False) -> Delivery:
        """`recv_message`, on asyncio."""
        return self._delivered(await self._areceive(timeout, to_be_acknowledged), copy)

    def recv_bytes(self, *, timeout: float | None = None) -> bytes:
        """The bytes of the next message: what `send_bytes` sent, or an object as its codec wrote it."""
        return _bytes_of(self._receive(timeout))

    async def arecv_bytes(self, *, timeout: float | None = None) -> bytes:
        """`recv_bytes`, on asyncio."""
        return _bytes_of(await self._areceive(timeout))

    def recv_bytes_into(self, buffer: object, *, timeout: float | None = None) -> int:
        """Write the bytes of the next message into a writable buffer; how many.

        Raises BufferTooSmall, and then the message waits for the next call.
        """
        room = _room_in(buffer)
        return _fill(room, self._receive(timeout, _fits(room)))

    async def arecv_bytes_into(self, buffer: object, *, timeout: float | None = None) -> int:
        """`recv_bytes_into`, on asyncio."""
        room = _room_in(buffer)
        return _fill(room, await self._areceive(timeout, _fits(room)))

    def recv_many(
        self, most: int, *, timeout: float | None = None, copy: bool = False
    ) -> list[Any]:
        """Between 1 and ``most`` objects: waits for the first, takes what else is there without waiting."""
        self._check_most(most)
        return self._recv_more([self.recv(timeout=timeout, copy=copy)], most, copy)

    async def arecv_many(
        self, most: int, *, timeout: float | None = None, copy: bool = False
    ) -> list[Any]:
        """`recv_many`, on asyncio."""
        self._check_most(most)
        return self._recv_more([await self.arecv(timeout=timeout, copy=copy)], most, copy)

    def recv_fds(self, *, timeout: float | None = None) -> tuple[bytes, list[int]]:
        """The next message and the descriptors that ride with it (perhaps none), all close-on-exec and yours to close."""
        self._descriptors_allowed()
        message = self._receive(timeout, anything)
        return bytes(message.body), list(message.descriptors)

    async def arecv_fds(self, *, timeout: float | None = None) -> tuple[bytes, list[int]]:
        """`recv_fds`, on asyncio."""
        self._descriptors_allowed()
        message = await self._areceive(timeout, anything)
        return bytes(message.body), list(message.descriptors)

    def __iter__(self) -> Iterator[Any]:
        """Objects until the channel ends."""
        while True:
            try:
                yield self.recv()
            except EndOfChannel:
                return

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            try:
                obj = await self.arecv()
            except EndOfChannel:
                return
            yield obj


def _bytes_of(message: Message) -> bytes:
    return message.body if isinstance(message.body, bytes) else bytes(message.body)


def _room_in(buffer: object) -> memoryview:
    try:
        room = memoryview(buffer)  # type: ignore[arg-type]
    except (TypeError, ValueError, BufferError):
        raise InvalidValue(
            f"a {type(buffer).__qualname__} is no buffer",
            remedy="give a bytearray, a writable memoryview or an array",
        ) from None
    if room.readonly or not room.c_contiguous:
        raise InvalidValue(
            "the buffer is read-only or not contiguous",
            remedy="give a bytearray, a writable memoryview or an array",
        )
    if holds_addresses(room):
        raise InvalidValue(
            "the buffer holds Python objects", remedy="give one of numbers, or a bytearray"
        )
    return pickle.PickleBuffer(room).raw()  # a cast takes native formats alone, and no empty views


def _fits(room: memoryview) -> Accept:
    def check(message: Message) -> None:
        no_descriptors(message)
        if message.size > room.nbytes:
            raise BufferTooSmall(
                f"the message has {message.size} bytes, the buffer {room.nbytes}",
                remedy="the message waits: call again with a larger buffer",
            )

    return check


def _fill(room: memoryview, message: Message) -> int:
    room[: message.size] = message.body
    return message.size
