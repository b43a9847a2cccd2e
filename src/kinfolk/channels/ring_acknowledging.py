"""Receiving from a ring whose messages are acknowledged: native/arena_acknowledge.c.

Rules:
1. All of a ring's receivers acknowledge, or none: who makes it decides.
2. It ends when nothing is left that might come back; but who has something to acknowledge himself waits for nobody. If he gives
   it back after that, he gets it again.
3. Who waits sleeps, and learns of deaths, by a call: there is no descriptor that tells of them all. A task has a helper thread.
"""

from __future__ import annotations

from kinfolk.channels.codec import RAW
from kinfolk.channels.contract import Message
from kinfolk.channels.presence import Presence
from kinfolk.channels.ring_options import Terms
from kinfolk.channels.ring_transport import RingReceiver
from kinfolk.descriptors import Descriptor
from kinfolk.errors import Unsupported
from kinfolk.interest import Interest


class AcknowledgingReceiver(RingReceiver):
    """An end whose messages are its own until they are acknowledged."""

    acknowledges = True
    reads_ahead = False

    def fileno(self) -> int:
        """There is none."""
        raise Unsupported(
            "where messages are acknowledged there is no descriptor to wait on",
            subject=self._subject,
            why="it would have to tell of every receiver's death",
            remedy="wait in recv_message(), or await arecv_message()",
        )

    def hangups(self) -> tuple[int, ...]:
        """None, likewise."""
        return ()

    def buffered(self) -> bool:
        """Nothing is."""
        return False

    def _awaited(self) -> Interest:
        return Interest(call=self)

    def _take(self) -> Message | None:
        try:
            taken = self._native.take_owed()
        except OSError as error:
            self._refused(error)
        if taken is None:
            return None
        kind, body, claim = taken
        return Message(RAW if self._terms.raw else kind, (body,), claim=claim)

    def try_receive(self) -> Message | None:
        """Take the next message if there is one: also after the end, if it was given back since."""
        if self._ended and (message := self._take()) is not None:
            return message
        return super().try_receive()

    def _may_end(self) -> bool:
        if not self._native.may_come():
            return True
        self._known = self._native.alarms  # it sleeps, although the senders have gone
        return False


def receiver_of(
    memory: Descriptor,
    presence: Presence | None,
    name: str,
    subject: str,
    sizes: tuple[int, int],
    terms: Terms,
) -> RingReceiver:
    """A receiver on these terms."""
    kind = AcknowledgingReceiver if terms.acknowledge else RingReceiver
    return kind(memory, presence, name, subject, sizes, terms)
