"""A message that belongs to its receiver until it is acknowledged.

    recv_message() ──> Delivery ── acknowledge() ──> done with
                          │
                          └── give_back(), it is garbage, the end is closed, its process dies ──> it is received again, `redelivered`

Rules:
1. Each is acknowledged by itself: several may be at work at once, in threads or tasks, and end in any order.
2. A ``with`` block acknowledges at its end, and gives back when it raises.
3. Dropping one without either gives it back: a signal handler may raise before anybody has it, and then nobody else could.
4. What can't be decoded raises when it is asked for, not when it is received: else nobody could say what is to become of it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from kinfolk.errors import UsageError, from_os_error


class Claim(Protocol):
    """A message's hold on its transport, which gives it back when it is garbage."""

    @property
    def redelivered(self) -> bool:
        """Whether it may have been delivered before."""

    def settle(self, *, done: bool) -> None:
        """Acknowledge it, or give it back. Raises OSError: ESTALE when it is not ours (any more)."""


class Delivery:
    """An object that was received and is to be acknowledged. Thread-safe; a forked copy can't acknowledge."""

    __slots__ = ("_address", "_claim", "_decode", "_object", "_settled")

    def __init__(self, decode: Callable[[], Any], claim: Claim, address: str) -> None:
        """Made by `Receiver.recv_message`."""
        self._decode: Callable[[], Any] | None = decode
        self._object: Any = None
        self._claim, self._address, self._settled = claim, address, False

    @property
    def object(self) -> Any:
        """What was sent, always the same object. Raises DecodeError, CorruptChannel: as `Receiver.recv` does."""
        if (decode := self._decode) is not None:
            self._object = decode()
            self._decode = None
        return self._object

    @property
    def redelivered(self) -> bool:
        """Whether somebody may have had it before, who did not acknowledge it."""
        return self._claim.redelivered

    def acknowledge(self) -> None:
        """It is done with: nobody gets it again. Raises UsageError if it was given back, or is another process's."""
        self._settle(done=True)

    def give_back(self) -> None:
        """Somebody is to get it again; perhaps this end. Raises as `acknowledge`."""
        self._settle(done=False)

    def _settle(self, *, done: bool) -> None:
        try:
            self._claim.settle(done=done)
        except OSError as error:
            if error.errno in {errno.ESTALE, errno.EBADF}:
                raise UsageError(
                    "this message is not to be acknowledged here",
                    subject=self._address,
                    why="it was acknowledged or given back, its end was closed, or this is a forked copy",
                    remedy="acknowledge once, in the process that received it, before the end is closed",
                ) from None
            raise from_os_error(error, "can't acknowledge", self._address) from error
        self._settled = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._settled:
            self._settle(done=kind is None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<kinfolk.Delivery of {self._address}{' redelivered' if self.redelivered else ''}>"
