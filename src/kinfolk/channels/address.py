"""The addresses of channels, and the options that they or a call may carry. How one is written: `kinfolk.addresses`.

Rules:
1. The scheme is the mechanism; the name is its name there.
2. Each mechanism says which options it takes; another one is an error that lists them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from kinfolk.addresses import (
    Readers,
    filled,
    one_of,
    read_flag,
    read_mode,
    read_positive,
    read_size,
    read_whole,
    split,
    written,
)
from kinfolk.errors import AddressError

Codec = Literal["pickle", "msgpack", "json", "raw"]
Framing = Literal["framed", "raw"]
Lifetime = Literal["peers", "name"]


@dataclass(frozen=True, slots=True)
class Options:
    """Every option that some mechanism takes; None means the mechanism's own default."""

    codec: Codec | None = None
    framing: Framing | None = None
    lifetime: Lifetime | None = None
    #: permission bits of what is created
    mode: int | None = None
    #: bytes that the kernel buffers (F_SETPIPE_SZ, SO_SNDBUF, msg_qbytes)
    capacity: int | None = None
    #: bytes of blocks for large messages, of a ring
    arena: int | None = None
    #: messages that a queue holds
    depth: int | None = None
    #: the largest message, in bytes
    max_message: int | None = None
    #: how many processes send: "one" allows long frames on a pipe
    senders: Literal["one", "many"] | None = None
    #: whether who receives a message from a ring has to acknowledge it
    acknowledge: bool | None = None
    #: message type that a System V receiver asks for, or a sender sends
    type: int | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address."""

    scheme: str
    name: str
    options: Options

    def __str__(self) -> str:
        """Scheme and name as `parse` reads them: printable, on one line."""
        return written(self.scheme, self.name)


def parse(text: str, **given: Any) -> Address:
    """Parse an address; ``given`` are the options of the call (None counts as not given).

    Raises AddressError, which says what an address looks like.
    """
    found = split(text, "write mechanism:name, such as fifo:/tmp/f, unix:/run/app.sock or mq:/jobs")
    return Address(found.scheme, found.name, filled(text, Options(), found, given, _READERS))


def restrict(address: Address, allowed: frozenset[str]) -> None:
    """Raise AddressError when the address carries an option outside ``allowed``."""
    for field in fields(Options):
        if getattr(address.options, field.name) is not None and field.name not in allowed:
            raise AddressError(
                f"{address.scheme}: takes no option {field.name!r}",
                subject=str(address),
                remedy="it takes " + ", ".join(sorted(allowed)),
            )


def _message_type(value: Any) -> int:
    number = read_whole(value)
    if not -(2**63) < number < 2**63:
        raise ValueError("a message type is a long")
    return number


_READERS: Readers = {
    "codec": one_of("pickle", "msgpack", "json", "raw"),
    "framing": one_of("framed", "raw"),
    "lifetime": one_of("peers", "name"),
    "mode": read_mode,
    "capacity": read_size,
    "arena": read_size,
    "depth": read_positive,
    "max_message": read_size,
    "senders": one_of("one", "many"),
    "acknowledge": read_flag,
    "type": _message_type,
}
