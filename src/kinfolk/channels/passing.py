"""Ends that move to another process, and second ends in this one.

A transport says how it is made anew from duplicated descriptors (`passable`). A clone does that here; a child that
`kinfolk.spawn` or multiprocessing starts does it when an end stands among the arguments. Nothing
else may pickle an end: a descriptor means nothing in a process that did not get it.

`kinfolk.spawn` moves an end: the copy here is closed (`kinfolk.transfer`). multiprocessing copies it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kinfolk.ancillary import close_all
from kinfolk.channels.contract import Passed, ReceiveTransport, SendTransport
from kinfolk.errors import Unsupported
from kinfolk.transfer import arrived, carrier, current_departure

_REMEDY = "give it to a process as an argument when that starts, or open the address there"


@dataclass(frozen=True, slots=True)
class Dismantled:
    """A transport on its way to a child."""

    make: Callable[..., Any]
    arguments: tuple[Any, ...]


def clone(transport: SendTransport | ReceiveTransport) -> Any:
    """A second transport over duplicates of the same descriptors. Raises Unsupported, OSError."""
    if not transport.clonable:
        raise Unsupported(
            "this receiver can't be cloned",
            subject=transport.limits.mechanism,
            why="connections that one of the two accepts would be unknown to the other",
            remedy="close this one and open the address again, or give it to the process that shall receive",
        )
    make, arguments = transport.passable()
    duplicates: list[int] = []
    try:
        for argument in arguments:
            if isinstance(argument, Passed):
                duplicates.append(os.dup(argument.number))  # noqa: PERF401 — those before a failure are to be closed
    except BaseException:
        close_all(duplicates)
        transport.keep()
        raise
    own = iter(duplicates)
    return make(*(next(own) if isinstance(a, Passed) else a for a in arguments))


def moving(close: Callable[[], object]) -> None:
    """Have an end that is being pickled closed by ``close`` once it has arrived, if it is to move."""
    if (departure := current_departure()) is not None:
        departure.moves(close)


def dismantle(transport: SendTransport | ReceiveTransport) -> Dismantled:
    """The transport as it is handed to a child that is being started. Raises UsageError at any other time."""
    carry = carrier("an end", transport.limits.mechanism, _REMEDY)
    make, arguments = transport.passable()
    return Dismantled(
        make, tuple(carry(a.number) if isinstance(a, Passed) else a for a in arguments)
    )


def assemble(parts: Dismantled) -> Any:
    """The transport, in the child."""
    return parts.make(*(arrived(a) if hasattr(a, "detach") else a for a in parts.arguments))
