"""The methods of an end that receives.

Rule: a message that could not be handed over (a buffer too small, descriptors that were not asked for) is held for
the next call: none is lost by asking wrongly.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from kinfolk.channels.codec import decode
from kinfolk.channels.contract import Message, ReceiveTransport
from kinfolk.channels.end import End, guarded
from kinfolk.deadlines import Deadline
from kinfolk.errors import BufferTooSmall, EndOfChannel, KinfolkError, Unsupported, UsageError
from kinfolk.waiting import Steps, Turnstile, arun, run


class Receives(End):
    """The methods of an end that receives."""

    def _attach_receiving(self, transport: ReceiveTransport) -> None:
        self._receiving = transport
        self._held: Message | None = None
        self._postponed: KinfolkError | None = None
        self._receive_turn = Turnstile(self._address, self._finish_receiving)

    def _finish_receiving(self) -> None:
        if self._held is not None:
            for fd in self._held.descriptors:
                os.close(fd)
        self._receiving.close()

    def _message_steps(self, *, with_descriptors: bool = False) -> Steps[Message]:
        if self._postponed is not None:
            error, self._postponed = self._postponed, None
            raise error
        message, self._held = self._held, None
        if message is None:
            message = yield from guarded(self._receiving.receive(), "can't receive", self._address)
        if message.descriptors and not with_descriptors:
            self._held = message
            raise UsageError(
                f"the next message carries {len(message.descriptors)} descriptors",
                subject=self._address,
                remedy="take it with recv_fds()",
            )
        self._statistics.messages_received += 1
        self._statistics.bytes_received += message.size
        return message

    def _recv_steps(self, copy: bool) -> Steps[Any]:
        message = yield from self._message_steps()
        return self._decoded(message, copy)

    def _decoded(self, message: Message, copy: bool) -> Any:
        try:
            return decode(message, self._codec, copy=copy)
        except KinfolkError as error:
            error.subject = error.subject or self._address
            raise

    def _recv_bytes_steps(self) -> Steps[bytes]:
        body = (yield from self._message_steps()).body
        return body if isinstance(body, bytes) else bytes(body)

    def _recv_bytes_into_steps(self, buffer: object) -> Steps[int]:
        room = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        if room.readonly:
            raise UsageError("the buffer is read-only", subject=self._address)
        message = yield from self._message_steps()
        if message.size > room.nbytes:
            self._held = message
            self._statistics.messages_received -= 1
            self._statistics.bytes_received -= message.size
            raise BufferTooSmall(
                f"the message has {message.size} bytes, the buffer {room.nbytes}",
                subject=self._address,
                remedy="the message waits: call again with a larger buffer",
            )
        room[: message.size] = message.body
        return message.size

    def _recv_many_steps(self, most: int, copy: bool) -> Steps[list[Any]]:
        if most < 1:
            raise UsageError(f"recv_many({most}) can't receive anything", subject=self._address, remedy="ask for 1 or more")
        objects = [(yield from self._recv_steps(copy))]
        while len(objects) < most:
            steps = self._recv_steps(copy)
            try:
                next(steps)
            except StopIteration as received:
                objects.append(received.value)
            except KinfolkError as error:
                self._postponed = error  # what came before it is not lost: the next call says so
                break
            else:
                steps.close()
                break
        return objects

    def _recv_fds_steps(self) -> Steps[tuple[bytes, list[int]]]:
        if not self._limits.descriptors:
            raise Unsupported("descriptors can't be passed here", subject=self._address, remedy="use unix: or unix-seqpacket:")
        message = yield from self._message_steps(with_descriptors=True)
        return bytes(message.body), list(message.descriptors)

    def recv(self, *, timeout: float | None = None, copy: bool = False) -> Any:
        """The next object. Raises EndOfChannel when every sender has gone and all was received.

        Arrays in it are read-only views of the message; ``copy=True`` gives arrays of your own. ``timeout`` in seconds
        (None: for ever, 0: only what is there now). Raises also Timeout, Closed, CorruptChannel, DecodeError. Thread-safe.
        """
        return run(self._recv_steps(copy), self._receive_turn, Deadline(timeout), self._doing_receive())

    async def arecv(self, *, timeout: float | None = None, copy: bool = False) -> Any:
        """`recv`, on asyncio. A cancelled one loses no message."""
        return await arun(self._recv_steps(copy), self._receive_turn, Deadline(timeout), self._doing_receive())

    def recv_bytes(self, *, timeout: float | None = None) -> bytes:
        """The bytes of the next message: what `send_bytes` sent, or an object as its codec wrote it."""
        return run(self._recv_bytes_steps(), self._receive_turn, Deadline(timeout), self._doing_receive())

    async def arecv_bytes(self, *, timeout: float | None = None) -> bytes:
        """`recv_bytes`, on asyncio."""
        return await arun(self._recv_bytes_steps(), self._receive_turn, Deadline(timeout), self._doing_receive())

    def recv_bytes_into(self, buffer: object, *, timeout: float | None = None) -> int:
        """Write the bytes of the next message into a writable buffer; how many.

        Raises BufferTooSmall, and then the message waits for the next call.
        """
        return run(self._recv_bytes_into_steps(buffer), self._receive_turn, Deadline(timeout), self._doing_receive())

    async def arecv_bytes_into(self, buffer: object, *, timeout: float | None = None) -> int:
        """`recv_bytes_into`, on asyncio."""
        return await arun(self._recv_bytes_into_steps(buffer), self._receive_turn, Deadline(timeout), self._doing_receive())

    def recv_many(self, most: int, *, timeout: float | None = None, copy: bool = False) -> list[Any]:
        """Between 1 and ``most`` objects: waits for the first, takes what else is there without waiting."""
        return run(self._recv_many_steps(most, copy), self._receive_turn, Deadline(timeout), self._doing_receive())

    async def arecv_many(self, most: int, *, timeout: float | None = None, copy: bool = False) -> list[Any]:
        """`recv_many`, on asyncio."""
        return await arun(self._recv_many_steps(most, copy), self._receive_turn, Deadline(timeout), self._doing_receive())

    def recv_fds(self, *, timeout: float | None = None) -> tuple[bytes, list[int]]:
        """The next message and the descriptors that ride with it (perhaps none), all close-on-exec and yours to close."""
        return run(self._recv_fds_steps(), self._receive_turn, Deadline(timeout), self._doing_receive())

    async def arecv_fds(self, *, timeout: float | None = None) -> tuple[bytes, list[int]]:
        """`recv_fds`, on asyncio."""
        return await arun(self._recv_fds_steps(), self._receive_turn, Deadline(timeout), self._doing_receive())

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

    def _doing_receive(self) -> str:
        return f"{self._address}: receive"
