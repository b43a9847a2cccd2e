"""What a piece of shared memory is called, and what is asked of it. How an address is written: `kinfolk.addresses`.

shm:/name            POSIX shared memory, /dev/shm/name (shm_overview(7))
sysv-shm:KEY         System V: a number, or /path#proj by way of ftok(3); without a key IPC_PRIVATE
memfd:               no name at all; memfd:N attaches to an inherited or received descriptor (memfd_create(2))
file:/path           a mapped file (mmap(2))
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from kinfolk.addresses import Readers, filled, one_of, read_mode, read_size, split, written
from kinfolk.errors import AddressError

Lifetime = Literal["peers", "name"]


@dataclass(frozen=True, slots=True)
class Options:
    """What may stand in an address, or in the call; None means the kind's own default."""

    #: bytes: of what is created; at least so many of what is attached to
    size: int | None = None
    #: permission bits of what is created
    mode: int | None = None
    lifetime: Lifetime | None = None


_READERS: Readers = {"size": read_size, "mode": read_mode, "lifetime": one_of("peers", "name")}


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address of memory."""

    scheme: str
    name: str
    options: Options

    def __str__(self) -> str:
        return written(self.scheme, self.name)


def parse(text: str, **given: Any) -> Address:
    """Parse an address; ``given`` are the options of the call. Raises AddressError."""
    found = split(
        text, "write kind:name, such as shm:/frames, sysv-shm:1234, file:/path, or memfd: alone"
    )
    return Address(found.scheme, found.name, filled(text, Options(), found, given, _READERS))


def restrict(address: Address, allowed: frozenset[str], doing: str) -> None:
    """Raise AddressError when the address carries an option that plays no part in what is being done."""
    for field in fields(Options):
        if getattr(address.options, field.name) is not None and field.name not in allowed:
            raise AddressError(
                f"{doing} takes no option {field.name!r}",
                subject=str(address),
                remedy="it takes " + ", ".join(sorted(allowed)),
            )
