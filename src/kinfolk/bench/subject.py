"""What is measured: a way to move messages, of kinfolk, of the kernel's own, or of a peer.

    Subject ── lay(terms) ──> Wiring    in the stage, before the fork: what has to be made first
                                │
                fork            ├─ inlet(n)    in the n-th receiving process
                                └─ outlet(n)   in the n-th sending process

Rules:
1. Each is used as its documentation says it is fastest; `why` says in a sentence what that is. No
   one is handicapped, and no one is helped: what is sent are bytes that are there already, what is
   received are all of them, read and compared.
2. A sender hands over one message after the other, as a program does that gets them one after the
   other. A receiver may take as many as are there (`take_many`). What one call each way costs, and
   what batches save, are workloads of their own.
3. `waiting` says what an end does that has nothing to do: it sleeps in the kernel, or burns its
   CPU. The two are never compared with each other as if they cost the same.
4. What a subject can't do (a size, a shape, objects) raises Unsupported from `lay`, `inlet` or
   `outlet`, and stands as that in the results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import kinfolk as kin
from kinfolk.bench.sizes import Shape, format_size

Buffer = bytes | bytearray | memoryview

Family = Literal["kinfolk", "kernel", "peer"]
Waiting = Literal["blocking", "spinning"]


def nothing() -> None:
    """For what needs no closing."""


class Outlet(NamedTuple):
    """A sending end: calls that are as close to the library's own as can be."""

    #: waits while the channel is full
    send: Callable[[Any], object]
    close: Callable[[], object] = nothing
    #: sends several with one call; None where one call sends one
    send_many: Callable[[Sequence[Any]], object] | None = None
    #: so many bytes in which a message is built, and sent at the end of the with block
    reserve: Callable[[int], AbstractContextManager[Any]] | None = None


class Inlet(NamedTuple):
    """A receiving end."""

    #: waits for a message
    take: Callable[[], Any]
    #: waits for a message and takes it with all that came with it; None where one call gets one
    take_many: Callable[[], Sequence[Any]] | None = None
    close: Callable[[], object] = nothing


@dataclass(frozen=True, slots=True)
class Terms:
    """For what a wiring is laid."""

    #: bytes of each message
    size: int
    shape: Shape
    #: a directory for files, which is removed afterwards
    directory: str
    #: a word that no other wiring has, for what lies elsewhere
    name: str
    #: whether arrays are sent, as the library sends objects, instead of bytes
    objects: bool = False


class Wiring:
    """The channel between some processes; what is the same for most."""

    #: whether a message is bound for one receiver when it is sent, also for one that takes no more
    deals = False

    def inlet(self, number: int) -> Inlet:
        """The end of the receiving process with this number; in that process."""
        raise NotImplementedError

    def outlet(self, number: int) -> Outlet:
        """The end of the sending process with this number; in that process."""
        raise NotImplementedError

    def leave(self) -> None:
        """In the stage, when all have been forked: drop what is theirs."""

    def remove(self) -> None:
        """In the stage, when all have ended: nothing is left."""


class TwoWays(NamedTuple):
    """One wiring each way."""

    forth: Wiring
    back: Wiring

    def client(self) -> tuple[Outlet, Inlet]:
        """The side that asks. Both sides open the receiving end first: some senders wait for it."""
        inlet = self.back.inlet(0)
        return self.forth.outlet(0), inlet

    def server(self) -> tuple[Outlet, Inlet]:
        """The side that answers."""
        inlet = self.forth.inlet(0)
        return self.back.outlet(0), inlet

    def leave(self) -> None:
        """Of both."""
        self.forth.leave()
        self.back.leave()

    def remove(self) -> None:
        """Of both."""
        self.forth.remove()
        self.back.remove()


#: What a user may need of a mechanism, beside speed; the words of `kin bench` and of its report.
NEEDS = {
    "crash-safe": "a process killed at any moment neither blocks nor confuses the others",
    "unrelated": "processes find each other by a name, and need no common ancestor",
    "c-peers": "C programs take part with plain system calls, or with a C library of its own",
    "network": "the other end may be on another machine",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to be measured; the registry is `kinfolk.bench.subjects`."""

    name: str
    family: Family
    lay: Callable[[Terms], Wiring]
    #: why this is its fastest documented use
    why: str
    waiting: Waiting = "blocking"
    #: the package that has to be installed; empty where nothing has
    package: str = ""
    #: the module that is imported; the time for it is part of the start-up
    module: str = ""
    #: bytes in the largest message, where it has a fixed limit
    largest: int | None = None
    many_senders: bool = True
    many_receivers: bool = True
    objects: bool = False
    #: whether a message can be built, and read, where it lies
    in_place: bool = False
    #: those of NEEDS that it meets
    meets: frozenset[str] = field(default_factory=frozenset)

    def check(self, terms: Terms) -> None:
        """Raise Unsupported for what is known not to work, before anything is made."""
        if self.largest is not None and terms.size > self.largest and not terms.objects:
            raise self.unsupported(f"a message has {format_size(self.largest)} at most")
        if terms.shape.senders > 1 and not self.many_senders:
            raise self.unsupported("one process sends")
        if terms.shape.receivers > 1 and not self.many_receivers:
            raise self.unsupported("one process receives")
        if terms.objects and not self.objects:
            raise self.unsupported("it moves bytes, and has no way of its own for arrays")

    def unsupported(self, why: str) -> kin.Unsupported:
        """The error for what it can't do."""
        return kin.Unsupported("can't be measured like this", subject=self.name, why=why)
