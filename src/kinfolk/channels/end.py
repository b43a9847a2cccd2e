"""What every end of a channel has, whichever way it goes: an address, limits, closing, statistics.

Rules:
1. Every operation is written once, as steps, and offered blocking and awaitable (`recv`, `arecv`).
2. Each direction has a turnstile: one operation at a time, in order of arrival; closing wakes them all.
3. An OSError of a mechanism leaves as an error of kinfolk: `guarded`, `located`.
4. An end that is dropped without `close` is closed with a ResourceWarning, as files are: a descriptor alone would not
   take its name or its queue with it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

from kinfolk.channels.address import Codec
from kinfolk.channels.contract import Limits, ReceiveTransport, SendTransport
from kinfolk.channels.to_program import descriptor_for_program
from kinfolk.errors import Closed, KinfolkError, Timeout, Unsupported, from_os_error
from kinfolk.interest import Steps
from kinfolk.turnstile import Turnstile

T = TypeVar("T")


@dataclass(slots=True)
class Statistics:
    """What went through one end since it was opened."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    #: how often a call had to sleep
    waits: int = 0
    #: messages dropped because their sender died, gave up or was not trusted
    dropped: int = 0
    #: what waits in the kernel, in bytes, or in messages where `limits.depth` counts those; None when unknown
    depth: int | None = None


def located(error: OSError | KinfolkError, what: str, subject: str) -> OSError | KinfolkError:
    """The error of kinfolk for what a mechanism raised, naming the end where it happened."""
    if isinstance(error, OSError) and error.errno is None and not isinstance(error, KinfolkError):
        return error  # no system call's: a TimeoutError, say, that a signal handler raised
    if isinstance(error, Timeout):
        return error  # its waiting was for an operation of an end, which it names
    if isinstance(error, KinfolkError):
        error.subject = error.subject or subject
        return error
    return from_os_error(error, what, subject)


def guarded(steps: Steps[T], what: str, subject: str) -> Steps[T]:
    """The same steps; whatever they raise comes out `located`."""
    try:
        return (yield from steps)
    except KinfolkError as error:
        located(error, what, subject)
        raise
    except OSError as error:
        cause = error if error.errno is not None else error.__cause__
        raise located(error, what, subject) from cause


class End:
    """What all ends have: an address, limits, closing."""

    def __init__(self, address: str, codec: Codec, limits: Limits) -> None:
        self._address, self._codec, self._limits = address, codec, limits
        self._statistics = Statistics()

    @property
    def address(self) -> str:
        """The address it was opened with, without the options."""
        return self._address

    @property
    def codec(self) -> Codec:
        """How objects travel."""
        return self._codec

    @property
    def limits(self) -> Limits:
        """What this channel can do, and where it ends."""
        return self._limits

    def _count(self, *transports: SendTransport | ReceiveTransport) -> Statistics:
        counted = replace(self._statistics)
        counted.waits = sum(turn.waits for turn in self._turns())
        for transport in transports:
            counted.dropped += getattr(transport, "dropped", 0)
            messages, size, waits = transport.uncounted()
            counted.waits += waits
            if isinstance(transport, SendTransport):
                counted.messages_sent += messages
                counted.bytes_sent += size
            else:
                counted.messages_received += messages
                counted.bytes_received += size
        depth = _depth(transports[0])
        # After the look: before a descriptor is closed the end says so, and its number may have been somebody else's.
        counted.depth = None if self.closed else depth
        return counted

    def _check_open(self) -> None:
        if self.closed:
            raise Closed("this end is closed", subject=self._address)

    def _turns(self) -> Iterator[Turnstile]:
        for name in ("_send_turn", "_receive_turn"):
            if hasattr(self, name):
                yield getattr(self, name)

    def descriptor_for_child(self, *, sends: bool | None) -> tuple[int, int]:
        """For a program that is started: a new descriptor of one direction, and the number that it has here.

        ``sends`` names the direction; None: the only one. Raises Unsupported.
        """
        transports: dict[bool, SendTransport | ReceiveTransport] = {
            name == "_sending": getattr(self, name)
            for name in ("_sending", "_receiving")
            if hasattr(self, name)
        }
        wanted = next(iter(transports), None) if sends is None else sends
        if wanted not in transports or (sends is None and len(transports) > 1):
            raise Unsupported(
                "this end goes the wrong way" if transports else "this is no end of a channel",
                subject=self._address,
                remedy="give a receiver as stdin, a sender as stdout or stderr; a connection as any of them",
            )
        try:
            return descriptor_for_program(transports[wanted])
        except OSError as error:
            raise from_os_error(error, "can't be given to a program", self._address) from error

    def close(self) -> None:
        """Close; calls that are blocked in it raise Closed. Closing twice does nothing."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            closed = self.closed
        except AttributeError:  # it was never finished
            return
        if not closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def __repr__(self) -> str:
        return f"<kinfolk.{type(self).__name__} {self._address}{' closed' if self.closed else ''}>"


def unlink(transport: SendTransport | ReceiveTransport, address: str) -> None:
    """Remove the name of a transport; errors as errors of kinfolk."""
    try:
        transport.unlink()
    except OSError as error:
        raise from_os_error(error, "can't remove the name", address) from error


def _depth(transport: SendTransport | ReceiveTransport) -> int | None:
    """What waits; None when it can't be known, as somebody closes or removes it just now."""
    try:
        return transport.depth()
    except (OSError, ValueError):  # Closed is a ValueError; so is a number below zero
        return None
