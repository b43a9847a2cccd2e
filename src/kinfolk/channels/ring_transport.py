"""Messages through a ring in shared memory (native/ring.c), for `ring:` and `file:`.

    end ── shortcuts: at once, or after a short spin ──────────> native Ring ──> shared memory
     └──── turnstile, steps ──> RingSender, RingReceiver ─────────┘ │
                                   └── Presence: who is there       └── sleeps on a futex
                                           └── watcher ── hang-up ──> its alarm

Rules:
1. What is done at once does not come by here. Whoever has to sleep does; and whoever sends for the first time, or has news: that
   an end was closed (counted in the ring) or that somebody died (an alarm). Then it is looked who is there.
2. Before it is looked whether there is something to wait for, the hang-up is watched and the count of alarms is read: so
   neither a hang-up nor a close gets lost between looking and sleeping.
3. A receiver that finds the senders gone looks into the ring once more: what they sent before is received.
4. A lock that can't be had for some time, as of a process that is stopped, is as no message, and no room: so time limits hold.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NoReturn

from kinfolk._native import Block, Ring, Watch, object_maker
from kinfolk.channels import ring_file, ring_limits, ring_memory
from kinfolk.channels.codec import MEMORY, RAW
from kinfolk.channels.contract import Limits, Message, Passed, ReceiveTransport, SendTransport
from kinfolk.channels.presence import Presence
from kinfolk.channels.ring_blocks import BlockWait, RingRoom
from kinfolk.channels.ring_options import Terms
from kinfolk.channels.ring_passing import rebuilt
from kinfolk.channels.ring_polling import Polling, Room
from kinfolk.descriptors import Descriptor
from kinfolk.errors import BrokenChannel, EndOfChannel, KinfolkError
from kinfolk.interest import Interest, Steps
from kinfolk.sync.findings import Finding, being_made
from kinfolk.watcher import core, watching

_SHORTCUTS = {True: ("send", "send_bytes", "send_many"), False: ("recv", "recv_bytes", "recv_many")}
_MOST_PIECES = 512
#: Bytes from which on nobody is to wait while a message is copied: larger ones take a block.
_LONG = 64 << 10


class _RingEnd:
    """What both directions do alike; also the call that blocks."""

    limits: Limits
    sends: bool

    def __init__(
        self,
        memory: Descriptor,
        presence: Presence | None,
        name: str,
        subject: str,
        sizes: tuple[int, int],
        terms: Terms,
    ) -> None:
        """Take over the memory and the membership, also when it raises.

        Without a ``presence`` nobody's exit is an end, and ``name`` is the path of a file. ``sizes`` of the ring and its arena, should it not be made yet.
        """
        self._memory, self._presence, self._name = memory, presence, name
        self._subject, self._terms, self._native = subject, terms, Ring(self.sends)
        self._watch: Watch | None = None
        self._watched_since: tuple[int, int] | None = None
        self._unwatched: OSError | KinfolkError | None = None
        self._polling = Polling(self._native, presence, subject)
        try:
            if (error := self._open(sizes)) is not None:
                raise error
            self.limits = ring_limits.limits_of(
                self._native, terms.most, presence=presence is not None
            )
            # Where messages are acknowledged, all of them are in blocks.
            self._inline = -1 if self._native.acknowledged else min(_LONG, self._native.most)
            self._known = self._native.alarms
        except BaseException:
            self.close()
            raise

    def _open(self, sizes: tuple[int, int]) -> KinfolkError | None:
        # Not raised here: the error would keep the mapping, and so the lock of a file.
        mapped, number = ring_memory.mapped(self._memory), self._memory.fileno()
        found = self._native.open(mapped, number, *sizes, self._terms.acknowledge, core())
        if found == Finding.BEING_MADE:
            return being_made(object_maker(mapped, 0), "ring", self._subject)
        return None if found == Finding.SOUND else ring_limits.refusal(found, self._subject)

    # ── who is there ─────────────────────────────────────────────────────────────────────────

    def _others_gone(self) -> bool:
        presence = self._presence
        try:
            if presence is not None:
                self._watch_others(presence)
            self._unwatched = None
            self._native.look()
        except (OSError, KinfolkError) as error:
            if (
                isinstance(error, OSError)
                and error.errno is None
                and not isinstance(error, KinfolkError)
            ):
                raise  # no system call's: a TimeoutError, say, of a signal handler
            self._unwatched = error  # then each call looks who is there, and none sleeps
        self._known = self._native.alarms
        gone = presence is not None and presence.others_gone()
        if gone:
            self._native.alarm()  # and it stays news: no shortcut is taken
        return gone

    def _watch_others(self, presence: Presence) -> None:
        """Have the alarm sound when the other side has gone. It sounds once, and not in a forked copy."""
        since = (self._native.alarms, os.getpid())
        if since == self._watched_since:
            return
        if self._watch is not None:
            self._watch.leave()
            self._watched_since = None
        self._watch = watching(presence.fileno(), waker=self._native.waker)
        self._watched_since = since

    # ── waiting: a BlockingCall ──────────────────────────────────────────────────────────────

    def block(self, milliseconds: int | None) -> bool:
        """Sleep until it may be worth another try."""
        if self._unwatched is not None:
            raise self._unwatched
        self._native.wait(milliseconds, self._known)
        return False

    def wake(self) -> None:
        """End a blocked call, in whatever thread."""
        self._native.alarm()

    def _awaited(self) -> Interest:
        return self._polling.interest(self)

    def shortcuts(self, end: object, *guards: Collection[object]) -> dict[str, Callable[..., Any]]:
        """Sending and receiving at once."""
        if self._native.acknowledged:
            return {}
        self._native.shorten(end, guards, partial(ring_limits.raise_dropped, self._subject))
        return {name: getattr(self._native, name) for name in _SHORTCUTS[self.sends]}

    def uncounted(self) -> tuple[int, int, int]:
        """What went by the shortcuts."""
        return self._native.messages, self._native.size, self._native.waits

    def depth(self) -> int:
        """Bytes in the ring, with those that keep the messages apart."""
        return self._native.depth

    def unlink(self) -> None:
        """Remove the name of a file; that of another ring goes with its last peer."""
        if self._presence is not None:
            raise ring_limits.name_goes_by_itself(self._subject)
        ring_file.unlink(self._memory, self._name, self._subject)

    def close(self) -> None:
        """Leave; the last peer removes the memory's name."""
        if self._watch is not None:
            self._watch.leave()
            self._watch = None
        self._polling.close()
        if self._presence is not None:
            self._presence.leave(self._forget)
        with contextlib.suppress(OSError):  # it was never opened
            self._native.depart()
        self._native.close()
        self._memory.close()

    def _forget(self) -> None:
        if self._name:
            ring_memory.forget(self._name)

    def passable(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The same end in another process."""
        held = self._presence
        membership = (None, None) if held is None else (Passed(held.fileno()), held.path)
        return rebuilt, (
            type(self),
            Passed(self._memory.fileno()),
            *membership,
            self._name,
            self._subject,
            (self._native.capacity, self._native.arena),
            tuple(self._terms),
        )

    def _refused(self, error: OSError) -> NoReturn:
        raise ring_limits.failure(
            error, self._subject, self._memory.fileno(), self._native, self.limits
        )


class RingSender(_RingEnd, SendTransport):
    """An end that sends into a ring."""

    sends = True
    _room: Room | None = None

    def fileno(self) -> int:
        """Writable when there is room for what takes no block."""
        self._memory.fileno()  # Closed, when it is
        if self._room is None:
            self._room = Room(self._polling)
        return self._room.fileno()

    def close(self) -> None:
        """Leave; the last peer removes the memory's name."""
        if self._room is not None:
            self._room.close()
        super().close()

    def _room_or_not(self, sent: bool) -> bool:
        if not sent and self._room is not None:
            self._room.refused()
        return sent

    def try_send(self, message: Message) -> bool:
        """Send if there is room now."""
        self._check_receivers()
        if message.size > self._inline:
            return self._try_send_in_block(message)
        parts = tuple(message.parts)
        if len(parts) > _MOST_PIECES:
            parts = (b"".join(parts),)
        try:
            return self._room_or_not(self._native.put(message.kind, parts))
        except OSError as error:
            self._refused(error)

    def send(self, message: Message) -> Steps[None]:
        """Send. What is given up has not been sent."""
        if message.size <= self._inline:
            while not self.try_send(message):
                yield Interest(call=self, awaited=self._awaited)
            return
        block = yield from self._allocated(message.size)
        try:
            block.fill(tuple(message.parts), 0)
            yield from self.put_block(message.kind, block)
        finally:
            block.release()

    def _try_send_in_block(self, message: Message) -> bool:
        try:
            block = self._native.allocate(message.size)
            if block is None:
                return False
            try:
                block.fill(tuple(message.parts), 0)
                return self._room_or_not(self._native.put_block(message.kind, block))
            finally:
                block.release()
        except OSError as error:
            self._refused(error)

    def reserve(self, size: int) -> Steps[RingRoom]:
        """A block."""
        return RingRoom(self, (yield from self._allocated(size)))

    def reserve_now(self, size: int) -> RingRoom | None:
        """A block if one can be had at once, and nobody is inside the end."""
        try:
            block = self._native.allocate_now(size) if size <= self.limits.max_message else None
        except OSError as error:
            self._refused(error)
        return None if block is None else RingRoom(self, block)

    def put_block_now(self, kind: int, block: Block) -> bool:
        """Send it if that takes no wait, and nobody is inside the end."""
        try:
            return self._native.put_block_now(kind, block)
        except OSError as error:
            self._refused(error)

    def _allocated(self, size: int) -> Steps[Block]:
        try:
            while (block := self._allocate(size)) is None:
                yield Interest(call=BlockWait(self, size))
        finally:
            self._native.give_up()
        return block

    def _allocate(self, size: int) -> Block | None:
        self._check_receivers()
        try:
            return self._native.allocate(size)
        except OSError as error:
            self._refused(error)

    def put_block(self, kind: int, block: Block) -> Steps[None]:
        """Send what is in a block."""
        while True:
            self._check_receivers()
            try:
                if self._room_or_not(self._native.put_block(kind, block)):
                    return
            except OSError as error:
                self._refused(error)
            yield Interest(call=self, awaited=self._awaited)

    def block_for(self, size: int, milliseconds: int | None) -> None:
        """Sleep until there may be a block."""
        if self._unwatched is not None:
            raise self._unwatched
        self._native.wait_for_block(size, milliseconds, self._known)

    def _check_receivers(self) -> None:
        if self._others_gone():
            raise BrokenChannel("every receiver has gone", subject=self._subject)


class RingReceiver(_RingEnd, ReceiveTransport):
    """An end that receives from a ring."""

    sends = False
    reads_ahead = True  # of what is there its descriptor speaks once
    _ended = False

    def fileno(self) -> int:
        """Readable when there is news."""
        self._memory.fileno()  # Closed, when it is
        return self._polling.fileno()

    def hangups(self) -> tuple[int, ...]:
        """The presence of the senders."""
        return () if self._presence is None else (self._presence.fileno(),)

    def buffered(self) -> bool:
        """Whether a message is there; the descriptor is silent until there is another."""
        return self._polling.settle()

    def receive(self) -> Steps[Message]:
        """Take the next message."""
        while (message := self.try_receive()) is None:
            yield self.interest
        return message

    def try_receive(self) -> Message | None:
        """Take the next message if there is one."""
        if self._ended:
            raise EndOfChannel("every sender has gone", subject=self._subject)
        message = self._take()
        if message is None and self._others_gone():
            message = self._end()
        if message is None:
            message = self._take()  # it is looked after it is watched
        if message is None:
            self.interest = Interest(call=self, awaited=self._awaited)
        return message

    def _take(self) -> Message | None:
        try:
            taken = self._native.take()
        except OSError as error:
            self._refused(error)
        if taken is None:
            return None
        kind, body = taken
        if not isinstance(body, bytes):
            return Message(RAW if self._terms.raw and kind != MEMORY else kind, (memoryview(body),))
        return Message(RAW if self._terms.raw else kind, (body,))

    def _may_end(self) -> bool:
        return True

    def _end(self) -> Message | None:
        """End, as every sender has gone; or the message that the last one sent between two looks."""
        last: list[Message] = []
        presence = self._presence
        assert presence is not None  # else nobody is missed

        def found() -> bool:
            if not presence.others_gone():
                return True
            if (message := self._take()) is not None:
                last.append(message)
            return bool(last) or self._native.depth > 0  # of whoever is about to take it, or dies

        self._ended = self._may_end() and presence.end(found, self._forget)
        if self._ended:
            raise EndOfChannel("every sender has gone", subject=self._subject)
        return last[0] if last else None
