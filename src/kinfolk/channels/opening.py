"""Opening ends by address: `channel`, `pair`, `open_sender`, `open_receiver`, `connect`, `listen`.

Every function takes an address and, as keywords, the options that may also stand in it (``unix:/run/app.sock?mode=0640``); see
`kinfolk.channels.address.Options` for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kinfolk.channels.address import Address, Codec, parse, restrict
from kinfolk.channels.contract import Mechanism
from kinfolk.channels.end import guarded
from kinfolk.channels.endpoints import Connection, Listener, Receiver, Sender
from kinfolk.channels.mechanisms import SCHEMES, load
from kinfolk.deadlines import Deadline
from kinfolk.errors import AddressError
from kinfolk.interest import Steps
from kinfolk.turnstile import Turnstile
from kinfolk.waiting import arun, run

T = TypeVar("T")


def mechanism_of(address: str, **options: Any) -> tuple[Mechanism, Address]:
    """The mechanism of an address, and the address with its defaults filled in. Raises AddressError."""
    parsed = parse(address, **options)
    if parsed.scheme not in SCHEMES:
        raise AddressError(
            f"there is no mechanism {parsed.scheme!r}",
            subject=address,
            remedy="the mechanisms are " + ", ".join(f"{scheme}:" for scheme in SCHEMES),
        )
    found = load(parsed.scheme)
    restrict(parsed, found.options)
    return found, found.completed(parsed)


def channel(address: str = "pipe:", **options: Any) -> tuple[Receiver, Sender]:
    """Both ends of a one-way channel: ``receiver, sender = kin.channel("pipe:")``.

    For two processes: fork, or pass one of the ends to a child; close the other end on either side.
    Raises AddressError, Unsupported, and what the kernel says.
    """
    found, parsed = mechanism_of(address, **options)
    receiving, sending = _now(found.channel, parsed)
    return Receiver(str(parsed), _codec(parsed), receiving), Sender(
        str(parsed), _codec(parsed), sending
    )


def pair(mechanism: str = "unix:", **options: Any) -> tuple[Connection, Connection]:
    """Two connected ends, each both ways, of a mechanism such as ``"unix:"`` or ``"pipe:"``."""
    found, parsed = mechanism_of(mechanism if ":" in mechanism else mechanism + ":", **options)
    one, other = _now(found.pair, parsed)
    return Connection(str(parsed), _codec(parsed), one), Connection(
        str(parsed), _codec(parsed), other
    )


def open_sender(address: str, *, timeout: float | None = None, **options: Any) -> Sender:
    """Join a channel as a sender, waiting up to ``timeout`` seconds for its receiver.

    Raises Timeout, AddressError, UntrustedPeer, Unsupported, and what the kernel says.
    """
    found, parsed = mechanism_of(address, **options)
    return Sender(str(parsed), _codec(parsed), _wait(found.open_sender, parsed, timeout))


def open_receiver(address: str, *, timeout: float | None = None, **options: Any) -> Receiver:
    """Make a channel's name and receive there. Its first sender is waited for by `recv`, not here.

    ``timeout`` bounds the waiting for a name that somebody else is making or removing just now.
    Raises Busy when another process receives there and only one can, AddressError, UntrustedPeer, Unsupported.
    """
    found, parsed = mechanism_of(address, **options)
    return Receiver(str(parsed), _codec(parsed), _wait(found.open_receiver, parsed, timeout))


def connect(address: str, *, timeout: float | None = None, **options: Any) -> Connection:
    """Connect to a listener, waiting up to ``timeout`` seconds for it to be there."""
    found, parsed = mechanism_of(address, **options)
    return Connection(str(parsed), _codec(parsed), _wait(found.connect, parsed, timeout))


def listen(address: str, *, timeout: float | None = None, **options: Any) -> Listener:
    """Listen for connections at an address. Raises Busy when somebody listens there already.

    ``timeout`` bounds the waiting for a name that somebody else is making or removing just now.
    """
    found, parsed = mechanism_of(address, **options)
    return Listener(str(parsed), _codec(parsed), _wait(found.listen, parsed, timeout))


async def aopen_sender(address: str, *, timeout: float | None = None, **options: Any) -> Sender:
    """`open_sender`, on asyncio."""
    found, parsed = mechanism_of(address, **options)
    return Sender(str(parsed), _codec(parsed), await _await(found.open_sender, parsed, timeout))


async def aopen_receiver(address: str, *, timeout: float | None = None, **options: Any) -> Receiver:
    """`open_receiver`, on asyncio."""
    found, parsed = mechanism_of(address, **options)
    return Receiver(str(parsed), _codec(parsed), await _await(found.open_receiver, parsed, timeout))


async def aconnect(address: str, *, timeout: float | None = None, **options: Any) -> Connection:
    """`connect`, on asyncio."""
    found, parsed = mechanism_of(address, **options)
    return Connection(str(parsed), _codec(parsed), await _await(found.connect, parsed, timeout))


def _codec(address: Address) -> Codec:
    assert address.options.codec is not None  # Mechanism.completed saw to it
    return address.options.codec


_Opening = Callable[[Address], Steps[T]]


def _wait(opening: _Opening[T], address: Address, timeout: float | None) -> T:
    turnstile = Turnstile(str(address), lambda: None)
    return run(
        _steps(opening, address),
        turnstile,
        Deadline(timeout),
        f"{str(address).removesuffix(':')}: open",
    )


async def _await(opening: _Opening[T], address: Address, timeout: float | None) -> T:
    turnstile = Turnstile(str(address), lambda: None)
    return await arun(
        _steps(opening, address),
        turnstile,
        Deadline(timeout),
        f"{str(address).removesuffix(':')}: open",
    )


def _now(opening: _Opening[T], address: Address) -> T:
    return _wait(opening, address, None)


def _steps(opening: _Opening[T], address: Address) -> Steps[T]:
    def begun() -> Steps[T]:  # an opening that waits for nothing does its work when it is called
        return (yield from opening(address))

    return guarded(begun(), "can't open", str(address))
