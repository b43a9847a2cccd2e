"""Messages over the kernel's message queues: what `mq:` and `sysv-mq:` share.

A queue keeps boundaries and gives each message to exactly one receiver, so a message needs no more than its kind.
It stands behind the body, not before it: the body then begins where the kernel's buffer does, and arrays in it
are aligned without a copy.

    ├── body ────────────────┼──────┼───────┤
    │ max_message bytes      │ kind │ "kQ1" │
    └────────────────────────┴──────┴───────┘

    framing="raw"       the body alone, as C programs send and receive it

Rules:
1. lifetime="name": nobody is missed; a queue without receivers fills up, one without senders stays empty.
2. lifetime="peers": everybody is a member of a `Presence` beside the queue. Who leaves last removes the queue if kinfolk
   made it; who comes first removes one that killed peers left behind (and what is in it).
3. A receiver that finds the senders gone looks into the queue once more: what they sent before is received.
4. A queue that is removed under its users breaks the channel for all of them, at once where the kernel says so (System V).
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from kinfolk.channels.codec import RAW
from kinfolk.channels.contract import Limits, Message, Passed, ReceiveTransport, SendTransport
from kinfolk.channels.presence import Presence
from kinfolk.errors import BrokenChannel, CorruptChannel, EndOfChannel
from kinfolk.interest import Interest, Steps

_MAGIC = b"kQ1"
FOOTER_SIZE = 1 + len(_MAGIC)
_FOOTERS = [bytes((kind,)) + _MAGIC for kind in range(256)]


class Put(ABC):
    """One message on its way into a queue."""

    #: whether it is in
    done: bool = False

    @abstractmethod
    def attempt(self) -> Interest:
        """Try; when it is not `done` afterwards, what to wait for."""


class Queue(ABC):
    """One end's hold on a queue of the kernel."""

    #: descriptors that hang up when the other side has gone; set by the transport
    hangup: tuple[int, ...] = ()

    @abstractmethod
    def put(self, data: bytes, priority: int | None) -> Put:
        """A message to be sent."""

    @abstractmethod
    def take(self) -> tuple[bytes, int] | None:
        """The next message and its priority or type, if there is one."""

    @abstractmethod
    def arrival(self) -> Interest:
        """What to wait for when there is none."""

    @abstractmethod
    def messages(self) -> int:
        """How many wait in it."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor that tells. Raises Unsupported where none can."""

    @abstractmethod
    def unlink(self) -> None:
        """Remove the queue's name, whoever made it."""

    @abstractmethod
    def remove_if_ours(self) -> None:
        """Remove it if kinfolk made it, for its peers. Never raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""

    @abstractmethod
    def passable(self) -> tuple[Callable[..., Queue], tuple[Any, ...]]:
        """How another process makes the same hold, from descriptors marked `Passed`."""


class _End:
    """What both directions do alike."""

    limits: Limits

    def __init__(
        self, queue: Queue, presence: Presence | None, limits: Limits, subject: str, *, raw: bool
    ) -> None:
        """Take over the hold and the membership."""
        self._queue, self._presence, self.limits = queue, presence, limits
        self._subject, self._raw = subject, raw
        if presence is not None:
            queue.hangup = (presence.fileno(),)

    def _others_gone(self) -> bool:
        return self._presence is not None and self._presence.others_gone()

    def _removed(self, error: OSError) -> Exception:
        if error.errno not in {errno.EIDRM, errno.EINVAL}:
            return error
        return BrokenChannel(
            "the queue was removed",
            subject=self._subject,
            why="by unlink(), ipcrm(1) or its last peer, with what was in it",
            remedy="open it anew",
        )

    def fileno(self) -> int:
        """The queue's descriptor: readable with a message there, writable with room."""
        return self._queue.fileno()

    def depth(self) -> int:
        """Messages in the queue, of all senders and for all receivers."""
        return self._queue.messages()

    def unlink(self) -> None:
        """Remove the name."""
        self._queue.unlink()

    def close(self) -> None:
        """Leave; the last peer removes the queue."""
        if self._presence is not None:
            self._presence.leave(self._queue.remove_if_ours)
        self._queue.close()

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same end in another process."""
        rebuild, arguments = self._queue.passable()
        held = self._presence
        membership = (None, None) if held is None else (Passed(held.fileno()), held.path)
        kind = type(self)
        return rebuilt, (
            kind,
            *membership,
            self.limits,
            self._subject,
            self._raw,
            rebuild,
            *arguments,
        )


class QueueSender(_End, SendTransport):
    """An end that puts messages into a queue."""

    def try_send(self, message: Message) -> bool:
        """Put one message in if there is room."""
        put = self._put(message)
        self._attempt(put)
        return put.done

    def send(self, message: Message) -> Steps[None]:
        """Put one message in. A send that is given up has put nothing in."""
        put = self._put(message)
        while not put.done:
            interest = self._attempt(put)
            if not put.done:
                yield interest

    def _put(self, message: Message) -> Put:
        parts = message.parts if self._raw else (*message.parts, _FOOTERS[message.kind])
        return self._queue.put(b"".join(parts), message.priority)

    def _attempt(self, put: Put) -> Interest:
        if self._others_gone():
            raise BrokenChannel("every receiver has gone", subject=self._subject)
        try:
            return put.attempt()
        except OSError as error:
            raise self._removed(error) from error


class QueueReceiver(_End, ReceiveTransport):
    """An end that takes messages out of a queue."""

    _ended = False

    def receive(self) -> Steps[Message]:
        """Take the next message."""
        while (message := self.try_receive()) is None:
            yield self.interest
        return message

    def try_receive(self) -> Message | None:
        """Take the next message if there is one."""
        taken = None
        if not self._ended:
            try:
                taken = self._queue.take() or self._end_if_alone()
            except OSError as error:
                raise self._removed(error) from error
        if taken is not None:
            return self._message(*taken)
        if self._ended:
            raise EndOfChannel("every sender has gone", subject=self._subject)
        self.interest = self._queue.arrival()
        return None

    def hangups(self) -> tuple[int, ...]:
        """The presence of the senders."""
        return self._queue.hangup

    def _end_if_alone(self) -> tuple[bytes, int] | None:
        """End if every sender has gone; or take what the last one sent between two looks."""
        if self._presence is None or not self._presence.others_gone():
            return None
        taken: list[tuple[bytes, int]] = []

        def found() -> bool:
            if not self._others_gone():
                return True
            if (last := self._queue.take()) is not None:
                taken.append(last)
            return bool(taken)

        self._ended = self._presence.end(found, self._queue.remove_if_ours)
        return taken[0] if taken else None

    def _message(self, data: bytes, priority: int) -> Message:
        if self._raw:
            return Message(RAW, (data,), priority=priority)
        if len(data) < FOOTER_SIZE or not data.endswith(_MAGIC):
            raise CorruptChannel(
                f"a message of {len(data)} bytes came that is not of kinfolk",
                subject=self._subject,
                remedy="does the other side send bare bytes? then open this end with framing=raw",
            )
        kind = data[-FOOTER_SIZE]
        # Bytes leave as bytes, so they are cut out at once; the rest is decoded from where it lies.
        body = data[:-FOOTER_SIZE] if kind == RAW else memoryview(data)[:-FOOTER_SIZE]
        return Message(kind, (body,), priority=priority)


def rebuilt(
    kind: type[_End],
    member: int | None,
    path: str | None,
    limits: Limits,
    subject: str,
    raw: bool,
    rebuild: Callable[..., Queue],
    *arguments: Any,
) -> _End:
    """An end that came from another process, or a clone."""
    presence = None if member is None else Presence.passed(member, path)
    return kind(rebuild(*arguments), presence, limits, subject, raw=raw)
