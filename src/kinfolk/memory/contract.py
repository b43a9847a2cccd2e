"""What a kind of shared memory promises. One file a kind keeps it: posix, sysv, memfd, mapped_file.

                       Kind.create ──┐
                                     ▼
    SharedMemory ───────────────> Segment <──────────── mapping <──── buf, arrays, records
                                     ▲         refers            refer
                       Kind.attach ──┘

Rules:
1. A segment is this process's hold on the object: descriptors, or an id, and membership where the lifetime is "peers".
2. A mapping refers to its segment, and whatever looks into the memory refers to its mapping. So the hold lasts as long
   as anything looks into it, and nothing is ever unmapped under a view: no way to do it exists.
3. What is created is reserved before it is mapped, has exactly the mode that was asked for, and gets its name last.
4. Whoever attaches checks what it is, and whose, before it is mapped; and never destroys it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from kinfolk.errors import Unsupported
from kinfolk.memory.address import Address, Lifetime


class Mapping(Protocol):
    """Memory of a segment, as a buffer."""

    def __len__(self) -> int: ...

    def __buffer__(self, flags: int, /) -> memoryview: ...


@dataclass(frozen=True, slots=True)
class Passed:
    """Stands in what a segment is made of for a descriptor that has to be carried to another process."""

    number: int


@dataclass(frozen=True, slots=True)
class Attaching:
    """How somebody wants to attach."""

    read_only: bool
    #: changes are this process's own, and reach nobody
    private: bool
    #: another user whose memory it may be; None for our own and root's alone
    owner: int | None


class Segment:
    """This process's hold on a piece of memory."""

    subject: str
    #: bytes, as the kernel has it when last asked
    size: int
    read_only: bool
    private = False
    lifetime: Lifetime
    #: whether this process's exit has come by (`kinfolk.interpreter_exit`)
    finished = False

    def map(self) -> Mapping:
        """Map all of it. Raises OSError."""
        raise NotImplementedError

    def publish(self) -> None:
        """Give what was created its name, unless it has one. Raises AlreadyExists, OSError."""

    def fileno(self) -> int:
        """Its descriptor. Raises Unsupported where there is none."""
        raise Unsupported(
            "there is no descriptor", subject=self.subject, remedy="pass its id, or use memfd:"
        )

    def identifier(self) -> int:
        """Its System V id. Raises Unsupported where there is none."""
        raise Unsupported(
            "only System V memory has an id",
            subject=self.subject,
            remedy="pass its name, or its descriptor (fileno())",
        )

    def mode(self) -> int:
        """Its permission bits. Raises OSError."""
        raise NotImplementedError

    def chmod(self, mode: int) -> None:
        """Set its permission bits; who has it mapped keeps it. Raises OSError."""
        raise NotImplementedError

    def grow(self, size: int) -> None:
        """Make it larger, with the space reserved. Raises Unsupported, NoSpace, OSError."""
        raise NotImplementedError

    def look(self) -> int:
        """Its size by now, in bytes, made safe to be mapped. Raises OSError."""
        raise NotImplementedError

    def flush(self, mapping: Any, offset: int, size: int) -> None:
        """Write what was changed to where it is kept. Raises OSError."""

    def unlink(self) -> None:
        """Remove the name, or the key; who has it goes on. Raises NotFound, Unsupported, OSError."""
        raise NotImplementedError

    def leave(self) -> None:
        """Be a user no more; the last one removes what has lifetime="peers". Never raises; may be repeated."""

    def expire(self) -> None:
        """The interpreter ends: nobody is inside of memory."""

    def wake(self) -> None:
        """Nobody sleeps in it either."""

    def quiet(self) -> bool:
        """So it may go."""
        return True

    def finish(self) -> None:
        """Leave; what still looks into it may go on until the process has ended."""
        self.finished = True
        self.leave()

    def close(self) -> None:
        """Leave, and give back what is held. Nothing looks into it any more. Never raises; may be repeated."""
        raise NotImplementedError

    def passable(self) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
        """How another process makes its own hold: a module's function, and its arguments, descriptors as `Passed`."""
        raise NotImplementedError


class Kind:
    """A kind of shared memory: how it is created and attached to."""

    scheme: str

    def is_named_at_once(self, address: Address) -> bool:
        """Whether it can be found before it is published."""
        return False

    def check(self, address: Address) -> None:
        """Raise AddressError for a name that there can't be."""
        raise NotImplementedError

    def create(self, address: Address, size: int) -> Segment:
        """A new segment, complete but for its name. Raises AlreadyExists, NoSpace, OSError; NotYet, to be tried again."""
        raise NotImplementedError

    def attach(self, address: Address, how: Attaching) -> Segment:
        """An existing one. Raises NotFound, UntrustedPeer, AddressError, OSError; NotYet, to be tried again."""
        raise NotImplementedError

    def path(self, address: Address) -> str | None:
        """The file that appears when it does; None where no event tells."""
        return None
