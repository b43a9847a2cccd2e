"""The methods of an end that sends."""

from __future__ import annotations

import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from kinfolk._native import Finally
from kinfolk.channels.codec import RAW, as_bytes_view, encode
from kinfolk.channels.contract import Message, SendTransport
from kinfolk.channels.end import End, guarded, located
from kinfolk.channels.reserving import Reservation, Room, array_layout, bytes_layout
from kinfolk.deadlines import deadline
from kinfolk.errors import CodecError, InvalidValue, KinfolkError, MessageTooBig, Unsupported
from kinfolk.interest import Steps
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import adrive, aenter, arun, drive, enter, run


class Sends(End):
    """The methods of an end that sends."""

    def _attach_sending(self, transport: SendTransport) -> None:
        self._sending = transport
        self._send_turn = Turnstile(self._address, transport.close)
        self._send_what = f"{self._address.removesuffix(':')}: send"
        vars(self).update(transport.shortcuts(self, self._send_turn.inside))

    def _prepared(self, message: Message, priority: int | None) -> Message:
        size = message.size
        if size > self._limits.max_message:
            raise self._too_big(size)
        if size == 0 and not self._limits.empty_messages:
            raise Unsupported(
                "a message without bytes can't be told from none here",
                subject=self._address,
                remedy="use framing=framed",
            )
        if priority is not None:
            if not isinstance(priority, int) or isinstance(priority, bool):
                raise InvalidValue(
                    f"priority={priority!r} makes no sense",
                    subject=self._address,
                    remedy="give a whole number",
                )
            if not self._limits.priorities:
                raise Unsupported(
                    "there are no priorities here",
                    subject=self._address,
                    remedy="use mq: or sysv-mq:",
                )
            message.priority = priority
        return message

    def _too_big(self, size: int) -> MessageTooBig:
        return MessageTooBig(
            f"a message of {size} bytes is larger than the limit of {self._limits.max_message}",
            subject=self._address,
            remedy=self._limits.too_big_remedy,
        )

    def _encoded(self, obj: object, priority: int | None) -> Message:
        try:
            return self._prepared(encode(obj, self._codec), priority)
        except CodecError as error:
            raise located(error, "can't send", self._address) from error.__cause__

    def _bytes_of(self, data: object, priority: int | None) -> Message:
        try:
            return self._prepared(Message(RAW, (as_bytes_view(data),)), priority)
        except CodecError as error:
            raise located(error, "can't send", self._address) from None

    def _with_descriptors(self, data: object, fds: Sequence[int]) -> Message:
        if not self._limits.descriptors:
            raise Unsupported(
                "descriptors can't be passed here",
                subject=self._address,
                remedy="use unix: or unix-seqpacket:",
            )
        message = self._bytes_of(data, None)
        message.descriptors = self._numbers(fds)
        return message

    def _numbers(self, fds: Sequence[int]) -> tuple[int, ...]:
        try:
            numbers = tuple(fds)
            for number in array.array("i", numbers):
                if number < 0:
                    raise OverflowError
        except (TypeError, OverflowError):
            raise InvalidValue(
                f"{fds!r} is no list of descriptors",
                subject=self._address,
                remedy="give a list of the numbers of open files, such as [file.fileno()]",
            ) from None
        return numbers

    def _iterator(self, objects: Iterable[object]) -> Iterator[object]:
        try:
            return iter(objects)
        except TypeError:
            raise InvalidValue(
                f"send_many takes several objects, and a {type(objects).__qualname__} is one",
                subject=self._address,
                remedy="give a list, or send it with send()",
            ) from None

    def _send(self, message: Message, timeout: float | None) -> None:
        due, turn, token = deadline(timeout), self._send_turn, object()
        try:
            with Finally(turn.leave, token):
                enter(turn, token, due, self._send_what)
                if not self._sending.try_send(message):
                    drive(self._sending.send(message), turn, due, self._send_what)
                self._count_sent(message)
        except (OSError, KinfolkError) as error:
            raise located(error, "can't send", self._address) from error.__cause__

    async def _asend(self, message: Message, timeout: float | None) -> None:
        due, turn, token = deadline(timeout), self._send_turn, object()
        try:
            with Finally(turn.leave, token):
                await aenter(turn, token, due, self._send_what)
                if not self._sending.try_send(message):
                    await adrive(self._sending.send(message), turn, due, self._send_what)
                self._count_sent(message)
        except (OSError, KinfolkError) as error:
            raise located(error, "can't send", self._address) from error.__cause__

    def _count_sent(self, message: Message) -> None:
        self._statistics.messages_sent += 1
        self._statistics.bytes_sent += message.size

    def _send_many_steps(self, objects: Iterator[object], priority: int | None) -> Steps[int]:
        count = 0
        for obj in objects:  # encoded one by one, as they go out
            message = self._encoded(obj, priority)
            if not self._sending.try_send(message):
                yield from self._sending.send(message)
            self._count_sent(message)
            count += 1
        return count

    def send(
        self, obj: object, *, timeout: float | None = None, priority: int | None = None
    ) -> None:
        """Send one object; returns when it is committed: it is delivered while a receiver lives.

        ``timeout`` in seconds (None: for ever, 0: only if there is room now); ``priority`` on POSIX queues, the message
        type on System V ones. Raises BrokenChannel, MessageTooBig, CodecError, Timeout, Closed. Thread-safe.
        A large object that times out or is interrupted in the middle is never delivered.
        """
        self._send(self._encoded(obj, priority), timeout)

    async def asend(
        self, obj: object, *, timeout: float | None = None, priority: int | None = None
    ) -> None:
        """`send`, on asyncio. A cancelled one is not delivered, and the stream stays whole."""
        await self._asend(self._encoded(obj, priority), timeout)

    def send_bytes(
        self, data: object, *, timeout: float | None = None, priority: int | None = None
    ) -> None:
        """Send the bytes of an object with the buffer protocol, as one message; otherwise like `send`."""
        self._send(self._bytes_of(data, priority), timeout)

    async def asend_bytes(
        self, data: object, *, timeout: float | None = None, priority: int | None = None
    ) -> None:
        """`send_bytes`, on asyncio."""
        await self._asend(self._bytes_of(data, priority), timeout)

    def send_many(
        self,
        objects: Iterable[object],
        *,
        timeout: float | None = None,
        priority: int | None = None,
    ) -> int:
        """Send several objects, each a message, with nobody's in between from this end; how many.

        When it raises, ``statistics().messages_sent`` says how many went out.
        """
        steps = self._send_many_steps(self._iterator(objects), priority)
        return run(
            guarded(steps, "can't send", self._address),
            self._send_turn,
            deadline(timeout),
            self._send_what,
        )

    async def asend_many(
        self,
        objects: Iterable[object],
        *,
        timeout: float | None = None,
        priority: int | None = None,
    ) -> int:
        """`send_many`, on asyncio."""
        steps = self._send_many_steps(self._iterator(objects), priority)
        return await arun(
            guarded(steps, "can't send", self._address),
            self._send_turn,
            deadline(timeout),
            self._send_what,
        )

    def reserve(self, nbytes: int, *, timeout: float | None = None) -> Reservation[memoryview]:
        """Memory in which a message is built, and from which it is read: ``with sender.reserve(n) as view``.

        Sent at the end of the with block, or dropped, when that raises; ``recv`` gives a read-only memoryview. ``timeout``
        is for each: until there is memory, and until it is sent. Also with ``async with``. For ring: alone; raises
        Unsupported, InvalidValue, MessageTooBig for what never fits, NoSpace, and like `send`. Thread-safe; not across a fork.
        """
        return Reservation(self, bytes_layout(nbytes, self._address), timeout)

    def reserve_array(
        self, shape: int | tuple[int, ...], dtype: Any = "B", *, timeout: float | None = None
    ) -> Reservation[Any]:
        """The same as a NumPy array, of whatever is in that memory; ``recv`` gives a read-only one."""
        return Reservation(self, array_layout(shape, dtype, self._address), timeout)

    def _reserved_now(self, size: int) -> Room | None:
        """For `Reservation`."""
        return self._sending.reserve_now(size)  # type: ignore[no-any-return]

    def _reserved(self, size: int) -> Steps[Room]:
        """For `Reservation`."""
        if size > self._limits.max_message:
            raise self._too_big(size)
        return self._sending.reserve(size)

    def _run_reserved(self, steps: Steps[Any], timeout: float | None) -> Any:
        """For `Reservation`."""
        steps = guarded(steps, "can't send", self._address)
        return run(steps, self._send_turn, deadline(timeout), self._send_what)

    async def _arun_reserved(self, steps: Steps[Any], timeout: float | None) -> Any:
        """For `Reservation`."""
        steps = guarded(steps, "can't send", self._address)
        return await arun(steps, self._send_turn, deadline(timeout), self._send_what)

    def _count_reserved(self, size: int) -> None:
        """For `Reservation`."""
        self._statistics.messages_sent += 1
        self._statistics.bytes_sent += size

    def send_fds(self, data: object, fds: Sequence[int], *, timeout: float | None = None) -> None:
        """Send bytes and, with them, descriptors, which stay open here too. Unix sockets only (unix(7), SCM_RIGHTS).

        Raises Unsupported elsewhere, and like `send`.
        """
        self._send(self._with_descriptors(data, fds), timeout)

    async def asend_fds(
        self, data: object, fds: Sequence[int], *, timeout: float | None = None
    ) -> None:
        """`send_fds`, on asyncio."""
        await self._asend(self._with_descriptors(data, fds), timeout)
