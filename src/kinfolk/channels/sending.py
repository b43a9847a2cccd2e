"""The methods of an end that sends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kinfolk.channels.codec import RAW, as_bytes_view, encode
from kinfolk.channels.contract import Message, SendTransport
from kinfolk.channels.end import End, guarded
from kinfolk.deadlines import Deadline
from kinfolk.errors import MessageTooBig, Unsupported
from kinfolk.waiting import Steps, Turnstile, arun, run


class Sends(End):
    """The methods of an end that sends."""

    def _attach_sending(self, transport: SendTransport) -> None:
        self._sending = transport
        self._send_turn = Turnstile(self._address, transport.close)

    # The messages of send_many are encoded one by one, as they go out.

    def _send_steps(self, message: Message) -> Steps[None]:
        size = message.size
        if size > self._limits.max_message:
            raise MessageTooBig(
                f"a message of {size} bytes is larger than the limit of {self._limits.max_message}",
                subject=self._address,
                remedy=self._too_big_remedy(),
            )
        if size == 0 and not self._limits.empty_messages:
            raise Unsupported(
                "a message without bytes can't be told from none here", subject=self._address, remedy="use framing='framed'"
            )
        yield from guarded(self._sending.send(message), "can't send", self._address)
        self._statistics.messages_sent += 1
        self._statistics.bytes_sent += size

    def _too_big_remedy(self) -> str:
        return next((note for note in self._limits.notes if "larger" in note), "open both ends with a larger max_message")

    def _prepared(self, message: Message, priority: int | None) -> Message:
        if priority is not None and not self._limits.priorities:
            raise Unsupported("there are no priorities here", subject=self._address, remedy="use mq: or sysv-mq:")
        message.priority = priority
        return message

    def _send_one(self, obj: object, priority: int | None) -> Steps[None]:
        yield from self._send_steps(self._prepared(encode(obj, self._codec), priority))

    def _send_bytes_one(self, data: object, priority: int | None) -> Steps[None]:
        yield from self._send_steps(self._prepared(Message(RAW, (as_bytes_view(data),)), priority))

    def _send_many_steps(self, objects: Iterable[object], priority: int | None) -> Steps[int]:
        count = 0
        for obj in objects:
            yield from self._send_one(obj, priority)
            count += 1
        return count

    def send(self, obj: object, *, timeout: float | None = None, priority: int | None = None) -> None:
        """Send one object; returns when it is committed: it is delivered while a receiver lives.

        ``timeout`` in seconds (None: for ever, 0: only if there is room now); ``priority`` on POSIX queues, the message
        type on System V ones. Raises BrokenChannel, MessageTooBig, CodecError, Timeout, Closed. Thread-safe.
        A large object that times out or is interrupted in the middle is never delivered.
        """
        run(self._send_one(obj, priority), self._send_turn, Deadline(timeout), self._doing("send"))

    async def asend(self, obj: object, *, timeout: float | None = None, priority: int | None = None) -> None:
        """`send`, on asyncio. A cancelled one is not delivered, and the stream stays whole."""
        await arun(self._send_one(obj, priority), self._send_turn, Deadline(timeout), self._doing("send"))

    def send_bytes(self, data: object, *, timeout: float | None = None, priority: int | None = None) -> None:
        """Send the bytes of an object with the buffer protocol, as one message; otherwise like `send`."""
        run(self._send_bytes_one(data, priority), self._send_turn, Deadline(timeout), self._doing("send"))

    async def asend_bytes(self, data: object, *, timeout: float | None = None, priority: int | None = None) -> None:
        """`send_bytes`, on asyncio."""
        await arun(self._send_bytes_one(data, priority), self._send_turn, Deadline(timeout), self._doing("send"))

    def send_many(self, objects: Iterable[object], *, timeout: float | None = None, priority: int | None = None) -> int:
        """Send several objects, each a message, with nobody's in between from this end; how many.

        When it raises, ``statistics().messages_sent`` says how many went out.
        """
        return run(self._send_many_steps(objects, priority), self._send_turn, Deadline(timeout), self._doing("send"))

    async def asend_many(
        self, objects: Iterable[object], *, timeout: float | None = None, priority: int | None = None
    ) -> int:
        """`send_many`, on asyncio."""
        return await arun(self._send_many_steps(objects, priority), self._send_turn, Deadline(timeout), self._doing("send"))

    def send_fds(self, data: object, fds: Sequence[int], *, timeout: float | None = None) -> None:
        """Send bytes and, with them, descriptors, which stay open here too. Unix sockets only (unix(7), SCM_RIGHTS).

        Raises Unsupported elsewhere, and like `send`.
        """
        run(self._send_fds_steps(data, fds), self._send_turn, Deadline(timeout), self._doing("send"))

    async def asend_fds(self, data: object, fds: Sequence[int], *, timeout: float | None = None) -> None:
        """`send_fds`, on asyncio."""
        await arun(self._send_fds_steps(data, fds), self._send_turn, Deadline(timeout), self._doing("send"))

    def _send_fds_steps(self, data: object, fds: Sequence[int]) -> Steps[None]:
        if not self._limits.descriptors:
            raise Unsupported("descriptors can't be passed here", subject=self._address, remedy="use unix: or unix-seqpacket:")
        yield from self._send_steps(Message(RAW, (as_bytes_view(data),), descriptors=tuple(fds)))

    def _doing(self, what: str) -> str:
        return f"{self._address}: {what}"
